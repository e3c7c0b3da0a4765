//! The model card of a single merge: what was done, and that nothing was measured.

use crate::error::Result;
use crate::markdown::{fenced, markdown, quoted, render};
use darwin_core::files::{Action, ManifestLine, MergeManifest};
use serde::Serialize;
use std::collections::BTreeMap;

/// A model of a merge.
#[derive(Clone, Debug)]
pub struct CardModel {
    /// What the recipe calls it.
    pub name: String,
    /// What it is called elsewhere, best on the Hub.
    pub title: String,
    /// Its commit on the Hub, where it lies in the Hub's cache.
    pub revision: Option<String>,
    /// The licence that its files state.
    pub license: Option<String>,
    /// What it is for beside being merged, such as `base model`.
    pub part: String,
}

/// What a card says of a merge.
#[derive(Clone, Copy, Debug)]
pub struct MergeCard<'a> {
    /// The child's name.
    pub title: &'a str,
    /// The method's name, a sentence about it, where it comes from.
    pub method: [&'a str; 3],
    /// The models in the recipe's order.
    pub models: &'a [CardModel],
    /// `manifest.json`.
    pub manifest: &'a MergeManifest,
    /// The recipe.
    pub recipe: &'a str,
    /// The seed of its masks.
    pub seed: u64,
    /// What deserves a look.
    pub notes: &'a [String],
}

/// Everything that the template sees, escaped.
#[derive(Serialize)]
struct Card {
    license: Option<String>,
    base_model: Vec<String>,
    title: String,
    method: String,
    about: String,
    source: String,
    models: Vec<[String; 4]>,
    actions: Vec<(&'static str, usize)>,
    left_out: Vec<String>,
    notes: Vec<String>,
    numerics: &'static str,
    seed: u64,
    recipe: String,
    recipe_sha256: String,
    inputs: Vec<(String, String)>,
    darwin: String,
}

/// The card of a merge: a `README.md` with Hugging Face metadata.
///
/// # Errors
/// [`crate::ReportError::Template`] where the template does not fit, which is a bug.
pub fn merge_card(card: &MergeCard<'_>) -> Result<String> {
    render("merge_card.md", include_str!("templates/merge_card.md"), data(card))
}

fn data(card: &MergeCard<'_>) -> Card {
    let manifest = card.manifest;
    let mut base_model: Vec<String> = card.models.iter().map(|m| quoted(&m.title)).collect();
    base_model.sort();
    base_model.dedup();
    let [method, about, source] = card.method;
    Card {
        license: common_license(card.models).map(quoted),
        base_model,
        title: markdown(card.title),
        method: markdown(method),
        about: markdown(about),
        source: markdown(source),
        models: card.models.iter().map(|model| row(model, manifest)).collect(),
        actions: actions(&manifest.tensors),
        left_out: left_out(&manifest.left_out),
        notes: card.notes.iter().map(|note| markdown(note)).collect(),
        numerics: match manifest.numerics.as_str() {
            "mergekit" => "as mergekit 0.1.5: rounded after every step",
            _ => "in float32, rounded once to the dtype that is written",
        },
        seed: card.seed,
        recipe: fenced(card.recipe),
        recipe_sha256: markdown(&manifest.recipe_sha256),
        inputs: card.models.iter().filter_map(|model| input(model, manifest)).collect(),
        darwin: markdown(&manifest.darwin),
    }
}

/// A model as the lineage has it: its title with the commit on the Hub, and its fingerprint.
fn input(model: &CardModel, manifest: &MergeManifest) -> Option<(String, String)> {
    let fingerprint = manifest.inputs.get(&model.name)?.fingerprint.as_ref()?;
    let revision = model.revision.as_deref().filter(|_| !model.title.contains('@'));
    let title = match revision {
        Some(revision) => format!("{}@{revision}", model.title),
        None => model.title.clone(),
    };
    Some((markdown(&title), fingerprint.to_string()))
}

/// The licence that all models state; none where one states nothing or another.
fn common_license(models: &[CardModel]) -> Option<&str> {
    let mut stated = models.iter().map(|model| model.license.as_deref());
    let first = stated.next()??;
    stated.all(|license| license == Some(first)).then_some(first)
}

/// Name, part, parameters and licence.
fn row(model: &CardModel, manifest: &MergeManifest) -> [String; 4] {
    let license = model.license.as_deref().unwrap_or("its files state none");
    [&model.title, &model.part, &parameters(&model.name, &manifest.tensors), license].map(markdown)
}

/// A model's parameters: a value where all tensors share it, else from the least to the largest.
fn parameters(model: &str, lines: &[ManifestLine]) -> String {
    let mut found: BTreeMap<&str, (Vec<f64>, Vec<String>)> = BTreeMap::new();
    let sources = lines.iter().flat_map(|line| &line.sources);
    for (name, setting) in sources.filter(|s| s.model == model).flat_map(|s| &s.parameters) {
        let (numbers, words) = found.entry(name).or_default();
        match setting.value.as_f64() {
            Some(number) => numbers.push(number),
            None => words.push(setting.value.to_string()),
        }
    }
    let texts = found.into_iter().map(|(name, (numbers, mut words))| {
        let least = numbers.iter().copied().fold(f64::INFINITY, f64::min);
        let largest = numbers.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        if !numbers.is_empty() {
            words.push(match least < largest {
                true => format!("{least} to {largest}"),
                false => least.to_string(),
            });
        }
        words.sort();
        words.dedup();
        format!("{name} {}", words.join(", "))
    });
    texts.collect::<Vec<_>>().join("; ")
}

fn actions(lines: &[ManifestLine]) -> Vec<(&'static str, usize)> {
    let kinds = [
        (Action::Blend, "merged"),
        (Action::Copy, "copied from one model"),
        (Action::Passthrough, "passed through"),
    ];
    let count = |action| lines.iter().filter(|line| line.action == action).count();
    let counted = kinds.into_iter().map(|(action, word)| (word, count(action)));
    counted.filter(|(_, count)| *count > 0).collect()
}

/// Tensors that are in no output, by model and reason.
fn left_out(tensors: &BTreeMap<String, String>) -> Vec<String> {
    let mut groups: BTreeMap<(&str, &str), Vec<&str>> = BTreeMap::new();
    for (tensor, reason) in tensors {
        let (model, name) = tensor.rsplit_once(": ").unwrap_or(("", tensor));
        groups.entry((model, reason)).or_default().push(name);
    }
    let sentence = |((model, reason), names): ((&str, &str), Vec<&str>)| {
        let shown = names.iter().take(3).map(|name| markdown(name)).collect::<Vec<_>>().join(", ");
        let more = if names.len() > 3 { ", …" } else { "" };
        let (model, reason) = (markdown(model), markdown(reason));
        format!("{} of {model} ({shown}{more}): {reason}", names.len())
    };
    groups.into_iter().map(sentence).collect()
}
