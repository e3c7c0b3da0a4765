//! Merged bytes are those of [`ARITHMETIC`]: a change that moves one of them raises the version, so
//! that nothing that was kept under the old one is mixed with it.

#![allow(clippy::unwrap_used, reason = "tests may be plain")]

use darwin_checkpoint::{TensorSource, read_tensor};
use darwin_core::ARITHMETIC;
use darwin_core::hash::Hasher;
use darwin_merge::{Merge, Recipe, Sources};
use darwin_testkit::{sibling, tiny_qwen35};
use std::sync::Arc;

/// SHA-256 of all tensors of a merge of two tiny models, in the manifest's order.
fn merged(method: &str) -> String {
    let father = tiny_qwen35(1);
    let mother = sibling(&father, "mother", 2, 0.3);
    let mut sources = Sources::new();
    sources.insert("father", Arc::new(father));
    sources.insert("mother", Arc::new(mother));
    let recipe = Recipe::blend(method, "father", "mother").seed(42).build().unwrap();
    let merge = Merge::new(&recipe, &sources).unwrap();
    let mut hasher = Hasher::default();
    for id in merge.manifest().ids() {
        for value in read_tensor(&merge, id).unwrap() {
            hasher.update(&value.to_bits().to_le_bytes());
        }
    }
    hasher.finish()
}

#[test]
fn the_version_of_the_arithmetic_stands_for_these_bytes() {
    let known =
        [("linear", "?"), ("slerp", "?"), ("ties", "?"), ("dare_ties", "?"), ("della", "?")];
    assert_eq!(ARITHMETIC, 1, "write down the bytes of the new version");
    let found = known.map(|(method, _)| (method, merged(method)));
    let known = known.map(|(method, sha256)| (method, sha256.to_owned()));
    assert_eq!(found, known, "merged bytes changed: raise ARITHMETIC in darwin-core");
}
