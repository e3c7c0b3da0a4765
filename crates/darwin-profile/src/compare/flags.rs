//! Sentences about what stands out. Identical parents have none.

use crate::profile::statics::literal_mri;
use darwin_core::Domain;
use darwin_core::files::{Comparison, Estimate, LayerComparison, Profile};
use darwin_core::stats::{holm, two_sided_p};

/// Family-wise level.
const LEVEL: f64 = 0.05;
/// A delta whose effective rank is below this looks like a LoRA.
const LOW_RANK: f64 = 4.0;
/// The mother's router is forbidden from this share on (method 2).
const FORBIDDEN: f64 = 0.10;
/// Static scores closer than this are "nearly equal".
const NEARLY: f64 = 0.02;

pub(crate) fn flags(
    comparison: &Comparison,
    profiles: [&Profile; 2],
    protected: &[Domain],
) -> Vec<String> {
    let totals: Vec<Estimate> = comparison.layers.iter().map(|l| l.advantage.total).collect();
    let certain = significant(&totals);
    let mut flags = Vec::new();
    for (layer, certain) in comparison.layers.iter().zip(certain) {
        flags.extend(certain.then(|| advantage(layer)));
        flags.extend(structure(layer));
    }
    for domain in protected {
        flags.extend(losses(comparison, domain));
    }
    flags.extend(alike(comparison, profiles));
    flags
}

/// Which of several estimates differ from 0 after Holm's adjustment.
fn significant(estimates: &[Estimate]) -> Vec<bool> {
    let p: Vec<f64> = estimates
        .iter()
        .map(|e| if e.value == 0.0 { 1.0 } else { two_sided_p(e.value / e.se.max(1e-300)) })
        .collect();
    holm(&p).into_iter().map(|p| p < LEVEL).collect()
}

fn advantage(layer: &LayerComparison) -> String {
    let a = layer.advantage.total;
    let who = if a.value > 0.0 { "mother" } else { "father" };
    format!(
        "L{}: the {who} is better by {:.3} ± {:.3} nats per answer",
        layer.layer,
        a.value.abs(),
        a.se
    )
}

fn structure(layer: &LayerComparison) -> Vec<String> {
    let l = layer.layer;
    let mut found = Vec::new();
    if layer.experts_aligned == Some(false) {
        found.push(format!(
            "L{l}: the mother's experts are in another order than the father's: align them before \
             blending"
        ));
    }
    if let Some(share) = layer.dead_in_mother_only.filter(|s| *s >= FORBIDDEN) {
        found.push(format!(
            "L{l}: {:.0} % of the experts are dead in the mother and alive in the father: her \
             router is forbidden here",
            100.0 * share
        ));
    }
    for (component, delta) in &layer.deltas {
        if delta.effective_rank > 0.0 && delta.effective_rank < LOW_RANK {
            found.push(format!(
                "L{l}: the {component}'s delta has an effective rank of {:.1}: the trace of a LoRA",
                delta.effective_rank
            ));
        }
    }
    found
}

/// Layers where taking the mother costs a protected domain.
fn losses(comparison: &Comparison, domain: &Domain) -> Vec<String> {
    let found: Vec<Estimate> = comparison
        .layers
        .iter()
        .map(|l| l.advantage.by_domain.get(domain).copied().unwrap_or_default())
        .collect();
    let certain = significant(&found);
    let harmful =
        found.iter().zip(certain).enumerate().filter(|(_, (e, sure))| *sure && e.value < 0.0);
    harmful
        .map(|(layer, (e, _))| {
            format!(
                "L{layer}: taking the mother costs the protected domain {domain} {:.3} ± {:.3} nats \
                 per answer",
                -e.value, e.se
            )
        })
        .collect()
}

/// For siblings of one ancestor the published static score is nearly equal: say so when it is, and
/// only where the weights differ at all.
fn alike(comparison: &Comparison, profiles: [&Profile; 2]) -> Option<String> {
    let differ = comparison.layers.iter().any(|l| l.deltas.values().any(|d| d.relative > 0.0));
    let [father, mother] = profiles.map(|p| literal_mri(p, 1.0));
    let gap = father.iter().zip(&mother).map(|(f, m)| (f - m).abs()).fold(0.0, f64::max);
    (differ && gap < NEARLY).then(|| {
        format!(
            "the parents' static layer scores differ by at most {gap:.3}: siblings of one ancestor, \
             which that score cannot tell apart"
        )
    })
}
