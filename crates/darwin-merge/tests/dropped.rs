//! The three layouts of a Qwen3.5-MoE with MTP (tools/parity/dropped.py): what mergekit 0.1.5 loses
//! (`tools/parity/dropped.py`), and that here nothing is lost and everything is merged.

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;
#[path = "common/experts.rs"]
mod experts;
#[path = "common/golden.rs"]
mod fixtures;

use common::{layout, write};
use darwin_checkpoint::{Checkpoint, Dtype, TensorSource, read_tensor};
use darwin_core::fs::write_atomic;
use darwin_core::{Cancel, NoProgress};
use darwin_merge::{Merge, MergeOptions, Recipe, Sources, merge_to};
use serde_json::Value;

/// What mergekit did with a layout: (tensors that its output lacks, tensors copied from one model).
fn mergekit(row: &str) -> [Vec<String>; 2] {
    let text = std::fs::read(fixtures::pair("dropped.json")).unwrap();
    let rows: Value = serde_json::from_slice(&text).unwrap();
    ["lost", "copied"].map(|key| serde_json::from_value(rows[row][key].clone()).unwrap())
}

/// Merges two models in the layouts given, and compares every element with its mean by hand.
fn check(per_expert: [bool; 2]) {
    let folder = tempfile::tempdir().unwrap();
    let models = [experts::model(0, 0.0, 4), experts::model(1, 0.5, 4)];
    for ((model, name), per_expert) in models.iter().zip(["base", "a"]).zip(per_expert) {
        let of = layout(model.manifest(), "model.language_model.", per_expert);
        write(model, &of, &folder.path().join(name));
    }
    let yaml = folder.path().join("recipe.yml");
    let text = "merge_method: linear\nbase_model: base\nmodels:\n  - {model: base, parameters: {weight: 0.2}}\n  \
                - {model: a, parameters: {weight: 0.6}}\n";
    write_atomic(&yaml, text.as_bytes()).unwrap();
    let recipe = Recipe::load(&yaml).unwrap();
    let merge = Merge::new(&recipe, &Sources::open(&recipe).unwrap()).unwrap();
    assert!(merge.plan().left_out().is_empty());
    let out = folder.path().join("out");
    let cancel = Cancel::default();
    let options = MergeOptions {
        max_shard_bytes: 1 << 40,
        memory: 1 << 26,
        documents: Vec::new(),
        progress: &NoProgress,
        cancel: &cancel,
    };
    merge_to(&merge, &out, &options).unwrap();
    let child = Checkpoint::open(&out).unwrap();
    let names = |source: &dyn TensorSource| {
        let mut names: Vec<String> =
            source.manifest().tensors().iter().map(|info| info.name.clone()).collect();
        names.sort();
        names
    };
    assert_eq!(names(&child), names(&models[0]));
    assert_eq!(child.layout().is_per_expert(), per_expert[0], "the base's own layout");
    for (id, info) in child.manifest().ids().zip(child.manifest().tensors()) {
        let values = |source: &dyn TensorSource| {
            read_tensor(source, source.manifest().find(&info.name).unwrap()).unwrap()
        };
        let (x, y) = (values(&models[0]), values(&models[1]));
        let unit = if info.dtype == Dtype::F32 { 1e-6 } else { 1.0 / 256.0 };
        for ((found, x), y) in read_tensor(&child, id).unwrap().iter().zip(x).zip(y) {
            let wanted = 0.25 * f64::from(x) + 0.75 * f64::from(y);
            let gap = (f64::from(*found) - wanted).abs();
            let size = f64::from(x.abs().max(y.abs()));
            assert!(gap <= unit * size, "{}: {found} {wanted}", info.name);
        }
    }
}

fn mtp(names: &[String]) -> usize {
    names.iter().filter(|name| name.starts_with("mtp.")).count()
}

#[test]
fn fused_experts_in_all_models() {
    let [lost, copied] = mergekit("fused");
    assert_eq!((lost.len(), mtp(&lost), copied.len()), (4, 4, 0), "mergekit drops all of MTP");
    check([false, false]);
}

#[test]
fn experts_one_by_one_in_all_models() {
    let [lost, copied] = mergekit("per_expert");
    let routed =
        lost.iter().filter(|name| name.contains("layers") && name.contains(".mlp.experts."));
    assert_eq!((lost.len(), mtp(&lost), copied.len()), (10, 4, 0));
    assert_eq!(routed.count(), 2 * 3 + 2, "mergekit drops every routed expert");
    check([true, true]);
}

#[test]
fn experts_fused_in_one_model_and_one_by_one_in_the_other() {
    let [lost, copied] = mergekit("mixed");
    assert_eq!((lost.len(), mtp(&lost)), (4, 4));
    assert!(copied.iter().all(|name| name.contains(".mlp.experts.")));
    assert_eq!(copied.len(), 6, "mergekit copies the experts of one model unmerged");
    check([true, false]);
    check([false, true]);
}
