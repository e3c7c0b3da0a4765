//! What every method must do with the same parents and at the ends of the blend.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test")]

mod common;

use common::pair;
use darwin_checkpoint::{MemorySource, TensorSource, read_tensor};
use darwin_core::{Density, LayerIdx, Part, Share};
use darwin_merge::{
    Blocks, LayerSpec, METHODS, Merge, MixerKind, Recipe, RouterMode, Selector, Sources,
};
use std::sync::Arc;

fn share(t: f64) -> Share {
    Share::new(t).unwrap()
}

fn sources(father: &MemorySource, mother: &MemorySource) -> Sources {
    let mut sources = Sources::new();
    sources.insert("father", Arc::new(father.clone()));
    sources.insert("mother", Arc::new(mother.clone()));
    sources
}

/// Whether the child's text model is bit for bit that of a parent.
fn assert_is(recipe: &Recipe, sources: &Sources, parent: &MemorySource) {
    let merge = Merge::new(recipe, sources).unwrap();
    for id in merge.manifest().ids() {
        let name = &merge.manifest().get(id).name;
        let Some(at) = parent.manifest().find(name) else { continue };
        let found = read_tensor(&merge, id).unwrap();
        for (i, (a, b)) in found.iter().zip(parent.values(at)).enumerate() {
            assert!(a.to_bits() == b.to_bits(), "{} {name}[{i}]: {a} {b}", recipe.method().name);
        }
    }
}

fn blends() -> impl Iterator<Item = &'static str> {
    let blends = METHODS.iter().filter(|m| m.takes_shares() && !m.needs_activations());
    blends.map(|method| method.name)
}

#[test]
fn the_ends_of_every_blend_are_the_parents() {
    let (father, mother) = pair();
    let sources = sources(&father, &mother);
    for method in blends() {
        let ends = [(0.0, RouterMode::Father, &father), (1.0, RouterMode::Mother, &mother)];
        for (t, mode, parent) in ends {
            let recipe = Recipe::blend(method, "father", "mother")
                .default_share(share(t))
                .router(LayerSpec::all(), mode)
                .build()
                .unwrap();
            assert_is(&recipe, &sources, parent);
        }
    }
}

#[test]
fn identical_parents_have_an_identical_child() {
    let (_, mother) = pair();
    let sources = sources(&mother, &mother);
    for method in blends() {
        let mut recipe = Recipe::blend(method, "father", "mother")
            .default_share(share(0.3))
            .router(LayerSpec::all(), RouterMode::Blend);
        if METHODS
            .iter()
            .any(|m| m.name == method && m.parameters.iter().any(|p| p.name == "density"))
        {
            let thins = method != "task_arithmetic";
            if thins {
                let half = Density::new(0.5).unwrap();
                recipe = recipe.density(half, half);
            }
        }
        assert_is(&recipe.build().unwrap(), &sources, &mother);
    }
    let text = "merge_method: passthrough\nmodels: [{model: mother}]";
    assert_is(&Recipe::parse(text).unwrap(), &sources, &mother);
}

#[test]
fn every_tensor_gets_the_share_of_method_3_1() {
    let (father, mother) = pair();
    let sources = sources(&father, &mother);
    let recipe = Recipe::blend("dare_ties", "father", "mother")
        .default_share(share(0.5))
        .component(Part::Embed, share(0.1))
        .component(Part::Norm, share(0.15))
        .component(Part::Head, share(0.0))
        .component(Part::Shared, share(0.4))
        .layer(
            LayerIdx(0),
            [(Selector::Mixer(MixerKind::Linear), share(0.2)), (Part::Routed.into(), share(0.3))],
        )
        .layer(
            LayerIdx(1),
            [(Selector::Mixer(MixerKind::Full), share(0.6)), (Part::Routed.into(), share(0.7))],
        )
        .router(LayerSpec::one(LayerIdx(0)), RouterMode::Mother)
        .router(LayerSpec::one(LayerIdx(1)), RouterMode::RowWithExpert)
        .density(Density::new(1.0).unwrap(), Density::new(0.799).unwrap())
        .blocks(Blocks::Override)
        .build()
        .unwrap();
    let merge = Merge::new(&recipe, &sources).unwrap();
    insta::assert_snapshot!("plan", merge.plan().describe().join("\n"));
}

#[test]
fn the_mean_of_dare_is_the_blend() {
    let (father, mother) = pair();
    let sources = sources(&father, &mother);
    let child = |recipe: Recipe| {
        let merge = Merge::new(&recipe, &sources).unwrap();
        let id = merge.manifest().find("layers.1.mlp.experts.gate_up_proj").unwrap();
        read_tensor(&merge, id).unwrap()
    };
    let dare = Recipe::blend("dare_linear", "father", "mother")
        .density(Density::new(1.0).unwrap(), Density::new(0.6).unwrap())
        .build()
        .unwrap();
    let (thinned, blended) =
        (child(dare), child(Recipe::blend("linear", "father", "mother").build().unwrap()));
    let id = father.manifest().find("layers.1.mlp.experts.gate_up_proj").unwrap();
    let mut kept = 0;
    let mut sums = (0.0, 0.0);
    for ((t, b), f) in thinned.iter().zip(&blended).zip(father.values(id)) {
        kept += usize::from(t != f);
        sums.0 += f64::from((t - f).abs());
        sums.1 += f64::from((b - f).abs());
    }
    let share = kept as f64 / thinned.len() as f64;
    assert!((share - 0.6).abs() < 0.02, "{share} of the elements stay");
    assert!((sums.0 / sums.1 - 1.0).abs() < 0.01, "the L1 norm stays: {sums:?}");
}
