//! What an arm of CMA-ES over the small genome knows before it starts: nothing, or the card's rule
//! (method 2).

use crate::genome::RouterChoice;
use darwin_core::files::Profile;

/// What an arm knows of the parents. [`Prior::ignorant`] knows nothing.
#[derive(Clone, Debug, PartialEq)]
pub struct Prior {
    /// The card's share r of the mother in each layer; nothing where nothing is known.
    shares: Option<Vec<f64>>,
    /// The card's literal-dead shares of the mother, per layer.
    pub(crate) card_dead_share: Option<Vec<f64>>,
    /// The golden layer that the card cuts its blocks by.
    card_golden_layer: Option<usize>,
    /// Router choices that are not genes.
    pub(crate) router_fixed: Option<Vec<RouterChoice>>,
}

impl Prior {
    /// Nothing is known: the search starts at 0.5.
    #[must_use]
    pub fn ignorant() -> Self {
        Self { shares: None, card_dead_share: None, card_golden_layer: None, router_fixed: None }
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
        let router = |l| if l == last { RouterChoice::Father } else { RouterChoice::Mother };
        Self {
            shares: Some(dead.iter().map(|d| 1.0 - d).collect()),
            router_fixed: Some((0..dead.len()).map(router).collect()),
            card_dead_share: Some(dead),
            card_golden_layer: Some(golden),
        }
    }

    /// The card's golden layer of reasoning, where this is the card's prior.
    pub(crate) fn card_golden_layer(&self) -> Option<usize> {
        self.card_golden_layer
    }

    /// Whether a gene tau weighs what is known against the genome's own shares.
    pub(crate) fn fuses(&self) -> bool {
        self.shares.is_some()
    }

    /// r of a layer; 0.5 where nothing is known.
    pub(crate) fn share(&self, layer: usize) -> f64 {
        self.shares.as_ref().map_or(0.5, |shares| shares[layer])
    }

    /// The embedding serves every layer: the mean of the layers' r.
    pub(crate) fn mean_share(&self) -> f64 {
        self.shares
            .as_ref()
            .map_or(0.5, |shares| shares.iter().sum::<f64>() / shares.len().max(1) as f64)
    }
}
