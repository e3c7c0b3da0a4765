//! Targets that read YAML: recipes and the configurations of runs.

use crate::models;
use crate::scratch::{folder, put};
use darwin_checkpoint::{TensorSource, read_tensor};
use darwin_core::{Cancel, NoProgress, Split};
use darwin_evolve::RunConfig;
use darwin_merge::{Merge, MergeOptions, Recipe, Sequence, Sources, merge_to};
use std::path::Path;

/// The tensors of a child that are read.
const READ: usize = 20;

/// One recipe or more; what is accepted is planned against three tiny models and read.
pub(crate) fn recipe(input: &[u8]) {
    let folder = folder("recipe", |folder| {
        for (seed, name) in [(1, "base"), (2, "father"), (3, "mother")] {
            models::write_llama(&folder.join(name), seed);
        }
    });
    let path = folder.join("recipe.yaml");
    put(&path, input);
    let Ok(sequence) = Sequence::load(&path) else { return };
    for step in sequence.steps() {
        let yaml = step.recipe.to_yaml();
        match Recipe::parse(&yaml) {
            Ok(again) => assert_eq!(again.to_yaml(), yaml, "the canonical form is its own"),
            Err(e) => panic!("the canonical form is not read: {e}\n{yaml}"),
        }
        let _ = step.recipe.describe();
        let _ = step.recipe.logical_yaml();
        plan(&step.recipe);
    }
}

/// The file of shares beside a recipe of two models with experts.
pub(crate) fn shares(input: &[u8]) {
    const TEXT: &str = "merge_method: linear\nmodels: [{model: father}, {model: mother}]\ndarwin: \
        {father: father, mother: mother, t: {default: 0.5, groups: shares.safetensors}}\n";
    let folder = folder("shares", |folder| {
        for name in ["father", "mother"] {
            models::write_moe(&folder.join(name));
        }
        put(&folder.join("recipe.yaml"), TEXT.as_bytes());
    });
    put(&folder.join("shares.safetensors"), input);
    let Ok(recipe) = Recipe::load(&folder.join("recipe.yaml")) else { return };
    let Some(groups) = recipe.groups() else { return };
    let again = folder.join("again.yaml");
    recipe.save(&again).expect("a folder for temporary files");
    let again = Recipe::load(&again).expect("what was written is read");
    assert_eq!(again.groups(), Some(groups), "shares are read back");
    assert_eq!(again.logical_yaml(), recipe.logical_yaml());
    let _ = recipe.describe();
    plan(&recipe);
}

/// Plans a recipe where all its models are there, and reads of the child.
fn plan(recipe: &Recipe) {
    let Ok(sources) = Sources::open(recipe) else { return };
    let Ok(merge) = Merge::new(recipe, &sources) else { return };
    let _ = merge.plan().describe();
    for id in merge.manifest().ids().take(READ) {
        let info = merge.manifest().get(id);
        if info.dtype.is_mergeable()
            && let Ok(values) = read_tensor(&merge, id)
        {
            assert_eq!(values.len(), info.elements(), "{}", info.name);
        }
    }
}

/// Writes a model as the child of a recipe that copies it.
pub(crate) fn write_passthrough(model: &Path) {
    let text = format!("merge_method: passthrough\nmodels:\n  - model: {}\n", model.display());
    let Ok(recipe) = Recipe::parse(&text) else { return };
    let Ok(sources) = Sources::open(&recipe) else { return };
    let Ok(merge) = Merge::new(&recipe, &sources) else { return };
    let out = model.with_extension("child");
    let options = MergeOptions {
        max_shard_bytes: 1 << 30,
        memory: 1 << 24,
        documents: Vec::new(),
        progress: &NoProgress,
        cancel: &Cancel::default(),
    };
    let written = merge_to(&merge, &out, &options);
    if written.is_ok() {
        let child = darwin_checkpoint::Checkpoint::open(&out).expect("what was written is read");
        let sorted = |manifest: &darwin_checkpoint::Manifest| {
            let mut tensors = manifest.tensors().to_vec();
            tensors.sort_by(|a, b| a.name.cmp(&b.name));
            tensors
        };
        let (found, planned) = (sorted(child.manifest()), sorted(merge.manifest()));
        assert_eq!(found, planned, "the child holds what was planned");
        std::fs::remove_dir_all(&out).expect("written above");
    }
}

/// The configuration of a run.
pub(crate) fn run_config(input: &[u8]) {
    let path = folder("run", |_| ()).join("run.yaml");
    put(&path, input);
    let Ok(config) = RunConfig::read(&path) else { return };
    for split in [Split::Calibration, Split::Proxy, Split::Test] {
        let _ = config.items_of(split);
    }
    // A key that does nothing is not kept.
    let config = RunConfig { rank_check: None, ..config };
    // JSON is YAML: what is kept in the run's folder must be accepted like what the user wrote.
    put(&path, &serde_json::to_vec(&config).expect("plain data"));
    match RunConfig::read(&path) {
        Ok(again) => assert_eq!(again, config, "a configuration is read back"),
        Err(e) => panic!("a configuration that was accepted is not read back: {e}"),
    }
}
