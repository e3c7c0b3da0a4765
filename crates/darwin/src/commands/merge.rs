//! `darwin merge CONFIG OUT`

use super::regmean::{self, Activations};
use crate::cli::MergeArgs;
use crate::preflight;
use crate::table::human_bytes;
use crate::ui::Ui;
use darwin_checkpoint::{HashCache, Written, open_output};
use darwin_core::files::MergeManifest;
use darwin_core::fs::{AtomicDir, resolve};
use darwin_core::{Failure, Fault};
use darwin_merge::{MaskFile, Merge, MergeOptions, Recipe, Sequence, Sources, merge_into};
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
    super::use_threads(arguments.threads, ui)?;
    // Before anything is read: hours later is too late to learn that it cannot be written.
    let named = arguments.out.as_deref().filter(|_| !arguments.dry_run);
    let mut out = named.map(open_output).transpose()?;
    let sequence = sequence(arguments)?;
    if arguments.items.is_some() && !sequence.steps().iter().any(|s| s.recipe.needs_activations()) {
        let text = "`--items` is given and nothing of this recipe is solved from activations";
        return Err(Failure::user(text).with_hint("leave it out, or choose `regmean`"));
    }
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
            None if missing.is_none() => {
                let out = out.take().map(Output::Opened);
                one(arguments, ui, &recipe, out)?;
            }
            Some(name) => {
                let at = folder.join(name);
                if missing.is_none() {
                    ui.say(format!("{name}:"));
                    let step = Some(Output::Step(&at)).filter(|_| !arguments.dry_run);
                    one(arguments, ui, &recipe, step)?;
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
        let out = arguments.out.as_deref().unwrap_or(Path::new("merge"));
        // Without a slash at the end, and with a name: beside the output, not in it.
        let plain: PathBuf = out.components().collect();
        let named = plain.file_name().is_some();
        let out = if named { plain } else { resolve(out).unwrap_or(plain) };
        let mut name = out.into_os_string();
        name.push(".steps");
        PathBuf::from(name)
    };
    arguments.intermediate_dir.clone().unwrap_or_else(beside)
}

/// Whether a folder holds just what is planned, every shard as it was written: a step of an earlier
/// run. The same document's step of other parents, or a damaged one, is removed, to be made anew.
///
/// # Errors
/// What is no step of this document is refused: it may be somebody's work.
fn is_there(merge: &Merge, out: &Path, hashes: &HashCache, ui: &Ui) -> Result<bool, Failure> {
    if !out.exists() {
        return Ok(false);
    }
    let planned = merge.plan().manifest();
    let manifest = std::fs::read(out.join("manifest.json")).ok();
    let found: Option<MergeManifest> =
        manifest.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let Some(found) = found.filter(|found| document(found) == document(&planned)) else {
        let text = format!("{} is there and was not made of this document", out.display());
        let hint = "remove it, or name another `--intermediate-dir`";
        return Err(Failure::user(text).with_hint(hint));
    };
    let why = if found == planned {
        let damaged = hashes.check_sums(out, ui.progress(), ui.cancel())?;
        hashes.save();
        match damaged {
            None => return Ok(true),
            Some(file) => format!("{} is not what was written", file.display()),
        }
    } else if found.inputs != planned.inputs {
        "it was made of other parents".to_owned()
    } else {
        "another version of Darwin made it".to_owned()
    };
    ui.note(format!("{} is made anew: {why}", out.display()));
    std::fs::remove_dir_all(out).map_err(|e| {
        Failure::new(Fault::Environment, format!("cannot remove {}: {e}", out.display()))
    })?;
    Ok(false)
}

/// What a manifest says of the document alone, whatever its parents are.
fn document(manifest: &MergeManifest) -> MergeManifest {
    let mut document = manifest.clone();
    document.schema = 0;
    document.arithmetic = 0;
    document.darwin.clear();
    document.recipe_sha256.clear();
    document.inputs.values_mut().for_each(|input| input.fingerprint = None);
    document
}

/// Where a recipe's child goes.
enum Output<'a> {
    /// The result's folder, opened before everything else.
    Opened(AtomicDir),
    /// A folder for the model of a named document; one that is there already may be that.
    Step(&'a Path),
}

/// Plans and writes one recipe; without an output it is planned alone.
fn one(
    arguments: &MergeArgs,
    ui: &Ui,
    recipe: &Recipe,
    out: Option<Output<'_>>,
) -> Result<(), Failure> {
    let mut sources = Sources::open(recipe)?;
    let mut merge = merge(arguments, recipe, &sources)?;
    for note in merge.plan().notes() {
        ui.warn(note);
    }
    if arguments.no_copy_tokenizer && recipe.chat_template().is_some() {
        ui.warn("`chat_template` is not written: it belongs to a tokenizer");
    }
    if arguments.no_copy_tokenizer && recipe.vocabulary().is_some() {
        ui.warn("the tokenizer that the recipe asks for is not written, the rows follow it");
    }
    let place = match &out {
        None => arguments.out.as_deref(),
        Some(Output::Opened(dir)) => Some(dir.named()),
        // Nothing is written where it is there already.
        Some(Output::Step(at)) => Some(*at).filter(|at| !at.exists()),
    };
    let activations = Activations::of(arguments, recipe, &sources, &merge)?;
    let solving = activations.as_ref().map(|activations| &activations.outlook);
    let memory = preflight::merge(arguments, &merge, place, solving, ui)?;
    let mut bound = recipe.clone();
    let hashes = super::hash_cache();
    if !arguments.dry_run {
        sources.identify(&hashes, ui.progress(), ui.cancel())?;
        hashes.save();
        if let Some(activations) = &activations {
            bound = activations.bind(recipe, ui)?;
            merge = self::merge(arguments, &bound, &sources)?;
        }
        merge.name_inputs(&bound, &sources);
    }
    let recipe = &bound;
    if arguments.json {
        let json = serde_json::to_string_pretty(&merge.plan().manifest())
            .map_err(|e| Failure::user(format!("cannot print JSON: {e}")))?;
        ui.say(json);
    } else if arguments.dry_run || arguments.verbose > 0 {
        ui.say(merge.plan().describe().join("\n"));
    }
    if let Some(activations) = activations.as_ref().filter(|_| arguments.dry_run && !arguments.json)
    {
        ui.say(activations.describe()?);
    }
    let dir = match out {
        None => return Ok(()),
        Some(Output::Step(at)) if is_there(&merge, at, &hashes, ui)? => {
            ui.say(format!("{}: there from an earlier run", at.display()));
            return Ok(());
        }
        Some(Output::Step(at)) => open_output(at)?,
        Some(Output::Opened(dir)) => dir,
    };
    let out = dir.named().to_owned();
    let folder = regmean::folder(&out);
    if let Some(activations) = &activations {
        merge = activations.solve(merge, recipe, &folder, ui)?;
    }
    let options = MergeOptions {
        max_shard_bytes: arguments.out_shard_size,
        memory,
        documents: documents(arguments, recipe, &sources, &merge)?,
        progress: ui.progress(),
        cancel: ui.cancel(),
    };
    let written = merge_into(&merge, dir, &options)?;
    if activations.is_some() {
        drop(merge);
        regmean::forget(&folder)?;
    }
    hashes.learn(&out);
    hashes.save();
    tell(&written, &out, ui);
    Ok(())
}

/// Says what was written.
fn tell(written: &Written, out: &Path, ui: &Ui) {
    if written.discarded > 0 {
        let shards = written.discarded;
        let what = "of an interrupted merge of another recipe or other parents";
        ui.note(format!("the child is made anew: {shards} finished shards {what} were there"));
    }
    for shard in &written.spoiled {
        ui.warn(format!("{shard} of an interrupted merge was damaged: it was made anew"));
    }
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
