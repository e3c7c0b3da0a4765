//! The published recipes on the example parents: a fused father with vision and MTP, a per-expert,
//! text-only mother.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test")]

mod common;

use common::bytes;
use darwin_checkpoint::{Checkpoint, HashCache, TensorSource};
use darwin_core::files::{Action, MergeManifest};
use darwin_core::{Cancel, NoProgress};
use darwin_merge::{Merge, MergeOptions, Recipe, Sources, merge_to};
use std::path::Path;

#[test]
fn the_published_recipes_merge() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples");
    let father = examples.join("parents/father");
    let dir = tempfile::tempdir().unwrap();
    for name in ["card-v5-override", "card-v5-composed", "card-v4"] {
        let recipe = Recipe::load(&examples.join(format!("{name}.yaml"))).unwrap();
        let mut sources = Sources::open(&recipe).unwrap();
        sources.identify(&HashCache::default(), &NoProgress, &Cancel::default()).unwrap();
        let merge = Merge::new(&recipe, &sources).unwrap();
        let options = MergeOptions {
            max_shard_bytes: 3 << 20,
            memory: 1 << 24,
            documents: Vec::new(),
            progress: &NoProgress,
            cancel: &Cancel::default(),
        };
        let out = dir.path().join(name);
        let written = merge_to(&merge, &out, &options).unwrap();
        assert!(written.shards > 1);
        let child = Checkpoint::open(&out).unwrap();
        child.check_known().unwrap();
        assert_eq!(child.config(), Checkpoint::open(&father).unwrap().config());
        let (child, parent) = (bytes(&out), bytes(&father));
        assert_eq!(child.len(), parent.len());
        for (c, p) in child.iter().zip(&parent) {
            assert_eq!((&c.0, &c.1, c.2.len()), (&p.0, &p.1, p.2.len()));
            if c.0.starts_with("model.visual.") || c.0.starts_with("mtp.") {
                assert!(c.2 == p.2, "{} is the father's", c.0);
            }
        }
        for file in ["tokenizer.json", "chat_template.jinja", "preprocessor_config.json"] {
            assert!(out.join(file).exists(), "{file}");
        }
        let kept = std::fs::read_to_string(out.join("mergekit_config.yml")).unwrap();
        let original = std::fs::read_to_string(examples.join(format!("{name}.yaml"))).unwrap();
        assert_eq!(kept, original);
        let manifest: MergeManifest =
            serde_json::from_slice(&std::fs::read(out.join("manifest.json")).unwrap()).unwrap();
        assert_eq!(manifest.recipe_sha256, sources.fingerprint_of(&recipe).unwrap().as_str());
        let roles: Vec<&str> = manifest.inputs.values().map(|i| i.role.as_str()).collect();
        assert_eq!(roles, ["father", "mother"]);
        assert_eq!(manifest.inputs.len(), 2);
        let routers = manifest.tensors.iter().filter(|line| line.role == "router");
        for line in routers.filter(|_| name != "card-v4") {
            assert_eq!(line.action, Action::Copy);
            let last = line.tensor.contains("layers.7.");
            assert_eq!(line.sources[0].model.ends_with("father"), last, "{}", line.tensor);
        }
    }
}
