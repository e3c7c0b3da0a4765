//! Derivatives of the goal by share where the merge lives (method 1.6), and the quadratic model
//! that follows from them.

use crate::job::Slopes;
use darwin_core::files::{Estimate, ExpertSlope, PartSlope};
use darwin_core::{Domain, ExpertIdx, Group, LayerIdx, Part};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A part of a layer, or one outside the layers.
type Place = (Option<LayerIdx>, Part);

/// Experts that a report names.
const EXPERTS: usize = 12;

/// Derivatives at the best point of the line and a step further.
#[derive(Clone, Debug, PartialEq)]
pub struct Diagnosis {
    /// The line's best point.
    pub t: f64,
    /// The distance to the second point.
    pub step: f64,
    /// On two disjoint sets of items at the point.
    pub halves: [Arc<Slopes>; 2],
    /// At the second point, on the items of the first half.
    pub further: Arc<Slopes>,
    /// What can have a share of its own.
    pub groups: Arc<[Group]>,
    /// Items of each domain, both halves together.
    pub n: BTreeMap<Domain, usize>,
    /// Forward tokens that it cost.
    pub tokens: u64,
}

impl Diagnosis {
    /// The derivative of a weighted sum of domains by group.
    #[must_use]
    pub fn gradient(&self, weight: impl Fn(&Domain) -> f64) -> Vec<f64> {
        let mut sums = vec![0.0; self.groups.len()];
        for half in &self.halves {
            add(&mut sums, half, |domain| weight(domain) / 2.0);
        }
        sums
    }

    /// Its curvature by group: the difference of the derivatives at two points of the line, averaged
    /// over a part's groups of one kind, for that of one group is mostly noise. On the line all
    /// shares move together; the Hessian is nearly diagonal, so that the difference is the group's
    /// own (method 1.6). Never above 0.
    #[must_use]
    pub fn curvature(&self, weight: impl Fn(&Domain) -> f64) -> Vec<f64> {
        let mut differences = vec![0.0; self.groups.len()];
        add(&mut differences, &self.further, &weight);
        add(&mut differences, &self.halves[0], |domain| -weight(domain));
        let kind = |group: &Group| (group.layer, group.part, group.expert.is_some());
        let mut sums: BTreeMap<_, (f64, f64)> = BTreeMap::new();
        for (group, difference) in self.groups.iter().zip(&differences) {
            let sum = sums.entry(kind(group)).or_default();
            *sum = (sum.0 + difference / self.step, sum.1 + 1.0);
        }
        let of = |group: &Group| {
            let (sum, n) = sums[&kind(group)];
            (sum / n).min(0.0)
        };
        self.groups.iter().map(of).collect()
    }

    /// What the quadratic model says a weighted sum of domains gains at some shares over the line's
    /// best point.
    #[must_use]
    pub fn predict(&self, weight: impl Fn(&Domain) -> f64, shares: &[f64]) -> f64 {
        let (gradient, curvature) = (self.gradient(&weight), self.curvature(&weight));
        let terms = gradient.iter().zip(curvature).zip(shares);
        terms
            .map(|((g, c), share)| {
                let step = share - self.t;
                g * step + 0.5 * c * step * step
            })
            .sum()
    }

    /// Correlation over groups between the two halves' derivatives of a weighted sum of domains.
    #[must_use]
    pub fn repeatability(&self, weight: impl Fn(&Domain) -> f64) -> f64 {
        let [a, b] = self.halves.each_ref().map(|half| {
            let mut sums = vec![0.0; self.groups.len()];
            add(&mut sums, half, &weight);
            sums
        });
        correlation(&a, &b)
    }

    /// A weighted sum of domains over some groups. Errors of groups on the same items are taken as
    /// independent, which makes the error of a sum too small where they move together.
    fn estimate(&self, groups: &[usize], weight: impl Fn(&Domain) -> f64) -> Estimate {
        let (mut value, mut square) = (0.0, 0.0);
        for half in &self.halves {
            for (domain, slope) in &half.domains {
                let weight = weight(domain) / 2.0;
                for i in groups {
                    value += weight * f64::from(slope.value[*i]);
                    square += (weight * f64::from(slope.se[*i])).powi(2);
                }
            }
        }
        Estimate { value, se: square.sqrt() }
    }

    /// What the report shows: by layer and part, the experts that matter, and what became of it in
    /// the child, where that has a share for each group.
    #[must_use]
    pub fn parts(
        &self,
        weight: impl Fn(&Domain) -> f64 + Copy,
        child: Option<&[f64]>,
    ) -> (Vec<PartSlope>, Vec<ExpertSlope>) {
        let curvature = self.curvature(weight);
        let mut of_part: Vec<(Place, Vec<usize>)> = Vec::new();
        let mut of_expert: BTreeMap<(LayerIdx, ExpertIdx), Vec<usize>> = BTreeMap::new();
        for (i, group) in self.groups.iter().enumerate() {
            let key = (group.layer, group.part);
            match of_part.iter_mut().find(|(known, _)| *known == key) {
                Some((_, groups)) => groups.push(i),
                None => of_part.push((key, vec![i])),
            }
            if let (Some(layer), Some(expert)) = (group.layer, group.expert) {
                of_expert.entry((layer, expert)).or_default().push(i);
            }
        }
        let domains: Vec<&Domain> = self.halves[0].domains.keys().collect();
        let parts = of_part.into_iter().map(|((layer, part), groups)| {
            let only = |wanted: &Domain| {
                let wanted = wanted.clone();
                move |domain: &Domain| f64::from(u8::from(*domain == wanted))
            };
            let of_domain = |d: &&Domain| ((*d).clone(), self.estimate(&groups, only(d)));
            let shares = child.map(|child| spread(groups.iter().map(|i| child[*i])));
            PartSlope {
                layer,
                part,
                goal: self.estimate(&groups, weight),
                domains: domains.iter().map(of_domain).collect(),
                curvature: groups.iter().map(|i| curvature[*i]).sum(),
                shares,
            }
        });
        let experts = of_expert.into_iter().map(|((layer, expert), groups)| ExpertSlope {
            layer,
            expert,
            goal: self.estimate(&groups, weight),
            share: child.map(|child| spread(groups.iter().map(|i| child[*i]))[1]),
        });
        let mut experts: Vec<ExpertSlope> = experts.collect();
        let z = |e: &ExpertSlope| (e.goal.value / e.goal.se.max(1e-300)).abs();
        experts.sort_by(|a, b| z(b).total_cmp(&z(a)));
        experts.truncate(EXPERTS);
        (parts.collect(), experts)
    }
}

/// Least, mean and most.
fn spread(values: impl Iterator<Item = f64>) -> [f64; 3] {
    let (mut least, mut most, mut sum, mut n) = (f64::INFINITY, f64::NEG_INFINITY, 0.0, 0.0);
    for value in values {
        (least, most) = (least.min(value), most.max(value));
        (sum, n) = (sum + value, n + 1.0);
    }
    [least, sum / n, most]
}

/// Adds the derivatives of a weighted sum of domains.
pub(crate) fn add(sums: &mut [f64], slopes: &Slopes, weight: impl Fn(&Domain) -> f64) {
    for (domain, slope) in &slopes.domains {
        let weight = weight(domain);
        sums.iter_mut().zip(&slope.value).for_each(|(sum, v)| *sum += weight * f64::from(*v));
    }
}

/// Pearson's correlation; not a number where one of the two does not vary.
fn correlation(a: &[f64], b: &[f64]) -> f64 {
    let n = a.len().max(1) as f64;
    let mean = |x: &[f64]| x.iter().sum::<f64>() / n;
    let (ma, mb) = (mean(a), mean(b));
    let cross = |x: &[f64], mx: f64, y: &[f64], my: f64| -> f64 {
        x.iter().zip(y).map(|(x, y)| (x - mx) * (y - my)).sum()
    };
    cross(a, ma, b, mb) / (cross(a, ma, a, ma) * cross(b, mb, b, mb)).sqrt()
}
