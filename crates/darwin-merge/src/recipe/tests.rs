//! Reading, writing and refusing recipes.

use super::*;
use darwin_core::{Density, LayerIdx, Part, Share};

fn problems(text: &str) -> String {
    match Recipe::parse(text) {
        Ok(_) => "read".to_owned(),
        Err(error) => {
            let hint = darwin_core::Diagnose::hint(&error).unwrap_or_default();
            format!("{error}\nhint: {hint}")
        }
    }
}

#[test]
fn a_built_recipe_reads_back_equal() {
    let share = |t| Share::new(t).unwrap();
    let recipe = Recipe::blend("dare_ties", "a b: c", "m")
        .default_share(share(0.1 + 0.2))
        .component(Part::Embed, share(1e-7))
        .layer(
            LayerIdx(0),
            [(Selector::Mixer(MixerKind::Linear), share(0.3)), (Part::Routed.into(), share(0.6))],
        )
        .layer_density(LayerIdx(0), Density::new(1.0).unwrap(), Density::new(0.25).unwrap())
        .blocks(Blocks::Compose)
        .router(LayerSpec::all(), RouterMode::Mother)
        .density(Density::new(1.0).unwrap(), Density::new(0.799).unwrap())
        .unit(darwin_checkpoint::Unit::Expert)
        .copy(CopyRule {
            filter: Some("k_proj".to_owned()),
            layers: Some(LayerSpec::parse("last").unwrap()),
            part: Some(Selector::Mixer(MixerKind::Full)),
            from: Parent::Mother,
        })
        .seed(u64::MAX)
        .parameter("lambda", 0.9)
        .dtype(Dtype::F32)
        .out_dtype(Dtype::Bf16)
        .build()
        .unwrap();
    let yaml = recipe.to_yaml();
    let back = Recipe::parse(&yaml).unwrap();
    assert_eq!(back, recipe, "{yaml}");
    assert_eq!(back.logical_yaml(), recipe.logical_yaml());
    assert_eq!((recipe.father(), recipe.mother()), (Some("a b: c"), Some("m")));
    assert_eq!(recipe.structure(), "a b: c");
    assert_ne!(recipe.with_seed(1).logical_yaml(), recipe.logical_yaml());
    let swapped = recipe.with_parents(Some("F"), None);
    assert_eq!((swapped.base(), swapped.models()), (Some("F"), vec!["F", "m"]));
}

#[test]
fn yaml_1_1_and_1_2_spell_the_same_recipe() {
    let read = |text: &str| Recipe::parse(text).unwrap();
    let old = read(
        "merge_method: ties\nbase_model: b\nmodels: [{model: a, parameters: {weight: 1e-5}}, {model: c, parameters: {weight: '.5'}}]\nparameters: {normalize: yes, int8_mask: on}",
    );
    let new = read(
        "merge_method: ties\nbase_model: b\nmodels: [{model: a, parameters: {weight: 0.00001}}, {model: c, parameters: {weight: 0.5}}]\nparameters: {normalize: true, int8_mask: true}",
    );
    assert_eq!(old, new);
}

#[test]
fn all_problems_come_at_once_with_their_places() {
    let text = "merge_method: dare_tie\nbase_model: b\nmodelz: []\nmodels:\n  - model: a\n    parameters: {weight: .nan, denisty: 0.5}\n  - model: c@main\nparameters:\n  t: [0, 1.5]\n  density: 1.7\ndtype: float8\nslerp: 1\ndarwin: {routr: mother, t: {default: 2}}\n";
    insta::assert_snapshot!("all_problems", problems(text));
}

#[test]
fn contradictions_are_refused() {
    let text = "merge_method: ties\nbase_model: f\nmodels: [{model: f}, {model: m, parameters: {weight: 0.5}}]";
    insta::assert_snapshot!(
        "normalised_task_vector",
        Recipe::parse(text).unwrap().notes().join("\n")
    );
    let text = "merge_method: ties\nmodels: [{model: f}, {model: m, parameters: {weight: 0.5}}]";
    insta::assert_snapshot!("no_base", problems(text));
    let text = "merge_method: linear\nmodels: [{model: f}, {model: m, parameters: {weight: 0.5}}]\ndarwin: {t: 0.5, density: 0.3}";
    insta::assert_snapshot!("density_without_task_vectors", problems(text));
    insta::assert_snapshot!("not_yaml", problems("merge_method: [linear"));
}

/// YAML takes a key of more than 1,024 characters only where it is marked as one.
#[test]
fn keys_of_any_length_read_back() {
    for length in [1, 998, 999, 1022, 1023, 1024, 4000] {
        let (tensor, token) = ("t".repeat(length), "\u{1}".repeat(length));
        let text = format!(
            "merge_method: linear\nmodels: [{{model: f}}, {{model: m}}]\n\
             darwin:\n  father: f\n  mother: m\n  t:\n    default: 0.5\n    groups:\n      \
             ? {tensor}\n      : [0.25, 0.75]\n      other: 0.5\n"
        );
        let recipe = Recipe::parse(&text).unwrap();
        assert_eq!(recipe.groups().unwrap().get(&tensor).map(<[Share]>::len), Some(2));
        let again = Recipe::parse(&recipe.to_yaml()).unwrap();
        assert_eq!(again.groups(), recipe.groups());
        assert_eq!(again.to_yaml(), recipe.to_yaml());
        let token = serde_json::Value::from(token);
        let text = format!(
            "merge_method: linear\nmodels: [{{model: f}}, {{model: m}}]\nparameters: {{weight: 1}}\n\
             tokenizer:\n  source: union\n  tokens:\n    ? {token}\n    : {{source: f}}\n"
        );
        let recipe = Recipe::parse(&text).unwrap();
        let again = Recipe::parse(&recipe.to_yaml()).unwrap();
        assert_eq!(again.to_yaml(), recipe.to_yaml());
        assert!(recipe.to_yaml().contains(&token.to_string()));
    }
}
