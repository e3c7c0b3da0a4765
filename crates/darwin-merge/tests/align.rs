//! `darwin: {align: experts}`: a model whose experts stand in another order merges as if they did
//! not (method 1.5).

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;
#[path = "common/experts.rs"]
mod experts;

use common::{bytes, layout, write};
use darwin_checkpoint::{Dtype, MemorySource, TensorSource, read_tensor};
use darwin_core::fs::write_atomic;
use darwin_core::keyed::{Key, Rng};
use darwin_core::{Cancel, Diagnose, NoProgress, Share};
use darwin_merge::{Align, Merge, MergeOptions, Recipe, Sources, merge_to};
use experts::model;
use std::path::Path;
use std::sync::Arc;

/// The same model with its experts in another order in each block.
fn shuffled(model: &MemorySource) -> MemorySource {
    let manifest = model.manifest();
    let tensors = manifest.ids().zip(manifest.tensors()).map(|(id, info)| {
        let values = read_tensor(model, id).unwrap();
        let belongs = info.name.contains(".experts.") || info.name.contains(".gate.");
        let values = if belongs {
            let block = info.name.split(".mlp.").next().unwrap();
            let experts = info.shape[0];
            let mut order: Vec<usize> = (0..experts).collect();
            Rng::new(Key::new(9, &["order", block]), 0).shuffle(&mut order);
            let size = values.len() / experts;
            order.iter().flat_map(|e| values[e * size..(e + 1) * size].to_vec()).collect()
        } else {
            values
        };
        (info.name.clone(), info.dtype, info.shape.clone(), values)
    });
    MemorySource::new("shuffled", model.config().clone(), tensors.collect()).unwrap()
}

/// A fused father, a mother in either layout.
fn write_parents(folder: &Path, father: &MemorySource, mother: &MemorySource, per_expert: bool) {
    let of = layout(father.manifest(), "model.language_model.", false);
    write(father, &of, &folder.join("father"));
    let of = layout(mother.manifest(), "model.language_model.", per_expert);
    write(mother, &of, &folder.join("mother"));
}

struct Written {
    tensors: Vec<(String, String, Vec<u8>)>,
    notes: Vec<String>,
}

fn merged(folder: &Path, text: &str, options: (usize, u64, u64)) -> Written {
    let (threads, max_shard_bytes, memory) = options;
    let yaml = folder.join("recipe.yml");
    write_atomic(&yaml, text.as_bytes()).unwrap();
    let recipe = Recipe::load(&yaml).unwrap();
    let merge = Merge::new(&recipe, &Sources::open(&recipe).unwrap()).unwrap();
    let out = folder.join("out");
    let cancel = Cancel::default();
    let options = MergeOptions {
        max_shard_bytes,
        memory,
        documents: Vec::new(),
        progress: &NoProgress,
        cancel: &cancel,
    };
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    pool.install(|| merge_to(&merge, &out, &options).unwrap());
    let written = Written { tensors: bytes(&out), notes: merge.plan().notes().to_vec() };
    std::fs::remove_dir_all(&out).unwrap();
    written
}

const ONE_SHARD: (usize, u64, u64) = (1, 1 << 40, 1 << 26);

/// Recipes with a place for more lines of `darwin:`.
fn recipes() -> Vec<String> {
    let both = "models: [{model: father}, {model: mother}]\n";
    let blend = "darwin:\n  father: father\n  mother: mother\n  t: {default: 0.4, components: {routed: 0.7}}\n";
    vec![
        format!("merge_method: linear\n{both}{blend}"),
        format!("merge_method: slerp\n{both}{blend}  router: mother\n  unit: expert\n"),
        format!("merge_method: dare_ties\nbase_model: father\n{both}{blend}  density: 0.6\n  seed: 3\n  router: blend\n"),
        format!("merge_method: linear\n{both}{blend}  copy: [{{filter: experts, from: mother}}]\n  router: row_with_expert\n"),
        "merge_method: ties\nbase_model: father\nparameters: {normalize: false}\nmodels:\n  - {model: father}\n  - {model: mother, \
         parameters: {weight: 0.5, density: 0.5}}\ndarwin:\n  structure: father\n"
            .to_owned(),
        "merge_method: della\nbase_model: father\nparameters: {normalize: false}\nmodels:\n  - {model: mother, parameters: {weight: 0.5, \
         density: 0.5}}\ndarwin:\n  structure: father\n"
            .to_owned(),
    ]
}

#[test]
fn shuffled_experts_merge_as_if_they_stood_in_order() {
    let (father, mother) = (model(0, 0.0, 8), model(1, 0.4, 8));
    for per_expert in [false, true] {
        let (plain, moved) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        write_parents(plain.path(), &father, &mother, per_expert);
        write_parents(moved.path(), &father, &shuffled(&mother), per_expert);
        for recipe in recipes() {
            let wanted = merged(plain.path(), &recipe, ONE_SHARD);
            let unaligned = merged(moved.path(), &recipe, ONE_SHARD);
            assert_ne!(wanted.tensors, unaligned.tensors, "the order matters: {recipe}");
            let aligned = format!("{recipe}  align: experts\n");
            for options in [ONE_SHARD, (3, 700, 1 << 12)] {
                let found = merged(moved.path(), &aligned, options);
                assert_eq!(found.tensors, wanted.tensors, "{recipe}");
                let said = "experts of `mother` are moved in 5 of 5 blocks";
                assert!(found.notes.iter().any(|n| n.contains(said)), "{:?}", found.notes);
            }
        }
    }
}

/// Experts of more elements than are looked at.
#[test]
fn large_experts_are_found_by_a_sample() {
    let (father, mother) = common::pair();
    let (plain, moved) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write_parents(plain.path(), &father, &mother, true);
    write_parents(moved.path(), &father, &shuffled(&mother), true);
    let recipe = "merge_method: linear\nmodels: [{model: father}, {model: mother}]\ndarwin: {father: father, mother: mother, t: {default: 0.3}, align: experts}\n";
    let wanted = merged(plain.path(), recipe, ONE_SHARD);
    assert_eq!(merged(moved.path(), recipe, ONE_SHARD).tensors, wanted.tensors);
}

fn planned(father: MemorySource, mother: MemorySource, text: &str) -> Result<Merge, String> {
    let mut sources = Sources::new();
    sources.insert("father", Arc::new(father));
    sources.insert("mother", Arc::new(mother));
    Merge::new(&Recipe::parse(text).unwrap(), &sources).map_err(|e| e.to_string())
}

const BLEND: &str = "merge_method: linear\nmodels: [{model: father}, {model: mother}]\ndarwin: {father: father, mother: mother, t: {default: 0.5}, align: experts}\n";

#[test]
fn the_manifest_says_what_moved() {
    let mother = model(1, 0.4, 8);
    let merge = planned(model(0, 0.0, 8), shuffled(&mother), BLEND).unwrap();
    let manifest = merge.plan().manifest();
    let blocks: Vec<&str> = manifest.aligned["mother"].keys().map(String::as_str).collect();
    assert_eq!(blocks.len(), 5);
    assert_eq!(blocks[3..], ["layers.3.mlp", "mtp.layers.0.mlp"]);
    let order = &manifest.aligned["mother"]["layers.1.mlp"];
    let moved = order.iter().enumerate().filter(|(i, j)| i != *j).count();
    let text = format!("{moved} of 8 experts of `mother` moved");
    let line =
        |name: &str| manifest.tensors.iter().find(|line| line.tensor.contains(name)).unwrap();
    assert!(line("layers.1.mlp.experts.down_proj").reason.ends_with(&text));
    assert!(!line("layers.1.self_attn.q_proj").reason.contains("moved"));
    let described = merge.plan().describe().join("\n");
    assert!(described.contains(&format!("note: align: layers.1.mlp: {text}")), "{described}");
    assert!(described.contains("of weights were read to find out"), "{described}");
    // What was taken, by hand: expert `i` of the father beside the mother's `order[i]`.
    let (a, b) = (model(0, 0.0, 8), shuffled(&mother));
    let id = a.manifest().find("layers.1.mlp.gate.e_score_correction_bias").unwrap();
    let (x, y) = (read_tensor(&a, id).unwrap(), read_tensor(&b, id).unwrap());
    let rule = BLEND.replace("align", "router: blend, align");
    let found = read_tensor(&planned(a, b, &rule).unwrap(), id).unwrap();
    for (i, found) in found.iter().enumerate() {
        let mean = 0.5 * (f64::from(x[i]) + f64::from(y[order[i]]));
        assert!((f64::from(*found) - mean).abs() < 1e-6);
    }
}

#[test]
fn siblings_stay_as_they_are() {
    let merge = planned(model(0, 0.0, 8), model(1, 0.8, 8), BLEND).unwrap();
    assert!(merge.plan().manifest().aligned.is_empty());
    let said = "the experts of `mother` correspond to those of `father` already";
    assert!(merge.plan().notes().iter().any(|note| note.contains(said)));
    let without = BLEND.replace(", align: experts", "");
    let plain = planned(model(0, 0.0, 8), model(1, 0.8, 8), &without).unwrap();
    for id in merge.manifest().ids() {
        assert_eq!(read_tensor(&merge, id).unwrap(), read_tensor(&plain, id).unwrap());
    }
    let (a, b) = (Recipe::parse(BLEND).unwrap(), Recipe::parse(&without).unwrap());
    assert_ne!(a.logical_yaml(), b.logical_yaml());
    assert_eq!(Recipe::parse(&a.to_yaml()).unwrap(), a);
    assert!(a.to_yaml().contains("  align: experts\n"));
    let half = Share::new(0.5).unwrap();
    let built =
        Recipe::blend("linear", "father", "mother").default_share(half).align(Align::Experts);
    assert_eq!(built.build().unwrap().logical_yaml(), a.logical_yaml());
}

#[test]
fn what_cannot_be_aligned_is_refused() {
    // Copies alone would let models of other sizes through.
    let all = "copy: [{layers: all, from: father}], align";
    let error = planned(model(0, 0.0, 8), model(1, 0.4, 6), &BLEND.replace("align", all)).err();
    let refused = |text: &str| {
        let error = Recipe::parse(text).unwrap_err();
        format!("{error}\n  hint: {}", error.hint().unwrap_or_default())
    };
    let slices = "merge_method: linear\nslices:\n  - sources:\n      - {model: a, layer_range: [0, 1], \
                  parameters: {weight: 1}}\ndarwin: {align: experts}\n";
    let said = [
        error.unwrap(),
        refused(&BLEND.replace("align: experts", "align: expert")),
        refused(&BLEND.replace("align: experts", "aling: experts")),
        refused(slices),
    ];
    insta::assert_snapshot!("align_refused", said.join("\n"));
}

/// A model without a router, and one with experts in no block of the other.
#[test]
fn dense_models_have_nothing_to_align() {
    let dense = || {
        let tensors =
            vec![("embed_tokens.weight".to_owned(), Dtype::F32, vec![2, 2], vec![1.0; 4])];
        MemorySource::new("dense", common::config(true), tensors).unwrap()
    };
    let merge = planned(dense(), dense(), BLEND).unwrap();
    let said = "`mother` and `father` have no routed experts in common";
    assert!(merge.plan().notes().iter().any(|note| note.contains(said)));
}
