//! Swapped layers and components.

use darwin_checkpoint::MemorySource;
use darwin_core::{Cancel, LayerIdx, Part};
use darwin_engine::{ItemScore, Model, ScoreItem, score};
use darwin_testkit::{edited, sibling, tiny_qwen35};

fn scores(model: &Model) -> Vec<ItemScore> {
    let items: Vec<ScoreItem> = (0..8_u32)
        .map(|i| ScoreItem { prompt: (i..i + 9).collect(), answer: (2 * i..2 * i + 5).collect() })
        .collect();
    score(model, &items, &Cancel::default()).unwrap()
}

/// The father with the mother's tensors where `from_mother` says so.
fn mixed(
    father: &MemorySource,
    mother: &MemorySource,
    from_mother: impl Fn(&str) -> bool,
) -> MemorySource {
    use darwin_checkpoint::TensorSource;
    edited(father, "mixed", |info, values| {
        if from_mother(&info.name) {
            let id = mother.manifest().find(&info.name).unwrap();
            *values = mother.values(id).to_vec();
        }
    })
}

#[test]
fn swaps_equal_models_with_swapped_tensors() {
    let father = tiny_qwen35(1);
    let mother = sibling(&father, "mother", 2, 0.3);
    let (f, m) = (Model::load(&father).unwrap(), Model::load(&mother).unwrap());
    for layer in 0..4 {
        let at = |name: &'static str| format!("layers.{layer}.{name}");
        let whole = mixed(&father, &mother, |n| n.starts_with(&at("")));
        let swapped = f.with_layer(LayerIdx(layer), &m);
        assert_eq!(scores(&swapped), scores(&Model::load(&whole).unwrap()));
        for (component, parts) in [
            (Part::Mixer, vec!["input_layernorm", "linear_attn", "self_attn"]),
            (Part::Routed, vec!["post_attention_layernorm", "mlp.experts"]),
            (Part::Shared, vec!["mlp.shared_expert"]),
            (Part::Router, vec!["mlp.gate."]),
        ] {
            let part = mixed(&father, &mother, |n| parts.iter().any(|p| n.starts_with(&at(p))));
            let swapped = f.with_part(LayerIdx(layer), component, &m);
            assert_eq!(scores(&swapped), scores(&Model::load(&part).unwrap()), "{component:?}");
            assert_ne!(scores(&swapped), scores(&f), "{component:?}");
        }
    }
    assert_eq!(scores(&f.with_layer(LayerIdx(2), &f)), scores(&f));
}
