//! The user's goal: domains and their weights (method 2).

use super::half_sums;
use crate::estimate::mean;
use crate::sample::Sample;
use darwin_core::files::{Advantage, Estimate};
use darwin_core::{Domain, Part};
use std::collections::BTreeMap;

/// Which sample belongs to which domain, and what the domains weigh.
pub(crate) struct Goal {
    domains: Vec<Domain>,
    weights: BTreeMap<Domain, f64>,
}

impl Goal {
    /// Weights as given, 0 for domains that are not named; all 1 where none is given.
    pub(crate) fn new(samples: &[Sample], weights: &BTreeMap<Domain, f64>) -> Self {
        let domains: Vec<Domain> = samples.iter().map(|s| s.domain.clone()).collect();
        let weight = |d: &Domain| {
            let given = weights.get(d).copied().unwrap_or(0.0);
            if weights.is_empty() { 1.0 } else { given }
        };
        let weights = domains.iter().map(|d| (d.clone(), weight(d))).collect();
        Self { domains, weights }
    }

    pub(crate) fn weights(&self) -> &BTreeMap<Domain, f64> {
        &self.weights
    }

    /// Per-sample values by domain.
    pub(crate) fn groups(&self, values: &[f64]) -> BTreeMap<&Domain, Vec<f64>> {
        let mut groups: BTreeMap<&Domain, Vec<f64>> = BTreeMap::new();
        for (domain, value) in self.domains.iter().zip(values) {
            groups.entry(domain).or_default().push(*value);
        }
        groups
    }

    /// The weighted mean of the domains' means; errors of domains are independent.
    pub(crate) fn total(&self, values: &[f64]) -> Estimate {
        let (mut sum, mut squares, mut weights) = (0.0, 0.0, 0.0);
        for (domain, values) in self.groups(values) {
            let (weight, found) = (self.weights[domain], mean(&values));
            sum += weight * found.value;
            squares += (weight * found.se).powi(2);
            weights += weight;
        }
        if weights <= 0.0 {
            return Estimate::default();
        }
        Estimate { value: sum / weights, se: squares.sqrt() / weights }
    }

    /// Advantage of the mother from the per-sample values of both directions (method 1.6).
    pub(crate) fn advantage(
        &self,
        a: &[f64],
        b: &[f64],
        components: BTreeMap<Part, Estimate>,
    ) -> Advantage {
        let both = half_sums(a, b);
        let by_domain = self.groups(&both);
        Advantage {
            total: self.total(&both),
            by_domain: by_domain.into_iter().map(|(d, v)| (d.clone(), mean(&v))).collect(),
            into_father: self.total(a),
            into_mother: self.total(b),
            components,
        }
    }
}
