//! Calibration samples and their batches (method 0).

use darwin_core::hash::sha256_hex;
use darwin_core::{Domain, Fingerprint, Split};
use darwin_engine::{Batch, Sequence};
use darwin_eval::{Encoded, EncodedItem};
use std::collections::BTreeMap;

/// Samples are truncated at this many tokens (method 0).
pub(crate) const MAX_TOKENS: usize = 512;

/// One sample: an item in its main format.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    /// Hash of domain and tokens.
    pub(crate) id: String,
    pub(crate) domain: Domain,
    /// Prompt and answer.
    pub(crate) ids: Vec<u32>,
    /// Tokens of the prompt.
    pub(crate) prompt: usize,
    /// The bare question, for probes.
    pub(crate) question: Vec<u32>,
}

impl Sample {
    fn new(item: &EncodedItem) -> Self {
        let main = item.main();
        let ids = main.sequence();
        let text = format!("{}\0{}\0{ids:?}", item.domain, main.prompt.len());
        let mut id = sha256_hex(text.as_bytes());
        id.truncate(16);
        Self {
            id,
            domain: item.domain.clone(),
            ids,
            prompt: main.prompt.len(),
            question: item.question.clone(),
        }
    }

    pub(crate) fn answer(&self) -> &[u32] {
        &self.ids[self.prompt..]
    }
}

/// The samples of a set: truncated, duplicates dropped by hash, in the order of the hash, at most
/// `per_domain` of each domain.
pub(crate) fn samples_of(encoded: &Encoded, per_domain: Option<usize>) -> Vec<Sample> {
    let truncated = encoded.clone().truncated(MAX_TOKENS);
    let mut samples: Vec<Sample> = truncated.items().iter().map(Sample::new).collect();
    samples.sort_by(|a, b| a.id.cmp(&b.id));
    samples.dedup_by(|a, b| a.id == b.id);
    let mut taken = BTreeMap::new();
    samples.retain(|s| {
        let count = taken.entry(s.domain.clone()).or_insert(0);
        *count += 1;
        per_domain.is_none_or(|limit| *count <= limit)
    });
    samples
}

/// Runs of consecutive samples with at most `tokens` tokens (at least one sample each).
pub(crate) fn batches(samples: &[Sample], tokens: usize) -> Vec<&[Sample]> {
    let (mut all, mut first, mut size) = (Vec::new(), 0, 0);
    for (i, sample) in samples.iter().enumerate() {
        if i > first && size + sample.ids.len() > tokens {
            all.push(&samples[first..i]);
            (first, size) = (i, 0);
        }
        size += sample.ids.len();
    }
    if first < samples.len() {
        all.push(&samples[first..]);
    }
    all
}

/// The engine's batch; sample ids are indices into the slice.
pub(crate) fn batch_of(samples: &[Sample]) -> Batch {
    let sequence = |(i, s): (usize, &Sample)| Sequence {
        ids: s.ids.clone(),
        sample_id: i as u64,
        domain: Some(s.domain.clone()),
    };
    Batch::new(samples.iter().enumerate().map(sequence).collect())
}

/// The identity of samples in their order: their split, and the hashes of their domains and tokens.
pub(crate) fn samples_fingerprint<'a>(
    split: Split,
    ids: impl Iterator<Item = &'a str>,
) -> Fingerprint {
    Fingerprint::of(
        "samples",
        std::iter::once(("split", split.name())).chain(ids.map(|id| ("id", id))),
    )
}

/// The sequence that each flat token of a batch belongs to.
pub(crate) fn owners(batch: &Batch) -> Vec<usize> {
    let lengths = batch.sequences().iter().map(|s| s.ids.len());
    lengths.enumerate().flat_map(|(i, n)| std::iter::repeat_n(i, n)).collect()
}
