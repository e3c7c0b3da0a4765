//! The proxy: likelihood of the reference answers.

use crate::evaluator::log_odds;
use crate::{Encoded, Error, Evaluation, ItemResult, ItemSet, Kind, Scorer};
use darwin_core::Cancel;
use darwin_engine::{Cost, Model, ScoreItem, Text, score_counted};

/// NLL and log-odds of the main format's reference answer (method 3.3).
#[derive(Clone, Debug)]
pub struct Likelihood {
    items: ItemSet,
    encoded: Encoded,
    score_items: Vec<ScoreItem>,
}

impl Likelihood {
    /// Tokenises the items.
    ///
    /// # Errors
    /// Whatever [`Encoded::new`] brings.
    pub fn new(items: ItemSet, text: &Text) -> Result<Self, Error> {
        let encoded = Encoded::new(&items, text)?;
        Ok(Self { items, score_items: encoded.score_items(), encoded })
    }

    /// The tokenised items.
    #[must_use]
    pub fn encoded(&self) -> &Encoded {
        &self.encoded
    }

    /// The items as the engine scores them.
    #[must_use]
    pub fn score_items(&self) -> &[ScoreItem] {
        &self.score_items
    }

    /// The same over some of the items, by position.
    ///
    /// # Panics
    /// If there is no such item.
    #[must_use]
    pub fn select(&self, indices: &[u32]) -> Self {
        let items = self.items.select(indices);
        let encoded = self.encoded.select(&items, indices);
        Self { score_items: encoded.score_items(), items, encoded }
    }

    /// Forward tokens of one evaluation, before it is run: at most so many are.
    #[must_use]
    pub fn cost(&self) -> Cost {
        let tokens = self.encoded.tokens();
        Cost { tokens, run: tokens }
    }
}

impl Scorer for Likelihood {
    const KIND: Kind = Kind::Proxy;

    fn item_set(&self) -> &ItemSet {
        &self.items
    }

    fn evaluate_model(&self, model: &Model, cancel: &Cancel) -> Result<Evaluation, Error> {
        let (scores, cost) = score_counted(model, &self.score_items, cancel)?;
        let results = scores
            .iter()
            .map(|s| ItemResult {
                nll: s.nll,
                log_odds: Some(log_odds(s.nll)),
                ..ItemResult::default()
            })
            .collect();
        Ok(Evaluation { results, cost })
    }
}
