//! Fitness: one number from scores per domain (method 3.3), higher is better.

use crate::RunConfig;
use darwin_core::Domain;
use darwin_core::files::DomainScore;
use std::collections::BTreeMap;

/// Penalty per unit below a protected domain's floor (method 2).
const PENALTY: f64 = 10.0;

/// Scores of a candidate by domain on one scale (higher is better), as the journal keeps them.
pub type ByDomain = BTreeMap<Domain, f64>;

/// Turns scores per domain into a fitness.
#[derive(Clone, Debug, PartialEq)]
pub struct Fitness {
    weights: BTreeMap<Domain, f64>,
    floors: BTreeMap<Domain, f64>,
}

impl Fitness {
    /// Weights from the goal; floors = the father's score less the margin.
    #[must_use]
    pub fn new(config: &RunConfig, father: &ByDomain) -> Self {
        let total: f64 = father.keys().map(|d| config.weight(d)).sum();
        let weights = father
            .keys()
            .map(|d| (d.clone(), if total > 0.0 { config.weight(d) / total } else { 0.0 }))
            .collect();
        let floors = config
            .goal
            .protected
            .iter()
            .filter_map(|(d, margin)| father.get(d).map(|score| (d.clone(), score - margin)))
            .collect();
        Self { weights, floors }
    }

    /// The weighted mean, less 10 times whatever a protected domain lies below its floor.
    #[must_use]
    pub fn of(&self, scores: &ByDomain) -> f64 {
        let score = |d: &Domain| scores.get(d).copied().unwrap_or(f64::NEG_INFINITY);
        let mean: f64 =
            self.weights.iter().filter(|(_, w)| **w > 0.0).map(|(d, w)| w * score(d)).sum();
        let below: f64 = self.floors.iter().map(|(d, floor)| (floor - score(d)).max(0.0)).sum();
        mean - PENALTY * below
    }
}

/// Accuracies by domain: the scale of the real phase.
#[must_use]
pub fn accuracies(scores: &BTreeMap<Domain, DomainScore>) -> ByDomain {
    scores.iter().map(|(d, s)| (d.clone(), s.exact.accuracy())).collect()
}
