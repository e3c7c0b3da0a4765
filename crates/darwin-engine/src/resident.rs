//! What a loaded model takes while it works, from headers alone.

use crate::buffers::{Buffers, caches, record_bytes};
use crate::footprint::{READING, with_slack};
use crate::generate::GROUP;
use crate::head::LOGIT_ROWS;
use crate::layers::{MAX_GROUP_TOKENS, is_large};
use crate::{LayerSource, Stream};

/// What a loaded model is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Run {
    /// Passes over batches of up to `batch` tokens, seen by taps where `tapped`.
    Passes {
        /// Most tokens of a batch.
        batch: usize,
        /// The longest sequence.
        longest: usize,
        /// Whether taps see what is computed.
        tapped: bool,
    },
    /// Likelihoods of items of `tokens` tokens together.
    Score {
        /// Tokens of all items.
        tokens: usize,
        /// The longest item.
        longest: usize,
    },
    /// Continuations of prompts.
    Generate {
        /// How many.
        sequences: usize,
        /// The longest prompt.
        prompt: usize,
        /// Most new tokens of each.
        new_tokens: usize,
    },
}

/// Bytes of a loaded model and of what it does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resident {
    /// The weights, packed, and the embedding.
    pub weights: u64,
    /// Keys, values and states of the sequences that are on their way.
    pub caches: u64,
    /// Buffers of all threads; while the model is loaded, those of reading.
    pub buffers: u64,
}

impl Resident {
    /// All of it.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.weights.saturating_add(self.caches).saturating_add(self.buffers)
    }

    /// Another model beside this one, that works when this one does not.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            weights: self.weights.saturating_add(other.weights),
            caches: self.caches.max(other.caches),
            buffers: self.buffers.max(other.buffers),
        }
    }
}

impl Stream<'_> {
    /// What the model would take if it were loaded whole ([`Model::load`](crate::Model::load)) and
    /// did this on so many threads. Weights that turn out to be of a narrower form than their type
    /// take less.
    #[must_use]
    pub fn resident(&self, run: &Run, threads: usize) -> Resident {
        let (config, parts, threads) = (self.config(), self.footprint(), threads.max(1) as u64);
        let embedding = 4 * (config.vocab_size * config.hidden_size) as u64;
        let head = parts.head_row * config.vocab_size as u64;
        let weights = embedding + head + parts.layers.iter().sum::<u64>();
        let row = 4 * config.hidden_size as u64;
        let logits = 4 * config.vocab_size as u64;
        let (caches, working) = match *run {
            Run::Passes { batch, longest, tapped } => {
                let buffers = Buffers::new(config, batch, longest, threads).bytes();
                let seen = row + if tapped { record_bytes(config) } else { 0 };
                let rows = threads * (LOGIT_ROWS as u64) * (logits + 2 * row);
                (0, buffers + batch.max(longest) as u64 * seen + rows)
            }
            Run::Score { tokens, longest } => {
                let batch = tokens.min(threads as usize * MAX_GROUP_TOKENS);
                let buffers = Buffers::new(config, batch, longest, threads).bytes();
                let rows = threads * (LOGIT_ROWS as u64) * (logits + 2 * row);
                (0, buffers + batch.max(longest) as u64 * row + rows)
            }
            Run::Generate { sequences, prompt, new_tokens } => {
                let workers = if is_large(config) { 1 } else { threads.min(sequences as u64) };
                let each = (sequences as u64).div_ceil(workers.max(1)).min(GROUP as u64);
                let most = prompt.saturating_add(new_tokens).min(config.max_position_embeddings);
                let kept = caches(config, workers * each, most as u64);
                let block = (MAX_GROUP_TOKENS + prompt).min(prompt.saturating_mul(each as usize));
                let buffers = Buffers::together(config, block, block, workers, threads).bytes();
                let rows = workers * each * (logits + row);
                (kept, buffers + workers * block as u64 * row + rows)
            }
        };
        // The embedding is read row-major and copied once.
        let loading = (threads * READING).max(embedding.saturating_sub(weights - embedding));
        Resident { weights: with_slack(weights), caches, buffers: working.max(loading) }
    }
}
