//! Merged bytes are those of [`ARITHMETIC`]: a change that moves one of them raises the version, so
//! that nothing that was kept under the old one is mixed with it.

#![allow(clippy::unwrap_used, reason = "tests may be plain")]

use darwin_checkpoint::{TensorSource, read_tensor};
use darwin_core::hash::Hasher;
use darwin_core::{ARITHMETIC, Density, Share};
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
    let half = |of: f64| Share::new(of).unwrap();
    let density = |of: f64| Density::new(of).unwrap();
    let blend = Recipe::blend(method, "father", "mother").default_share(half(0.4)).seed(42);
    let thinned = ["ties", "dare_ties", "della"].contains(&method);
    let blend = if thinned { blend.density(density(1.0), density(0.6)) } else { blend };
    let recipe = blend.build().unwrap();
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
    let known = [
        ("linear", "9123b8f913d825554d136927be87d029ae91892e1c3bda54e823ac101b50a589"),
        ("slerp", "4e4a17628493a8dde87d36aa4f777106a1971c4a70cf0f10600bd155d1a346bb"),
        ("ties", "e49ae45b9fc7968cd3d31b3cd9cd61be0d64deda777b5092713d787c6a6f2eb3"),
        ("dare_ties", "eead549cbdd33fbf599a601cdc0842290eacd24e440579a564b7c620dba29b24"),
        ("della", "89f4b305ea3f54319aab14ab5bab2d29deac165eb04434695da6c6b48816c689"),
    ];
    assert_eq!(ARITHMETIC, 1, "write down the bytes of the new version");
    let found = known.map(|(method, _)| (method, merged(method)));
    let known = known.map(|(method, sha256)| (method, sha256.to_owned()));
    assert_eq!(found, known, "merged bytes changed: raise ARITHMETIC in darwin-core");
}
