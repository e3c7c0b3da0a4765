//! Whether tokens can go through a model.

use crate::{Batch, Config, Error};

impl Config {
    /// Checks that every sequence has ids, all in the vocabulary, and fits the context.
    pub(crate) fn check_batch(&self, batch: &Batch) -> Result<(), Error> {
        batch.sequences().iter().enumerate().try_for_each(|(i, sequence)| {
            self.check_ids("sequence", i, &sequence.ids)?;
            self.check_length(i, sequence.ids.len())
        })
    }

    /// Checks that there are ids and that all are in the vocabulary.
    pub(crate) fn check_ids(
        &self,
        what: &'static str,
        index: usize,
        ids: &[u32],
    ) -> Result<(), Error> {
        if ids.is_empty() {
            return Err(Error::Empty { what, index });
        }
        let vocab_size = self.vocab_size;
        match ids.iter().position(|id| *id as usize >= vocab_size) {
            None => Ok(()),
            Some(position) => {
                let id = ids[position];
                Err(Error::TokenOutOfRange { sequence: index, position, id, vocab_size })
            }
        }
    }

    /// Checks that a sequence of so many tokens fits the context.
    pub(crate) fn check_length(&self, sequence: usize, tokens: usize) -> Result<(), Error> {
        let limit = self.max_position_embeddings;
        if tokens > limit {
            return Err(Error::ContextTooLong { sequence, tokens, limit });
        }
        Ok(())
    }
}
