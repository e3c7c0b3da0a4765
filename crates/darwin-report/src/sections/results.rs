//! What the scores say of the child: where it is better than its parents, where worse, and how
//! small a difference could be seen (method 6).

use crate::run::Run;
use darwin_core::Domain;
use darwin_core::files::{DomainScore, ModelScores};
use darwin_core::stats::{holm, minimum_detectable_effect};
use std::collections::BTreeMap;

/// The level at which a difference is called one, after Holm over the domains.
const LEVEL: f64 = 0.05;

/// How a model does on a domain, against the better parent there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    Better,
    Worse,
    /// Not to be told apart.
    Alike,
}

/// A model against the better parent on one domain.
#[derive(Debug)]
pub(crate) struct Against<'a> {
    pub(crate) domain: &'a Domain,
    pub(crate) score: DomainScore,
    /// `father` or `mother`.
    pub(crate) parent: &'a str,
    /// Accuracy minus the better parent's.
    pub(crate) difference: f64,
    /// Exact McNemar, where the file has it.
    pub(crate) p: Option<f64>,
    pub(crate) standing: Standing,
}

/// A model against the better parent on every domain that both were scored on.
pub(crate) fn against_parents<'a>(run: &'a Run, model: &'a ModelScores) -> Vec<Against<'a>> {
    let parents = run.parent_scores();
    let adjusted = adjusted(&model.p_against_better_parent);
    let rows = model.domains.iter().filter_map(|(domain, score)| {
        let scored = parents.iter().filter_map(|p| Some((p, p.domains.get(domain)?)));
        let (parent, best) = scored
            .filter(|(_, s)| s.exact.n > 0 && score.exact.n > 0)
            .max_by(|a, b| a.1.exact.accuracy().total_cmp(&b.1.exact.accuracy()))?;
        let difference = score.exact.accuracy() - best.exact.accuracy();
        let standing = match adjusted.get(domain) {
            Some(p) if *p < LEVEL && difference > 0.0 => Standing::Better,
            Some(p) if *p < LEVEL && difference < 0.0 => Standing::Worse,
            _ => Standing::Alike,
        };
        let p = model.p_against_better_parent.get(domain).copied();
        Some(Against {
            domain,
            score: score.clone(),
            parent: &parent.name,
            difference,
            p,
            standing,
        })
    });
    rows.collect()
}

fn adjusted(p: &BTreeMap<Domain, f64>) -> BTreeMap<&Domain, f64> {
    let values: Vec<f64> = p.values().copied().collect();
    p.keys().zip(holm(&values)).collect()
}

/// A change for the worse, against a parent.
#[derive(Debug)]
pub(crate) struct Loss {
    pub(crate) domain: String,
    pub(crate) protected: bool,
    pub(crate) parent: String,
    /// Points lost, above zero.
    pub(crate) lost: f64,
    pub(crate) n: usize,
    pub(crate) p: Option<f64>,
    /// Whether the loss stands after Holm.
    pub(crate) certain: bool,
}

/// Domains where the child is below the better parent there, the largest loss first.
pub(crate) fn losses(run: &Run) -> Vec<Loss> {
    let (Some(child), Ok(scores)) = (run.child_scores(), run.scores.as_ref()) else {
        return Vec::new();
    };
    let rows = against_parents(run, child).into_iter().filter(|row| row.difference < 0.0);
    let mut losses: Vec<Loss> = rows
        .map(|row| Loss {
            domain: row.domain.to_string(),
            protected: scores.protected.contains(row.domain),
            parent: row.parent.to_owned(),
            lost: -row.difference,
            n: row.score.exact.n,
            p: row.p,
            certain: row.standing == Standing::Worse,
        })
        .collect();
    losses.sort_by(|a, b| b.lost.total_cmp(&a.lost));
    losses
}

/// The difference that the test could have found in most domains: median over the child's
/// domains, for two models that answer independently.
pub(crate) fn detectable(model: &ModelScores) -> Option<f64> {
    let mut effects: Vec<f64> = model
        .domains
        .values()
        .filter(|s| s.exact.n > 0)
        .map(|s| {
            let p = s.exact.accuracy();
            minimum_detectable_effect(s.exact.n as u64, (2.0 * p * (1.0 - p)).max(0.02))
        })
        .collect();
    effects.sort_by(f64::total_cmp);
    effects.get(effects.len() / 2).copied()
}

/// Items of all domains together.
pub(crate) fn items(model: &ModelScores) -> usize {
    model.domains.values().map(|s| s.exact.n).sum()
}
