//! The proxy: likelihood of the reference answers.

use crate::evaluator::{evaluate_each, log_odds};
use crate::{Candidate, Encoded, Error, Evaluation, Evaluator, ItemResult, ItemSet, Kind};
use darwin_core::{Cancel, Progress};
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

    /// Forward tokens of one evaluation, before it is run.
    #[must_use]
    pub fn cost(&self) -> Cost {
        Cost { tokens: self.encoded.tokens() }
    }

    /// Scores a loaded model.
    ///
    /// # Errors
    /// Whatever the engine brings.
    pub fn evaluate_model(&self, model: &Model, cancel: &Cancel) -> Result<Evaluation, Error> {
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

impl Evaluator for Likelihood {
    fn kind(&self) -> Kind {
        Kind::Proxy
    }

    fn items(&self) -> &ItemSet {
        &self.items
    }

    fn evaluate(
        &self,
        candidates: &[Candidate<'_>],
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Result<Vec<Result<Evaluation, Error>>, Error> {
        evaluate_each(candidates, progress, cancel, |model| self.evaluate_model(model, cancel))
    }
}
