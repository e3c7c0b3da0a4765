//! How well observational scores foretell the causal advantage (method 1.6).

use crate::profile::statics::literal_mri;
use darwin_core::Part;
use darwin_core::files::{Comparison, LayerComparison, LayerProfile, Profile};
use darwin_core::stats::spearman;
use std::collections::BTreeMap;

/// Rank correlation over layers of every observational score with the causal advantage. Scores of
/// one parent enter as mother minus father; undefined ones are left out.
pub(crate) fn correlations(
    comparison: &Comparison,
    profiles: [&Profile; 2],
) -> BTreeMap<String, f64> {
    let causal: Vec<f64> = comparison.layers.iter().map(|l| l.advantage.total.value).collect();
    let scores = of_pair(comparison).into_iter().chain(of_parents(profiles));
    scores.filter_map(|(name, score)| Some((name, spearman(&score, &causal)?))).collect()
}

fn of_pair(comparison: &Comparison) -> Vec<(String, Vec<f64>)> {
    let column = |name: &str, value: &dyn Fn(&LayerComparison) -> Option<f64>| {
        let values = comparison.layers.iter().map(|l| value(l).unwrap_or(f64::NAN));
        (name.to_owned(), values.collect())
    };
    vec![
        column("delta mixer", &|l| Some(l.deltas.get(&Part::Mixer)?.relative)),
        column("delta routed", &|l| Some(l.deltas.get(&Part::Routed)?.relative)),
        column("delta router", &|l| Some(l.deltas.get(&Part::Router)?.relative)),
        column("router jaccard", &|l| Some(l.jaccard?.value)),
        column("router KL", &|l| Some(l.router_kl?.value)),
        column("load TV", &|l| l.load_tv),
    ]
}

fn of_parents(profiles: [&Profile; 2]) -> Vec<(String, Vec<f64>)> {
    let [father, mother] = profiles;
    let difference = |name: &str, value: &dyn Fn(&LayerProfile) -> Option<f64>| {
        let pairs = father.layers.iter().zip(&mother.layers);
        let values = pairs.map(|(f, m)| Some(value(m)? - value(f)?)).map(|v| v.unwrap_or(f64::NAN));
        (name.to_owned(), values.collect())
    };
    let importance = |part: Part| move |l: &LayerProfile| Some(l.importance.get(&part)?.value);
    let mri = literal_mri(mother, 0.4).into_iter().zip(literal_mri(father, 0.4));
    let mut scores = vec![
        difference("importance mixer", &importance(Part::Mixer)),
        difference("importance routed", &importance(Part::Routed)),
        difference("importance shared", &importance(Part::Shared)),
        difference("block influence", &|l| Some(l.block_influence.value)),
        difference("token entropy", &|l| Some(l.routing.as_ref()?.token_entropy.value)),
        difference("load entropy", &|l| Some(l.routing.as_ref()?.load_entropy)),
        ("MRI (literal, a = 0.4)".to_owned(), mri.map(|(m, f)| m - f).collect()),
    ];
    for probe in father.golden_layers.keys() {
        let distance = |l: &LayerProfile| Some(l.probes.get(probe)?.robust);
        scores.push(difference(&format!("probe {probe}"), &distance));
    }
    scores
}
