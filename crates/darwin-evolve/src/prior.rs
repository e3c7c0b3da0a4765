//! From diagnostics to a prior (method 2): what an arm knows before it starts.

use crate::genome::RouterChoice;
use darwin_core::files::{Comparison, Profile};
use darwin_core::keyed::Rng;
use darwin_core::stats::{logit, sigmoid};
use std::collections::BTreeMap;

/// In a layer where at least this share of the experts is dead in the mother and alive in the
/// father, her router is forbidden.
const FORBIDDEN_DEAD_SHARE: f64 = 0.10;

/// What an arm knows of the parents. [`Prior::ignorant`] knows nothing.
#[derive(Clone, Debug, PartialEq)]
pub struct Prior {
    /// r_MRI per layer, by component (`mixer`, `routed`, `shared`, `layer`).
    shares: Vec<BTreeMap<String, f64>>,
    /// Standard deviation of logit r, likewise.
    sds: Vec<BTreeMap<String, f64>>,
    /// Layers whose advantage is beyond 2 se: |logit t - prior| <= 2 sd there.
    certain: Vec<bool>,
    /// Layers where the mother's router is forbidden.
    forbidden: Vec<bool>,
    /// Whether mean and spread of the search come from here.
    starts: bool,
    /// Whether tau is a gene.
    fuses: bool,
    /// The card's literal-dead shares of the mother, per layer.
    pub(crate) card_dead_share: Option<Vec<f64>>,
    /// The golden layer that the card cuts its blocks by.
    card_golden_layer: Option<usize>,
    /// Router choices that are not genes.
    pub(crate) router_fixed: Option<Vec<RouterChoice>>,
}

impl Prior {
    /// Nothing is known (arm `blind`): r = 0.5, no constraint, tau 0 and not a gene.
    #[must_use]
    pub fn ignorant(num_layers: usize) -> Self {
        Self {
            shares: vec![BTreeMap::new(); num_layers],
            sds: vec![BTreeMap::new(); num_layers],
            certain: vec![false; num_layers],
            forbidden: vec![false; num_layers],
            starts: false,
            fuses: false,
            card_dead_share: None,
            card_golden_layer: None,
            router_fixed: None,
        }
    }

    /// The comparison's prior (arm `guided`).
    #[must_use]
    pub fn guided(comparison: &Comparison) -> Self {
        let layers = &comparison.layers;
        Self {
            shares: layers.iter().map(|l| l.r_mri.clone()).collect(),
            sds: layers.iter().map(|l| l.r_sd.clone()).collect(),
            certain: layers
                .iter()
                .map(|l| l.advantage.total.value.abs() > 2.0 * l.advantage.total.se)
                .collect(),
            forbidden: layers
                .iter()
                .map(|l| l.dead_in_mother_only.is_some_and(|share| share >= FORBIDDEN_DEAD_SHARE))
                .collect(),
            starts: true,
            fuses: true,
            card_dead_share: None,
            card_golden_layer: None,
            router_fixed: None,
        }
    }

    /// The same diagnostics with the layers permuted (arm `placebo`).
    #[must_use]
    pub fn placebo(comparison: &Comparison, rng: &mut Rng) -> Self {
        let guided = Self::guided(comparison);
        let mut order: Vec<usize> = (0..guided.shares.len()).collect();
        rng.shuffle(&mut order);
        Self {
            shares: order.iter().map(|l| guided.shares[*l].clone()).collect(),
            sds: order.iter().map(|l| guided.sds[*l].clone()).collect(),
            certain: order.iter().map(|l| guided.certain[*l]).collect(),
            forbidden: order.iter().map(|l| guided.forbidden[*l]).collect(),
            ..guided
        }
    }

    /// The published rule, literally (arm `card`; method 2): donor = father, per layer his weight
    /// = share of literal-dead experts in the mother, density of the mother = 1 - c x that share,
    /// router from the mother except in the last layer.
    #[must_use]
    pub fn card(mother: &Profile) -> Self {
        let dead: Vec<f64> = mother
            .layers
            .iter()
            .map(|l| l.experts.as_ref().map_or(0.0, |e| e.literal.token_rate_below))
            .collect();
        let last = dead.len().saturating_sub(1);
        let golden = mother.golden_layers.get("REASONING").or(mother.golden_layers.values().next());
        let golden = golden.copied().unwrap_or(last.saturating_sub(1));
        let shares = dead
            .iter()
            .map(|d| {
                ["mixer", "routed", "shared", "layer"]
                    .into_iter()
                    .map(|c| (c.to_owned(), 1.0 - d))
                    .collect()
            })
            .collect();
        let router = (0..dead.len())
            .map(|l| if l == last { RouterChoice::Father } else { RouterChoice::Mother })
            .collect();
        Self {
            shares,
            fuses: true,
            router_fixed: Some(router),
            card_dead_share: Some(dead.clone()),
            card_golden_layer: Some(golden),
            ..Self::ignorant(dead.len())
        }
    }

    /// The card's golden layer of reasoning, where this is the card's prior.
    pub(crate) fn card_golden_layer(&self) -> Option<usize> {
        self.card_golden_layer
    }

    pub(crate) fn starts(&self) -> bool {
        self.starts
    }

    pub(crate) fn fuses(&self) -> bool {
        self.fuses
    }

    /// r_MRI of a component, the layer's own where the component has none, 0.5 where nothing is
    /// known.
    pub(crate) fn share(&self, layer: usize, component: &str) -> f64 {
        let known = &self.shares[layer];
        known.get(component).or_else(|| known.get("layer")).copied().unwrap_or(0.5)
    }

    fn sd(&self, layer: usize, component: &str) -> f64 {
        let known = &self.sds[layer];
        known.get(component).or_else(|| known.get("layer")).copied().unwrap_or(f64::INFINITY)
    }

    /// The embedding serves every layer: the mean of the layers' r.
    pub(crate) fn embed_share(&self) -> f64 {
        let n = self.shares.len().max(1) as f64;
        (0..self.shares.len()).map(|l| self.share(l, "layer")).sum::<f64>() / n
    }

    pub(crate) fn router_from_mother_forbidden(&self, layer: usize) -> bool {
        self.forbidden[layer]
    }

    /// |logit t - logit r| <= 2 sd where the layer's advantage is certain.
    pub(crate) fn constrain(&self, layer: usize, component: &str, t: f64) -> f64 {
        let sd = self.sd(layer, component);
        if !self.certain[layer] || !sd.is_finite() {
            return t;
        }
        let centre = logit(self.share(layer, component));
        sigmoid(logit(t).clamp(centre - 2.0 * sd, centre + 2.0 * sd))
    }

    pub(crate) fn mean_logit(&self, layers: &[usize], component: Option<&str>) -> f64 {
        let name = component.unwrap_or("layer");
        let sum: f64 = layers.iter().map(|l| logit(self.share(*l, name).clamp(0.02, 0.98))).sum();
        sum / layers.len().max(1) as f64
    }

    pub(crate) fn mean_sd(&self, layers: &[usize], component: Option<&str>) -> f64 {
        let name = component.unwrap_or("layer");
        let sum: f64 = layers.iter().map(|l| self.sd(*l, name).min(10.0)).sum();
        sum / layers.len().max(1) as f64
    }
}
