//! Interface 7: a batch of candidates in, per-item results out.

use crate::{Error, ItemSet};
use darwin_checkpoint::TensorSource;
use darwin_core::{Cancel, Progress, Split};
use darwin_engine::{Cost, Model};

/// A model to evaluate.
#[derive(Clone, Copy)]
pub struct Candidate<'a> {
    /// Its name in messages.
    pub name: &'a str,
    /// Its weights.
    pub source: &'a dyn TensorSource,
}

/// What an evaluator's scores are; a real score is never compared with a proxy score (method 3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Likelihoods.
    Proxy,
    /// A benchmark.
    Real,
}

/// One item's result.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ItemResult {
    /// Nats per answer, main format, stop token included.
    pub nll: f64,
    /// Log-odds of the reference answer, main format: ln(p / (1 - p)), p = exp(-nll).
    pub log_odds: Option<f64>,
    /// Exact match in the main format.
    pub exact: Option<bool>,
    /// Exact match in the direct format, where the item has both.
    pub direct: Option<bool>,
    /// Whether `</think>` came, main format think only.
    pub closed: Option<bool>,
}

impl ItemResult {
    /// 1 where the answer is right in the main format, else 0.
    #[must_use]
    pub fn right(&self) -> f64 {
        f64::from(u8::from(self.exact == Some(true)))
    }
}

/// Results in the order of the items.
#[derive(Clone, Debug, PartialEq)]
pub struct Evaluation {
    /// One per item.
    pub results: Vec<ItemResult>,
    /// Forward tokens spent.
    pub cost: Cost,
}

/// Anything that can score candidates: the engine, a server, an external command.
pub trait Evaluator: Send + Sync {
    /// Proxy or real.
    fn kind(&self) -> Kind;

    /// The split of its items.
    fn split(&self) -> Split {
        self.items().split()
    }

    /// Its items.
    fn items(&self) -> &ItemSet;

    /// Evaluates candidates, results in their order. A candidate's own failure is its own result.
    ///
    /// # Errors
    /// [`Error::Cancelled`], and what makes all candidates fail alike.
    fn evaluate(
        &self,
        candidates: &[Candidate<'_>],
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Result<Vec<Result<Evaluation, Error>>, Error>;
}

/// Scores models that the engine has loaded; with that it is an [`Evaluator`], which loads and
/// scores one candidate after the other (the engine uses all cores for each).
pub trait Scorer: Send + Sync {
    /// Proxy or real.
    const KIND: Kind;

    /// Its items.
    fn item_set(&self) -> &ItemSet;

    /// Scores a loaded model.
    ///
    /// # Errors
    /// Whatever the engine brings.
    fn evaluate_model(&self, model: &Model, cancel: &Cancel) -> Result<Evaluation, Error>;
}

impl<S: Scorer> Evaluator for S {
    fn kind(&self) -> Kind {
        S::KIND
    }

    fn items(&self) -> &ItemSet {
        self.item_set()
    }

    fn evaluate(
        &self,
        candidates: &[Candidate<'_>],
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Result<Vec<Result<Evaluation, Error>>, Error> {
        let mut results = Vec::with_capacity(candidates.len());
        for candidate in candidates {
            let result = Model::load(candidate.source)
                .map_err(Error::from)
                .and_then(|model| self.evaluate_model(&model, cancel));
            if cancel.is_cancelled() {
                return Err(Error::Cancelled);
            }
            results.push(result);
            progress.advance(1);
        }
        Ok(results)
    }
}

/// ln(p / (1 - p)) of p = exp(-nll); infinite where p is 1.
pub(crate) fn log_odds(nll: f64) -> f64 {
    -nll - (-(-nll).exp_m1()).ln()
}
