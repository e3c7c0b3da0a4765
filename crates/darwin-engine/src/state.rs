//! Batches and the state of a forward pass, as values.

use crate::Error;
use darwin_core::Domain;
use std::sync::Arc;

/// One sequence of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sequence {
    /// Token ids.
    pub ids: Vec<u32>,
    /// The caller's name for the sample.
    pub sample_id: u64,
    /// Its domain, where it has one.
    pub domain: Option<Domain>,
}

impl Sequence {
    /// A sequence with sample id 0 and no domain.
    #[must_use]
    pub fn new(ids: Vec<u32>) -> Self {
        Self { ids, sample_id: 0, domain: None }
    }
}

/// A ragged batch: sequences are concatenated, there is no padding ever.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    sequences: Vec<Sequence>,
    offsets: Vec<usize>,
}

impl Batch {
    /// A batch of sequences, in the order given.
    #[must_use]
    pub fn new(sequences: Vec<Sequence>) -> Self {
        let mut offsets = vec![0];
        offsets.extend(sequences.iter().scan(0, |end, s| {
            *end += s.ids.len();
            Some(*end)
        }));
        Self { sequences, offsets }
    }

    /// A batch of padded sequences as transformers takes them: `ids` and `attention_mask` are
    /// (sequences, length) row-major, padding (mask false) stands on the left or on the right of
    /// each. What the engine computes for a token is what transformers computes at its place.
    ///
    /// # Errors
    /// [`Error::Padding`] for a mask of another size, with holes, or without a token.
    pub fn from_padded(ids: &[u32], attention_mask: &[bool], length: usize) -> Result<Self, Error> {
        let wrong = |sequence, reason| Err(Error::Padding { sequence, reason });
        if ids.len() != attention_mask.len() || length == 0 || !ids.len().is_multiple_of(length) {
            let (ids, mask) = (ids.len(), attention_mask.len());
            let reason = format!("{ids} ids and {mask} mask values are no whole rows of {length}");
            return wrong(0, reason);
        }
        let mut sequences = Vec::with_capacity(ids.len() / length);
        for (i, (ids, mask)) in ids.chunks(length).zip(attention_mask.chunks(length)).enumerate() {
            let first = mask.iter().position(|token| *token);
            let last = mask.iter().rposition(|token| *token);
            let (Some(first), Some(last)) = (first, last) else {
                return wrong(i, "its attention mask has no token".to_owned());
            };
            if let Some(hole) = mask[first..last].iter().position(|token| !token) {
                let reason = format!("its attention mask has a hole at position {}", first + hole);
                return wrong(i, reason);
            }
            sequences.push(Sequence::new(ids[first..=last].to_vec()));
        }
        Ok(Self::new(sequences))
    }

    /// The sequences.
    #[must_use]
    pub fn sequences(&self) -> &[Sequence] {
        &self.sequences
    }

    /// Where each sequence starts among the flat tokens; one more at the end (n + 1).
    #[must_use]
    pub fn offsets(&self) -> &[usize] {
        &self.offsets
    }

    /// Tokens of all sequences together.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.offsets.last().copied().unwrap_or(0)
    }
}

/// A forward pass between two layers: a value that can be kept, cloned and continued.
#[derive(Clone, Debug)]
pub struct State {
    /// Layers passed; the next layer to run.
    pub layer: usize,
    /// The residual stream (tokens, hidden).
    pub hidden: Vec<f32>,
    batch: Arc<Batch>,
    width: usize,
}

impl State {
    pub(crate) fn new(hidden: Vec<f32>, batch: Arc<Batch>) -> Self {
        let width = hidden.len() / batch.tokens().max(1);
        Self { layer: 0, hidden, batch, width }
    }

    /// Values of the residual stream of all tokens, by the width that there is now or was when the
    /// values were put away.
    pub(crate) fn values(&self) -> usize {
        self.batch.tokens() * self.width
    }

    /// The batch.
    #[must_use]
    pub fn batch(&self) -> &Batch {
        &self.batch
    }

    /// Where each sequence starts among the flat tokens (n + 1).
    #[must_use]
    pub fn offsets(&self) -> &[usize] {
        self.batch.offsets()
    }
}
