//! Batches and the state of a forward pass, as values.

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
}

impl State {
    pub(crate) fn new(hidden: Vec<f32>, batch: Batch) -> Self {
        Self { layer: 0, hidden, batch: Arc::new(batch) }
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
