//! Expert loads and dead experts (method 1.1).

use crate::profile::counters::{SampleRow, Samples};
use darwin_core::Domain;
use darwin_core::files::{ExpertLoads, LiteralLoad};
use darwin_core::stats::{clopper_pearson_lower, clopper_pearson_upper, pooled_design_effect};
use std::collections::BTreeMap;

/// One-sided level of the bounds.
const ALPHA: f64 = 0.05;
/// Experts with fewer selections do not enter the design effect.
const MIN_SELECTIONS: u64 = 20;
const DEAD: f64 = 0.01;
const COLD: f64 = 0.1;
const HOT: f64 = 5.0;
/// Below this rate the published definitions call an expert dead.
const LITERAL: f64 = 0.05;

/// Loads of one layer on a set of samples.
pub(crate) struct Loads {
    tokens: Vec<u64>,
    total: u64,
    relative: Vec<f64>,
    deff: f64,
    n_eff: f64,
    upper: Vec<f64>,
    lower: Vec<f64>,
    /// Tokens needed to call an expert dead, where there are too few.
    undecidable: Option<u64>,
}

impl Loads {
    /// Counts of `rows` in `layer`. A layer where no expert qualifies for a design effect gets 1.
    pub(crate) fn new(rows: &[&SampleRow], layer: usize, experts: usize, k: usize) -> Self {
        let sizes: Vec<u64> = rows.iter().map(|r| u64::from(r.tokens)).collect();
        let counts: Vec<u64> = rows
            .iter()
            .flat_map(|r| r.layers[layer].counts.iter().map(|n| u64::from(*n)))
            .collect();
        let mut tokens = vec![0; experts];
        for row in counts.chunks(experts) {
            tokens.iter_mut().zip(row).for_each(|(sum, n)| *sum += n);
        }
        let total: u64 = sizes.iter().sum();
        let deff = pooled_design_effect(&counts, &sizes, MIN_SELECTIONS)
            .filter(|d| *d > 0.0)
            .unwrap_or(1.0);
        let n_eff = total as f64 / deff;
        let uniform = experts as f64 / k as f64;
        let scaled = |n: &u64| *n as f64 / deff;
        let upper = |n| (clopper_pearson_upper(scaled(n), n_eff, ALPHA) * uniform).min(uniform);
        let lower = |n| clopper_pearson_lower(scaled(n), n_eff, ALPHA) * uniform;
        let needed = 3.0 * uniform / DEAD * deff;
        Self {
            relative: tokens.iter().map(|n| *n as f64 / (total.max(1)) as f64 * uniform).collect(),
            upper: tokens.iter().map(upper).collect(),
            lower: tokens.iter().map(lower).collect(),
            undecidable: (3.0 * uniform / n_eff > DEAD).then_some(needed.ceil() as u64),
            tokens,
            total,
            deff,
            n_eff,
        }
    }

    /// Experts with an upper bound below 0.01; `None` where undecidable.
    pub(crate) fn dead(&self) -> Option<Vec<usize>> {
        self.undecidable.is_none().then(|| self.where_(|j| self.upper[j] < DEAD))
    }

    /// Relative load of each expert.
    pub(crate) fn relative(&self) -> &[f64] {
        &self.relative
    }

    fn where_(&self, rule: impl Fn(usize) -> bool) -> Vec<usize> {
        (0..self.tokens.len()).filter(|j| rule(*j)).collect()
    }
}

/// All of method 1.1 for one layer.
pub(crate) fn expert_loads(samples: &Samples, layer: usize) -> ExpertLoads {
    let (experts, k) = (samples.setting.num_experts, samples.setting.num_experts_per_tok);
    let rows: Vec<&SampleRow> = samples.rows.iter().collect();
    let all = Loads::new(&rows, layer, experts, k);
    let domains = by_domain(&rows);
    let loads: BTreeMap<&Domain, Loads> =
        domains.iter().map(|(d, rows)| (*d, Loads::new(rows, layer, experts, k))).collect();
    let dead_by_domain: BTreeMap<Domain, Vec<usize>> = loads
        .iter()
        .filter_map(|(domain, loads)| Some(((*domain).clone(), loads.dead()?)))
        .collect();
    let mut gate_mass = vec![0.0; experts];
    for row in &rows {
        gate_mass.iter_mut().zip(&row.layers[layer].gates).for_each(|(sum, g)| *sum += g);
    }
    gate_mass.iter_mut().for_each(|g| *g /= all.total.max(1) as f64);
    ExpertLoads {
        gate_mass,
        dead: all.dead().unwrap_or_default(),
        cold: all.where_(|j| all.upper[j] < COLD),
        hot: all.where_(|j| all.lower[j] > HOT),
        specialists: specialists(&loads, &dead_by_domain, experts),
        literal: literal(&all, &rows, layer, k),
        by_domain: loads.iter().map(|(d, l)| ((*d).clone(), l.relative.clone())).collect(),
        dead_by_domain,
        tokens: all.tokens,
        relative_load: all.relative,
        upper: all.upper,
        lower: all.lower,
        deff: all.deff,
        n_eff: all.n_eff,
        undecidable: all.undecidable,
    }
}

fn by_domain<'r>(rows: &[&'r SampleRow]) -> BTreeMap<&'r Domain, Vec<&'r SampleRow>> {
    let mut groups: BTreeMap<&Domain, Vec<&SampleRow>> = BTreeMap::new();
    for row in rows {
        groups.entry(&row.domain).or_default().push(row);
    }
    groups
}

/// Dead in most of the decidable domains and loaded above 1 in one; that one is named.
fn specialists(
    loads: &BTreeMap<&Domain, Loads>,
    dead: &BTreeMap<Domain, Vec<usize>>,
    experts: usize,
) -> BTreeMap<usize, Domain> {
    let found = |j: usize| {
        let deaths = dead.values().filter(|d| d.contains(&j)).count();
        let busiest = loads.iter().max_by(|a, b| a.1.relative[j].total_cmp(&b.1.relative[j]))?;
        (2 * deaths > loads.len() && busiest.1.relative[j] > 1.0).then(|| (j, (*busiest.0).clone()))
    };
    (0..experts).filter_map(found).collect()
}

/// The published definitions, each with the floor that no router can go below.
fn literal(all: &Loads, rows: &[&SampleRow], layer: usize, k: usize) -> LiteralLoad {
    let experts = all.tokens.len() as f64;
    let total = all.total.max(1) as f64;
    let below = |rate: &dyn Fn(usize) -> f64| {
        (0..all.tokens.len()).filter(|j| rate(*j) < LITERAL).count() as f64 / experts
    };
    let presence = |j: usize| {
        let present = rows.iter().filter(|r| r.layers[layer].counts[j] > 0).count();
        present as f64 / rows.len().max(1) as f64
    };
    LiteralLoad {
        token_rate_below: below(&|j| all.tokens[j] as f64 / total),
        token_rate_floor: (1.0 - 20.0 * k as f64 / experts).max(0.0),
        selection_share_below: below(&|j| all.tokens[j] as f64 / total / k as f64),
        selection_share_floor: (1.0 - 20.0 / experts).max(0.0),
        sample_presence_below: below(&presence),
    }
}
