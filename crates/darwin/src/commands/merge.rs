//! `darwin merge CONFIG OUT`

use crate::cli::MergeArgs;
use crate::preflight;
use crate::table::human_bytes;
use crate::ui::Ui;
use darwin_core::Failure;
use darwin_merge::{MaskFile, Merge, MergeOptions, Recipe, Sequence, Sources, merge_to};
use std::path::{Path, PathBuf};
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
    let sequence = sequence(arguments)?;
    let folder = intermediate(arguments);
    let mut made: Vec<(&str, PathBuf)> = Vec::new();
    for step in sequence.steps() {
        let mut recipe = step.recipe.clone();
        for (name, folder) in &made {
            recipe = recipe.with_step(name, folder.clone());
        }
        let missing = made.iter().find(|(name, at)| recipe.models().contains(name) && !at.exists());
        if let Some((name, _)) = missing {
            // Only a dry run comes here.
            let what = step.name.as_deref().unwrap_or("the result");
            ui.say(format!("{what}: planned when `{name}` is merged, whose headers it needs"));
        }
        match &step.name {
            None if missing.is_none() => one(arguments, ui, &recipe, arguments.out.as_deref())?,
            Some(name) => {
                let at = folder.join(name);
                if missing.is_none() {
                    ui.say(format!("{name}:"));
                    one(arguments, ui, &recipe, Some(&at))?;
                }
                made.push((name, at));
            }
            None => {}
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Where the models of named documents are written.
fn intermediate(arguments: &MergeArgs) -> PathBuf {
    let beside = || {
        let mut name =
            arguments.out.as_deref().unwrap_or(Path::new("merge")).as_os_str().to_owned();
        name.push(".steps");
        PathBuf::from(name)
    };
    arguments.intermediate_dir.clone().unwrap_or_else(beside)
}

/// Whether a folder holds just what is planned: a step of an earlier run.
fn is_there(merge: &Merge, out: &Path) -> Result<bool, Failure> {
    if !out.exists() {
        return Ok(false);
    }
    let manifest = std::fs::read(out.join("manifest.json")).ok();
    let found: Option<serde_json::Value> =
        manifest.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let planned = serde_json::to_value(merge.plan().manifest()).ok();
    if found.is_some() && found == planned {
        return Ok(true);
    }
    let text = format!("{} is there and was not made of this document", out.display());
    Err(Failure::user(text).with_hint("remove it, or name another `--intermediate-dir`"))
}

/// Plans and writes one recipe.
fn one(arguments: &MergeArgs, ui: &Ui, recipe: &Recipe, out: Option<&Path>) -> Result<(), Failure> {
    let sources = Sources::open(recipe)?;
    let merge = merge(arguments, recipe, &sources)?;
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
    if let Some(out) = out.filter(|_| !arguments.dry_run)
        && arguments.out.as_deref() != Some(out)
        && is_there(&merge, out)?
    {
        ui.say(format!("{}: there from an earlier run", out.display()));
        return Ok(());
    }
    let memory = preflight::merge(arguments, &merge, out, ui)?;
    let (Some(out), Some(memory)) = (out, memory) else { return Ok(()) };
    let options = MergeOptions {
        max_shard_bytes: arguments.out_shard_size,
        memory,
        documents: documents(arguments, recipe, &sources, &merge)?,
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
    Ok(())
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

fn sequence(arguments: &MergeArgs) -> Result<Sequence, Failure> {
    let sequence = Sequence::load(&arguments.config)?;
    let cache = super::hub_cache(arguments.transformers_cache.as_deref());
    Ok(sequence.map(|name, recipe| {
        let recipe = match &cache {
            Some(cache) => recipe.with_hub_cache(cache.clone()),
            None => recipe,
        };
        changed(arguments, recipe, name.is_none())
    }))
}

/// A recipe with what the command line says of it; how the child is written concerns the result.
fn changed(arguments: &MergeArgs, mut recipe: Recipe, result: bool) -> Recipe {
    if let (Some(father), Some(mother)) = (&arguments.father, &arguments.mother) {
        let name = |path: &std::path::Path| path.display().to_string();
        recipe = recipe.with_parents(Some(&name(father)), Some(&name(mother)));
    }
    if let Some(seed) = arguments.random_seed {
        recipe = recipe.with_seed(seed);
    }
    if let Some(layout) = arguments.layout.filter(|_| result) {
        recipe = recipe.with_layout(layout.0);
    }
    if arguments.text_only && result {
        recipe = recipe.text_only();
    }
    if let Some(numerics) = arguments.numerics {
        recipe = recipe.with_numerics(numerics);
    }
    recipe
}
