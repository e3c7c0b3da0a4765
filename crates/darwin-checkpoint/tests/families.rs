//! Every family's tensors have roles, and its two expert layouts are the same model under the
//! names that transformers uses (`tools/oracle/families.py`).

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use common::{shapes, write_counting};
use darwin_checkpoint::{
    Checkpoint, ExpertLayout, ExpertNaming, FAMILIES, Family, Role, TensorSource, read_tensor,
    text_only_name,
};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

fn golden() -> BTreeMap<String, Value> {
    serde_json::from_str(include_str!("golden/families.json")).unwrap()
}

fn open(folder: &Path, config: &Value, listed: &Value) -> Checkpoint {
    write_counting(folder, config, &shapes(listed));
    Checkpoint::open(folder).unwrap()
}

#[test]
fn the_golden_file_has_every_family() {
    let golden = golden();
    for (model_type, class) in FAMILIES.iter().flat_map(|family| family.types) {
        assert_eq!(golden[*model_type]["config"]["architectures"][0], *class);
    }
}

#[test]
fn every_tensor_has_a_role_and_every_layer_its_parts() {
    let dir = tempfile::tempdir().unwrap();
    for (name, model) in golden() {
        let opened = open(&dir.path().join(&name), &model["config"], &model["saved"]);
        for info in opened.manifest().tensors() {
            assert_ne!(info.role, Role::Other, "{name}: {}", info.name);
        }
        assert_eq!(opened.manifest().num_layers(), 4, "{name}");
        for layer in 0..4 {
            let roles: Vec<Role> = opened
                .manifest()
                .tensors()
                .iter()
                .filter(|t| t.layer.is_some_and(|l| l.0 == layer))
                .map(|t| t.role)
                .collect();
            let mixer = roles.iter().any(|r| matches!(r, Role::Attention | Role::LinearAttention));
            let forward = roles.iter().any(|r| matches!(r, Role::RoutedExpert | Role::Mlp));
            assert!(mixer && forward && roles.contains(&Role::Norm), "{name} layer {layer}");
            let routed = roles.contains(&Role::RoutedExpert);
            assert_eq!(routed, roles.contains(&Role::Router), "{name} layer {layer}");
        }
    }
}

#[test]
fn fused_and_per_expert_files_are_one_model_under_transformers_names() {
    let dir = tempfile::tempdir().unwrap();
    let mut seen = 0;
    for (name, model) in golden() {
        let naming = Family::of(&model["config"]).unwrap().experts;
        let Some(fused) = model.get("fused") else {
            let moe = matches!(naming, ExpertNaming::Projections | ExpertNaming::Mixtral);
            assert!(!moe, "{name}");
            continue;
        };
        seen += 1;
        let split = open(&dir.path().join(&name).join("split"), &model["config"], &model["saved"]);
        let whole = open(&dir.path().join(&name).join("whole"), &model["config"], fused);
        assert!(split.layout().is_per_expert() && !whole.layout().is_per_expert(), "{name}");
        let listed = |c: &Checkpoint| {
            let tensors = c.manifest().tensors().iter();
            tensors.map(|t| (t.name.clone(), t.shape.clone())).collect::<BTreeMap<_, _>>()
        };
        assert_eq!(listed(&split), listed(&whole), "{name}");
        for (from, layout, expected) in [
            (&split, ExpertLayout::Fused, fused),
            (&whole, ExpertLayout::PerExpert, &model["saved"]),
            (&whole, ExpertLayout::Fused, fused),
            (&split, ExpertLayout::PerExpert, &model["saved"]),
        ] {
            let layout = from.layout().with_experts(from.manifest(), layout, naming);
            let mut found: Vec<_> = layout.stored.into_iter().map(|s| (s.name, s.shape)).collect();
            found.sort();
            assert_eq!(found, shapes(expected), "{name}");
        }
        // The rows of every piece are those of its own tensor.
        let id = split.manifest().ids().find(|id| {
            let info = split.manifest().get(*id);
            info.role == Role::RoutedExpert && info.name.ends_with("gate_up_proj")
        });
        let id = id.unwrap();
        let values = read_tensor(&split, id).unwrap();
        let cols = split.manifest().get(id).cols();
        for stored in split.layout().stored.iter().filter(|s| s.id == id) {
            let first = stored.name.bytes().map(u16::from).sum::<u16>() & 0xff;
            let expected = f32::from_bits(u32::from(0x3c00 + first) << 16);
            assert_eq!(values[stored.rows.start * cols], expected, "{name}: {}", stored.name);
        }
    }
    assert_eq!(seen, 11);
}

#[test]
fn text_only_names_are_those_of_the_text_only_class() {
    let golden = golden();
    let pairs = [
        ("qwen3_5_moe", "qwen3_5_moe_text"),
        ("qwen3_5", "qwen3_5_text"),
        ("gemma3", "gemma3_text"),
        ("mistral3", "mistral"),
    ];
    for (whole, text) in pairs {
        let towers = ["model.visual.", "vision_tower.", "multi_modal_projector."];
        let mut found: Vec<_> = shapes(&golden[whole]["saved"])
            .into_iter()
            .filter(|(name, _)| !towers.iter().any(|tower| name.starts_with(tower)))
            .map(|(name, shape)| (text_only_name(&name), shape))
            .collect();
        found.sort();
        let tied = golden[whole]["config"]["tie_word_embeddings"] == true;
        let mut expected = shapes(&golden[text]["saved"]);
        expected.retain(|(name, _)| !(tied && name == "lm_head.weight"));
        assert_eq!(found, expected, "{whole}");
    }
}
