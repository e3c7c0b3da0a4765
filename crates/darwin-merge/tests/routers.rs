//! Where routers come from (method 2.2): each mode by layers, correction biases with their routers,
//! in blends by shares and in recipes with mergekit's own parameters.

#![allow(clippy::unwrap_used, reason = "a test")]

#[path = "common/experts.rs"]
mod experts;

use darwin_checkpoint::{Dtype, TensorSource, read_tensor};
use darwin_merge::{Merge, Recipe, RouterMode, Sources};
use experts::model;
use std::sync::Arc;

const RULES: &str = "router:
    - {layers: 0, from: mother}
    - {layers: 1, from: blend}
    - {layers: 2, from: row-with-expert}
";

fn merge(text: &str) -> Merge {
    let mut sources = Sources::new();
    sources.insert("father", Arc::new(model(0, 0.0, 4)));
    sources.insert("mother", Arc::new(model(1, 0.5, 4)));
    let recipe = Recipe::parse(text).unwrap();
    assert_eq!(Recipe::parse(&recipe.to_yaml()).unwrap(), recipe);
    Merge::new(&recipe, &sources).unwrap()
}

/// Each layer's router holds so much of the mother, its bias too.
fn expect(merge: &Merge, shares: [f64; 4]) {
    let (father, mother) = (model(0, 0.0, 4), model(1, 0.5, 4));
    for (layer, share) in shares.into_iter().enumerate() {
        for part in ["gate.weight", "gate.e_score_correction_bias"] {
            let name = format!("layers.{layer}.mlp.{part}");
            let id = merge.manifest().find(&name).unwrap();
            let values = |source: &dyn TensorSource| read_tensor(source, id).unwrap();
            let (f, m) = (values(&father), values(&mother));
            assert_ne!(f, m);
            let unit =
                if merge.manifest().get(id).dtype == Dtype::F32 { 1e-6 } else { 1.0 / 256.0 };
            for ((found, f), m) in values(merge).iter().zip(f).zip(m) {
                let wanted = (1.0 - share) * f64::from(f) + share * f64::from(m);
                let gap = (f64::from(*found) - wanted).abs();
                assert!(gap <= unit * wanted.abs(), "{name}: {found} instead of {wanted}");
                assert!(share != 0.0 && share != 1.0 || gap == 0.0, "{name} is a copy");
            }
        }
    }
}

#[test]
fn blends_take_routers_by_layer() {
    let text = format!(
        "merge_method: dare_ties\nbase_model: father\nmodels: [{{model: father}}, {{model: mother}}]\n\
         darwin:\n  father: father\n  mother: mother\n  density: 0.5\n  t: {{default: 0.3, components: \
         {{router: 0.2, routed: 0.6}}, layers: [{{layers: 2, components: {{routed: 0.9}}}}]}}\n  {RULES}"
    );
    expect(&merge(&text), [1.0, 0.2, 0.9, 0.0]);
}

#[test]
fn own_parameters_take_routers_by_layer() {
    let weight = |experts: f64, rest: f64| {
        format!("weight: [{{filter: experts, value: {experts}}}, {{value: {rest}}}]")
    };
    let text = format!(
        "merge_method: linear\nmodels:\n  - model: father\n    parameters: {{{}}}\n  - model: mother\n    \
         parameters: {{{}}}\ndarwin:\n  father: father\n  mother: mother\n  {RULES}",
        weight(0.1, 0.75),
        weight(0.9, 0.25)
    );
    let merge = merge(&text);
    expect(&merge, [1.0, 0.25, 0.9, 0.0]);
    let manifest = merge.plan().manifest();
    let reason = |layer: usize| {
        let name = format!("layers.{layer}.mlp.gate.weight");
        manifest.tensors.iter().find(|line| line.tensor == name).unwrap().reason.clone()
    };
    assert_eq!(reason(0), "router: mother");
    assert_eq!(reason(1), "merge_method: linear");
    assert_eq!(reason(2), "merge_method: linear, router rows with their experts");
    assert_eq!(reason(3), "router: father (default)");
}

/// mergekit's own reading where the recipe says nothing of routers.
#[test]
fn without_rules_routers_are_merged_as_all_tensors_are() {
    let text = "merge_method: linear\nmodels:\n  - {model: father, parameters: {weight: 0.5}}\n  - {model: \
                mother, parameters: {weight: 0.5}}\n";
    expect(&merge(text), [0.5; 4]);
}

#[test]
fn one_word_holds_for_all_layers() {
    for (word, mode, share) in [
        ("father", RouterMode::Father, 0.0),
        ("mother", RouterMode::Mother, 1.0),
        ("blend", RouterMode::Blend, 0.2),
        ("row_with_expert", RouterMode::RowWithExpert, 0.6),
        ("row-with-expert", RouterMode::RowWithExpert, 0.6),
    ] {
        let text = format!(
            "merge_method: linear\nmodels: [{{model: father}}, {{model: mother}}]\ndarwin: {{father: father, \
             mother: mother, t: {{default: 0.3, components: {{router: 0.2, routed: 0.6}}}}, router: {word}}}\n"
        );
        assert_eq!(Recipe::parse(&text).unwrap().darwin().router[0].from, mode);
        expect(&merge(&text), [share; 4]);
    }
}
