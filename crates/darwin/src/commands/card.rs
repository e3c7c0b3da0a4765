//! The model card beside a merge.

use darwin_core::Failure;
use darwin_merge::{HubRef, Merge, Recipe, Sources};
use darwin_report::{CardModel, MergeCard, merge_card};
use std::path::Path;

/// The card of the child. It does not know the child's folder: the same merge gives the same bytes.
pub(crate) fn card(recipe: &Recipe, sources: &Sources, merge: &Merge) -> Result<String, Failure> {
    let models = recipe.models().into_iter().map(|model| about(recipe, sources, model));
    let mut models = models.collect::<Result<Vec<_>, Failure>>()?;
    tell_apart(recipe, &mut models);
    let titles: Vec<&str> = models.iter().map(|model| model.title.as_str()).collect();
    let method = recipe.method();
    Ok(merge_card(&MergeCard {
        title: &format!("Merge of {}", titles.join(", ")),
        method: [method.name, method.about, &published(method.source)],
        models: &models,
        manifest: &merge.plan().manifest(),
        recipe: merge.recipe_text(),
        seed: recipe.darwin().seed.unwrap_or(0),
        notes: merge.plan().notes(),
    })?)
}

fn about(recipe: &Recipe, sources: &Sources, model: &str) -> Result<CardModel, Failure> {
    let checkpoint = sources.checkpoint(model);
    let (title, license) = match checkpoint {
        Some(checkpoint) => (checkpoint.hub_name()?, checkpoint.license()?),
        None => (None, None),
    };
    // The cache of the Hub says more surely than the model's files which model it is.
    let hub = checkpoint.and_then(|checkpoint| HubRef::of_snapshot(checkpoint.folder()));
    let mut parts = Vec::new();
    if recipe.base() == Some(model) {
        parts.push("base model");
    }
    if recipe.structure() == model {
        parts.push("gives layout and config");
    }
    if recipe.tokenizer() == model {
        parts.push("gives the tokenizer");
    }
    Ok(CardModel {
        name: model.to_owned(),
        title: match &hub {
            Some(hub) => hub.name.clone(),
            None => title.unwrap_or_else(|| name(&recipe.resolve(model))),
        },
        revision: hub.map(|hub| hub.revision),
        license,
        part: parts.join(", "),
    })
}

/// Models that were trained from one model may state its name: then each has its folder's.
fn tell_apart(recipe: &Recipe, models: &mut [CardModel]) {
    let titles: Vec<String> = models.iter().map(|model| model.title.clone()).collect();
    for model in models.iter_mut() {
        if titles.iter().filter(|title| **title == model.title).count() > 1 {
            let folder = recipe.resolve(&model.name);
            model.title = match HubRef::of_snapshot(&folder) {
                Some(hub) => hub.full_name(),
                None => name(&folder),
            };
        }
    }
}

/// Where a method was published, without the file of mergekit that computes it.
fn published(source: &str) -> String {
    let parts = source.split("; ").filter(|part| !part.starts_with("mergekit 0.1.5"));
    let parts: Vec<&str> = parts.collect();
    if parts.is_empty() { "mergekit".to_owned() } else { parts.join("; ") }
}

/// The folder's name.
fn name(folder: &Path) -> String {
    let whole = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
    match whole.file_name() {
        Some(name) => name.to_string_lossy().into_owned(),
        None => whole.display().to_string(),
    }
}
