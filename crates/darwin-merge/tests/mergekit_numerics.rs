//! `numerics: mergekit` against mergekit 0.1.5 itself (`tools/parity/mergekit.py`), to the bit.
//!
//! Masks of DARE are drawn here, from the same stream; those of TIES in bfloat16 are handed over,
//! since mergekit's unstable sort decides between equal magnitudes. Only slerp may differ, in the
//! last bits: its f32 norms are added up in an order that torch chooses by processor.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test")]

#[path = "common/golden.rs"]
mod fixtures;

use darwin_checkpoint::{Checkpoint, Dtype, TensorSource, canonical_name, read_tensor};
use darwin_merge::{Error, MaskFile, Merge, Numerics, Recipe, Sources};
use fixtures::{cases, each_pair, pair, read_file};
use std::path::Path;
use std::sync::Arc;

/// The seed that mergekit ran with.
const SEED: u64 = 42;

fn open(pair: &Path, case: &str) -> Merge {
    let merge = merge(pair, case, SEED).unwrap();
    let masks = pair.join(format!("cases/{case}.masks.safetensors"));
    if case.starts_with("ties") && masks.exists() {
        return merge.with_masks(Arc::new(MaskFile::read(&masks).unwrap()));
    }
    merge
}

fn merge(pair: &Path, case: &str, seed: u64) -> Result<Merge, Error> {
    let recipe = Recipe::load(&pair.join(format!("cases/{case}.yml"))).unwrap();
    let recipe = recipe.with_numerics(Numerics::Mergekit).with_seed(seed);
    let mut sources = Sources::new();
    for model in recipe.models() {
        sources.insert_checkpoint(model, Arc::new(Checkpoint::open(pair.join(model)).unwrap()));
    }
    Merge::new(&recipe, &sources)
}

/// Elements that differ in a bit, all elements, the largest difference in ulps of f32.
fn compare(pair: &Path, case: &str) -> (usize, usize, f64, String) {
    let merge = open(pair, case);
    let expected = read_file(&pair.join(format!("cases/{case}.safetensors")));
    assert_eq!(expected.len(), merge.manifest().tensors().len(), "{case}");
    let (mut different, mut elements, mut worst, mut place) = (0, 0, 0.0, String::new());
    for (name, (dtype, bytes)) in &expected {
        let id = merge.manifest().find(&canonical_name(name)).unwrap();
        let info = merge.manifest().get(id);
        let dtype = Dtype::from_name(dtype).unwrap();
        assert_eq!(info.dtype, dtype, "{case} {name}");
        let found = read_tensor(&merge, id).unwrap();
        let mut wanted = vec![0.0; found.len()];
        dtype.decode(bytes, &mut wanted);
        elements += found.len();
        let rms = (wanted.iter().map(|y| f64::from(*y).powi(2)).sum::<f64>() / wanted.len() as f64)
            .sqrt();
        for (i, (x, y)) in found.iter().zip(&wanted).enumerate() {
            if x.to_bits() == y.to_bits() {
                continue;
            }
            different += 1;
            let error = f64::from((x - y).abs()) / f64::from(y.abs()).max(rms);
            if error >= worst {
                worst = error;
                place = format!("{name}[{i}]: {x} instead of {y}");
            }
        }
    }
    (different, elements, worst, place)
}

fn check_pair(name: &str) {
    let pair = pair(name);
    let mut failed = Vec::new();
    for case in cases(&pair) {
        let (different, elements, worst, place) = compare(&pair, &case);
        println!("{name} {case}: {different} of {elements} differ, worst {worst:.1e} {place}");
        let last_bits = case.starts_with("slerp") && worst <= 5e-7;
        if different > 0 && !last_bits {
            failed.push(case);
        }
    }
    assert!(failed.is_empty(), "{failed:?}");
}

#[test]
fn seeds_that_mergekit_cannot_take_are_refused() {
    let error = merge(&pair("llama-float32"), "dare_ties", 1 << 32).err().unwrap();
    assert!(error.to_string().contains("the seed is 4294967296"), "{error}");
}

each_pair!(check_pair; llama_float32, llama_bfloat16, moe_float32, moe_bfloat16);
