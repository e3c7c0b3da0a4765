//! Merged bytes do not depend on threads, shard size, memory or layout; what is read in memory is
//! what is written.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test")]

mod common;

use common::{bytes, pair, write_pair};
use darwin_checkpoint::{Checkpoint, MemorySource, TensorSource, Unit, read_tensor};
use darwin_core::{Cancel, Density, NoProgress, Share};
use darwin_merge::{
    LayerSpec, Merge, MergeOptions, Numerics, Recipe, RouterMode, Sources, merge_to,
};
use std::path::Path;
use std::sync::Arc;

fn recipes() -> Vec<Recipe> {
    let density = |d| Density::new(d).unwrap();
    let blend = |method: &str| {
        Recipe::blend(method, "father", "mother")
            .default_share(Share::new(0.37).unwrap())
            .router(LayerSpec::all(), RouterMode::RowWithExpert)
            .seed(7)
    };
    vec![
        blend("linear").build().unwrap(),
        blend("slerp").build().unwrap(),
        blend("slerp").unit(Unit::Expert).build().unwrap(),
        blend("dare_ties").density(density(1.0), density(0.7)).build().unwrap(),
        blend("dare_ties").density(density(1.0), density(0.7)).unit(Unit::Expert).build().unwrap(),
        blend("ties").density(density(0.5), density(0.3)).build().unwrap(),
        blend("ties")
            .density(density(0.5), density(0.3))
            .parameter("rescale", 1.0)
            .unit(Unit::Expert)
            .build()
            .unwrap(),
        blend("linear").numerics(Numerics::Mergekit).build().unwrap(),
        blend("slerp").numerics(Numerics::Mergekit).unit(Unit::Expert).build().unwrap(),
        blend("ties")
            .density(density(0.5), density(0.3))
            .parameter("rescale", 1.0)
            .numerics(Numerics::Mergekit)
            .build()
            .unwrap(),
    ]
}

/// mergekit's masks are drawn in the order of the names on disk, so that they depend on the layout.
fn drawn_in_order() -> Recipe {
    Recipe::blend("dare_ties", "father", "mother")
        .default_share(Share::new(0.37).unwrap())
        .density(Density::new(0.9).unwrap(), Density::new(0.7).unwrap())
        .numerics(Numerics::Mergekit)
        .seed(7)
        .build()
        .unwrap()
}

fn write_merge(recipe: &Recipe, folder: &Path, out: &Path, shard: u64, memory: u64) {
    let mut sources = Sources::new();
    for model in ["father", "mother"] {
        let checkpoint = Checkpoint::open(folder.join(model)).unwrap();
        sources.insert_checkpoint(model, Arc::new(checkpoint));
    }
    let merge = Merge::new(recipe, &sources).unwrap();
    let options = MergeOptions {
        max_shard_bytes: shard,
        memory,
        documents: vec![("README.md".to_owned(), b"card".to_vec())],
        progress: &NoProgress,
        cancel: &Cancel::default(),
    };
    merge_to(&merge, out, &options).unwrap();
}

#[test]
fn bytes_depend_on_nothing_but_recipe_and_parents() {
    let dir = tempfile::tempdir().unwrap();
    let (fused, single) = (dir.path().join("fused"), dir.path().join("single"));
    write_pair(&fused, false);
    write_pair(&single, true);
    for (n, recipe) in recipes().iter().chain([&drawn_in_order()]).enumerate() {
        let mut expected = None;
        let in_order =
            recipe.method().name == "dare_ties" && recipe.numerics() == Numerics::Mergekit;
        let other = if in_order { &fused } else { &single };
        let settings = [
            (1, u64::MAX, 1 << 30, &fused),
            (2, 300_000, 1 << 30, &fused),
            (5, u64::MAX, 1 << 16, &fused),
            (2, 2_000_000, 1 << 20, other),
        ];
        for (i, (threads, shard, memory, folder)) in settings.into_iter().enumerate() {
            let out = dir.path().join(format!("out-{n}-{i}"));
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| write_merge(recipe, folder, &out, shard, memory));
            let found = bytes(&out);
            assert!(out.join("manifest.json").exists() && out.join("README.md").exists());
            match &expected {
                None => expected = Some(found),
                Some(expected) => assert!(
                    *expected == found,
                    "{} with {threads} threads, shards of {shard}",
                    recipe.method().name
                ),
            }
            std::fs::remove_dir_all(&out).unwrap();
        }
    }
}

#[test]
fn memory_and_disk_hold_the_same_bits() {
    let dir = tempfile::tempdir().unwrap();
    write_pair(dir.path(), true);
    let (father, mother) = pair();
    let mut sources = Sources::new();
    sources.insert("father", Arc::new(father));
    sources.insert("mother", Arc::new(mother));
    for (n, recipe) in recipes().iter().enumerate() {
        let out = dir.path().join(format!("out-{n}"));
        write_merge(recipe, dir.path(), &out, 1 << 20, 1 << 20);
        let written = MemorySource::read(&Checkpoint::open(&out).unwrap()).unwrap();
        let merge = Merge::new(recipe, &sources).unwrap();
        for id in merge.manifest().ids() {
            let info = merge.manifest().get(id);
            let at = written.manifest().find(&info.name).unwrap();
            assert_eq!(written.manifest().get(at).dtype, info.dtype, "{}", info.name);
            let found = read_tensor(&merge, id).unwrap();
            let same =
                found.iter().zip(written.values(at)).all(|(a, b)| a.to_bits() == b.to_bits());
            assert!(same, "{} {}", recipe.method().name, info.name);
        }
        std::fs::remove_dir_all(&out).unwrap();
    }
}

#[test]
fn vision_and_mtp_are_the_fathers_bytes_and_islands_stay_f32() {
    let dir = tempfile::tempdir().unwrap();
    write_pair(dir.path(), true);
    let out = dir.path().join("out");
    write_merge(&recipes()[3], dir.path(), &out, 1 << 20, 1 << 20);
    let (child, father) = (bytes(&out), bytes(&dir.path().join("father")));
    let names = |all: &[(String, String, Vec<u8>)]| -> Vec<(String, String)> {
        all.iter().map(|(name, dtype, _)| (name.clone(), dtype.clone())).collect()
    };
    assert_eq!(names(&child), names(&father));
    for (c, f) in child.iter().zip(&father) {
        if c.0.starts_with("model.visual") || c.0.starts_with("mtp") {
            assert_eq!(c.2, f.2, "{}", c.0);
        }
        assert_eq!(c.1 == "F32", c.0.contains("A_log") || c.0.contains("linear_attn.norm"));
    }
}
