//! Profiles and comparisons of tiny models: what must hold whatever the weights.

#![allow(clippy::unwrap_used, reason = "tests may be plain")]

mod common;

use common::{Tiny, encoded};
use darwin_core::files::Comparison;
use darwin_core::{Cancel, NoProgress, Part};
use darwin_eval::Encoded;
use darwin_profile::{
    CompareOptions, ProfileOptions, Samples, compare, comparison_summary, profile, profile_summary,
};
use darwin_testkit::{sibling, tiny_llama, tiny_qwen3_moe, tiny_qwen35};

fn measured(tiny: &Tiny, encoded: &Encoded) -> (darwin_core::files::Profile, Samples) {
    let options = ProfileOptions { batch_tokens: 200, ..ProfileOptions::default() };
    profile(&tiny.subject(), encoded, &options, &NoProgress, &Cancel::default()).unwrap()
}

fn compared(father: &Tiny, mother: &Tiny, encoded: &Encoded) -> Comparison {
    let profiles = [&measured(father, encoded).0, &measured(mother, encoded).0];
    compare(
        &father.subject(),
        &mother.subject(),
        profiles,
        encoded,
        &CompareOptions::default(),
        &NoProgress,
        &Cancel::default(),
    )
    .unwrap()
}

#[test]
fn shards_add_up_exactly_and_survive_the_disk() {
    let tiny = Tiny::new("tiny", tiny_qwen35(1));
    let (whole, samples) = measured(&tiny, &encoded(0..20));
    let (_, left) = measured(&tiny, &encoded(0..7));
    let (_, right) = measured(&tiny, &encoded(7..20));
    let merged = right.merge(left).unwrap();
    let mut again = merged.profile();
    again.forward_tokens = whole.forward_tokens;
    assert_eq!(again, whole);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("samples.safetensors");
    samples.save(&path).unwrap();
    assert_eq!(Samples::load(&path).unwrap(), samples);
    assert!(samples.clone().merge(samples).is_err(), "an overlap is refused");
}

#[test]
fn a_calibration_set_repeated_changes_nothing() {
    let tiny = Tiny::new("tiny", tiny_qwen35(1));
    let once = measured(&tiny, &encoded(0..9)).0;
    let ten: Vec<usize> = (0..10).flat_map(|_| 0..9).collect();
    let repeated = measured(&tiny, &encoded(ten)).0;
    assert_eq!(once, repeated);
}

#[test]
fn a_profile_counts_what_the_model_did() {
    let tiny = Tiny::new("tiny", tiny_qwen35(3));
    let profile = measured(&tiny, &encoded(0..12)).0;
    let k = profile.num_experts_per_tok as u64;
    assert_eq!(profile.calibration.samples, 36);
    for layer in &profile.layers {
        let loads = layer.experts.as_ref().unwrap();
        assert_eq!(loads.tokens.iter().sum::<u64>(), k * profile.calibration.tokens);
        assert!((loads.gate_mass.iter().sum::<f64>() - 1.0).abs() < 1e-5);
        assert!((loads.relative_load.iter().sum::<f64>() - 6.0).abs() < 1e-9);
        let decidable = 3.0 * 6.0 / (2.0 * loads.n_eff) <= 0.01;
        assert_eq!(loads.undecidable.is_none(), decidable);
        assert!((loads.n_eff * loads.deff - profile.calibration.tokens as f64).abs() < 1e-6);
        let routing = layer.routing.as_ref().unwrap();
        assert!(routing.token_entropy.value <= 6_f64.log2() + 1e-9);
        assert!(routing.gate_entropy.value <= 1.0 + 1e-6);
        assert!(routing.specialisation >= -1e-9);
        assert!(routing.margin_quantiles.is_sorted());
        assert!(layer.importance.values().all(|i| i.value > 0.0 && i.se > 0.0));
        assert_eq!(layer.head_importance.is_empty(), layer.kind == "linear_attention");
        assert_eq!(layer.probes.len(), 3);
    }
    assert!(profile_summary(&profile).contains("L3    full"));
}

#[test]
fn dense_layers_have_no_experts_and_no_routing() {
    for (source, sparse) in
        [(tiny_llama(2), [false; 4]), (tiny_qwen3_moe(2), [true, false, true, true])]
    {
        let tiny = Tiny::new("tiny", source.clone());
        let (profile, samples) = measured(&tiny, &encoded(0..12));
        for (layer, sparse) in profile.layers.iter().zip(sparse) {
            assert_eq!(layer.experts.is_some(), sparse);
            assert_eq!(layer.routing.is_some(), sparse);
            assert_eq!(layer.head_importance.len(), 4);
            assert_eq!(layer.importance.keys().collect::<Vec<_>>(), [&Part::Mixer, &Part::Routed]);
            assert!(layer.importance.values().all(|i| i.value > 0.0));
        }
        assert!(profile_summary(&profile).contains("L1    full       -    -   -        -"));
        let dir = tempfile::tempdir().unwrap();
        samples.save(&dir.path().join("s")).unwrap();
        assert_eq!(Samples::load(&dir.path().join("s")).unwrap().profile(), profile);

        let mother = Tiny::new("m", sibling(&source, "m", 5, 0.3));
        let found = compared(&tiny, &mother, &encoded(0..8));
        for (layer, sparse) in found.layers.iter().zip(sparse) {
            assert_eq!(layer.jaccard.is_some(), sparse);
            assert_eq!(layer.experts_aligned.is_some(), sparse);
            assert!(layer.advantage.total.value != 0.0);
            assert!(layer.deltas[&Part::Routed].relative > 0.2);
        }
        assert!(comparison_summary(&found).contains("L1"));
    }
}

#[test]
fn identical_parents_have_no_advantage_and_no_flags() {
    let (father, mother) = (Tiny::new("f", tiny_qwen35(1)), Tiny::new("m", tiny_qwen35(1)));
    let found = compared(&father, &mother, &encoded(0..8));
    assert_eq!(found.flags, Vec::<String>::new());
    for layer in &found.layers {
        assert_eq!(layer.advantage.total.value, 0.0);
        assert_eq!(layer.jaccard.unwrap().value, 1.0);
        assert_eq!(layer.deltas[&Part::Mixer].relative, 0.0);
        assert_eq!(layer.experts_aligned, Some(true));
    }
}

#[test]
fn swapped_parents_swap_the_sign_of_every_advantage() {
    let source = tiny_qwen35(1);
    let father = Tiny::new("f", source.clone());
    let mother = Tiny::new("m", sibling(&source, "m", 5, 0.3));
    let items = encoded(0..10);
    let (forth, back) = (compared(&father, &mother, &items), compared(&mother, &father, &items));
    assert!(forth.layers.iter().any(|l| l.advantage.total.value != 0.0));
    for (x, y) in forth.layers.iter().zip(&back.layers) {
        let parts = [x, y].map(|layer| layer.advantage.components.keys().collect::<Vec<_>>());
        assert_eq!(parts[0], parts[1]);
        for (part, advantage) in &x.advantage.components {
            let other = y.advantage.components[part];
            assert!((advantage.value + other.value).abs() < 1e-9, "{part}");
        }
        assert!((x.advantage.total.value + y.advantage.total.value).abs() < 1e-12);
        assert_eq!(x.experts_aligned, Some(true));
    }
    assert!(comparison_summary(&forth).contains("advantage"));
}

#[test]
fn the_advantage_costs_no_more_than_promised() {
    let source = tiny_qwen35(1);
    let father = Tiny::new("f", source.clone());
    let mother = Tiny::new("m", sibling(&source, "m", 5, 0.3));
    let items = encoded(0..4);
    let profiles = [&measured(&father, &items).0, &measured(&mother, &items).0];
    let options = CompareOptions { components: false, ..CompareOptions::default() };
    let found = compare(
        &father.subject(),
        &mother.subject(),
        profiles,
        &items,
        &options,
        &NoProgress,
        &Cancel::default(),
    )
    .unwrap();
    let layers = found.layers.len() as u64;
    assert_eq!(found.forward_tokens, (2 + layers + 1) * found.calibration.tokens);
}
