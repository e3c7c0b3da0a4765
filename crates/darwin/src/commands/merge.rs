//! `darwin merge CONFIG OUT`

use crate::cli::MergeArgs;
use crate::table::human_bytes;
use crate::ui::Ui;
use darwin_core::Failure;
use darwin_merge::{MaskFile, Merge, MergeOptions, Recipe, Sources, merge_to};
use std::process::ExitCode;
use std::sync::Arc;

pub(crate) fn run(arguments: &MergeArgs, ui: &Ui) -> Result<ExitCode, Failure> {
    if let Some((sentence, hint)) = arguments.mergekit.refusal() {
        return Err(Failure::user(sentence).with_hint(hint));
    }
    if let Some(warning) = arguments.mergekit.warning() {
        ui.warn(warning);
    }
    super::use_threads(arguments.threads)?;
    let recipe = recipe(arguments)?;
    let sources = Sources::open(&recipe)?;
    let merge = merge(arguments, &recipe, &sources)?;
    for note in merge.plan().notes() {
        ui.warn(note);
    }
    if arguments.no_copy_tokenizer && recipe.chat_template().is_some() {
        ui.warn("`chat_template` is not written: it belongs to a tokenizer");
    }
    if arguments.no_copy_tokenizer && recipe.vocabulary().is_some() {
        ui.warn("the tokenizer that the recipe asks for is not written, the rows follow it");
    }
    if arguments.json {
        let json = serde_json::to_string_pretty(&merge.plan().manifest())
            .map_err(|e| Failure::user(format!("cannot print JSON: {e}")))?;
        ui.say(json);
    } else if arguments.dry_run || arguments.verbose > 0 {
        ui.say(merge.plan().describe().join("\n"));
    }
    let Some(out) = arguments.out.as_deref().filter(|_| !arguments.dry_run) else {
        return Ok(ExitCode::SUCCESS);
    };
    let options = MergeOptions {
        max_shard_bytes: arguments.out_shard_size,
        memory: arguments.memory,
        documents: documents(arguments, &recipe, &sources, &merge)?,
        progress: ui.progress(),
        cancel: ui.cancel(),
    };
    let written = merge_to(&merge, out, &options)?;
    ui.say(format!(
        "{}: {} tensors, {} in {} shard{}; manifest.json says what was done to each",
        out.display(),
        written.tensors,
        human_bytes(written.bytes),
        written.shards,
        if written.shards == 1 { "" } else { "s" },
    ));
    if written.kept > 0 {
        ui.say(format!("{} shards were there from an interrupted merge", written.kept));
    }
    Ok(ExitCode::SUCCESS)
}

/// The model card, unless it is not wanted; the last flag on the line holds.
fn documents(
    arguments: &MergeArgs,
    recipe: &Recipe,
    sources: &Sources,
    merge: &Merge,
) -> Result<Vec<(String, Vec<u8>)>, Failure> {
    if arguments.no_write_model_card && !arguments.write_model_card {
        return Ok(Vec::new());
    }
    let card = super::card::card(recipe, sources, merge)?;
    Ok(vec![("README.md".to_owned(), card.into_bytes())])
}

fn merge(arguments: &MergeArgs, recipe: &Recipe, sources: &Sources) -> Result<Merge, Failure> {
    let mut merge = Merge::new(recipe, sources)?;
    if let Some(masks) = &arguments.masks {
        merge = merge.with_masks(Arc::new(MaskFile::read(masks)?));
    }
    // Each overrides the other, so that the last one on the line holds.
    if arguments.no_copy_tokenizer && !arguments.copy_tokenizer {
        merge = merge.without_tokenizer();
    }
    Ok(merge)
}

fn recipe(arguments: &MergeArgs) -> Result<Recipe, Failure> {
    let mut recipe = Recipe::load(&arguments.config)?;
    if let (Some(father), Some(mother)) = (&arguments.father, &arguments.mother) {
        let name = |path: &std::path::Path| path.display().to_string();
        recipe = recipe.with_parents(Some(&name(father)), Some(&name(mother)));
    }
    if let Some(seed) = arguments.random_seed {
        recipe = recipe.with_seed(seed);
    }
    if let Some(layout) = arguments.layout {
        recipe = recipe.with_layout(layout.0);
    }
    if arguments.text_only {
        recipe = recipe.text_only();
    }
    if let Some(numerics) = arguments.numerics {
        recipe = recipe.with_numerics(numerics);
    }
    Ok(recipe)
}
