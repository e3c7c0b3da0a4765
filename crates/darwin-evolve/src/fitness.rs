//! Fitness: one number from scores per domain (method 3.3), higher is better.

use crate::RunConfig;
use crate::job::{Scored, Tally};
use darwin_core::Domain;
use std::collections::BTreeMap;

/// Fine per unit that a protected domain is certainly below its floor (method 2).
const FINE: f64 = 10.0;

/// Turns scores per domain into a fitness.
#[derive(Clone, Debug, PartialEq)]
pub struct Fitness {
    /// What a domain weighs, in all 1.
    weights: BTreeMap<Domain, f64>,
    /// What a protected domain may lose.
    margins: BTreeMap<Domain, f64>,
    /// The father's weighted mean score.
    level: f64,
}

impl Fitness {
    /// Weights and margins from the goal, for the domains that the father was scored on.
    #[must_use]
    pub fn new(config: &RunConfig, father: &Scored) -> Self {
        let total: f64 = father.domains.keys().map(|d| config.weight(d)).sum();
        let weight = |d: &Domain| if total > 0.0 { config.weight(d) / total } else { 0.0 };
        let weights: BTreeMap<Domain, f64> =
            father.domains.keys().map(|d| (d.clone(), weight(d))).collect();
        let margins = config.goal.protected.iter();
        let margins = margins.filter(|(d, _)| father.domains.contains_key(d));
        let level = father.domains.iter().map(|(d, tally)| weights[d] * tally.score).sum();
        Self { weights, margins: margins.map(|(d, m)| (d.clone(), *m)).collect(), level }
    }

    /// The father's mean score and the weighted gains over him on the candidate's own items, less 10
    /// times whatever a protected domain lies below its floor by more than a standard error: a fine
    /// on a few unlucky items would be noise (method 2).
    #[must_use]
    pub fn of(&self, scored: &Scored) -> f64 {
        let tally = |d: &Domain| scored.domains.get(d);
        let below = |(d, margin): (&Domain, &f64)| {
            tally(d)
                .map_or(f64::INFINITY, |t: &Tally| (-margin - t.gain.value - t.gain.se).max(0.0))
        };
        self.level + self.goal_gain(scored) - FINE * self.margins.iter().map(below).sum::<f64>()
    }

    /// The weighted gains over the father on the candidate's own items.
    #[must_use]
    pub fn goal_gain(&self, scored: &Scored) -> f64 {
        let gain = |d: &Domain| scored.domains.get(d).map_or(f64::NEG_INFINITY, |t| t.gain.value);
        self.weights.iter().filter(|(_, w)| **w > 0.0).map(|(d, w)| w * gain(d)).sum()
    }

    /// Puts the margins on another scale.
    pub(crate) fn translate(&mut self, margin: impl Fn(&Domain, f64) -> f64) {
        self.margins.iter_mut().for_each(|(domain, own)| *own = margin(domain, *own));
    }

    /// What a domain weighs.
    #[must_use]
    pub fn weight(&self, domain: &Domain) -> f64 {
        self.weights.get(domain).copied().unwrap_or(0.0)
    }

    /// Protected domains with what each may lose.
    #[must_use]
    pub fn margins(&self) -> &BTreeMap<Domain, f64> {
        &self.margins
    }
}
