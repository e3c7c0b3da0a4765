//! The output head: the final norm, and logits.

use crate::kernels::{Matrix, multiply, rms_norm};
use crate::team::{Team, run_all};
use crate::{Config, State};
use std::convert::Infallible;
use std::ops::Range;
use std::sync::Arc;

/// Rows of logits that are computed together.
pub(crate) const LOGIT_ROWS: usize = 48;

/// The final norm and the output head, or the part of it for a band of the vocabulary.
#[derive(Clone, Debug)]
pub struct Head {
    pub(crate) config: Arc<Config>,
    /// The scale (hidden)
    pub(crate) norm: Arc<[f32]>,
    /// (token ids of the band, hidden)
    pub(crate) weight: Matrix,
    /// The token ids.
    pub(crate) band: Range<usize>,
    /// Whether threads share the work where they have less than a block of rows each.
    pub(crate) large: bool,
}

impl Head {
    /// The token ids whose logits it gives.
    #[must_use]
    pub fn band(&self) -> Range<usize> {
        self.band.clone()
    }

    /// The part for some token ids, from a multiple of 16 on.
    pub(crate) fn part(&self, band: Range<usize>) -> Self {
        if band == self.band {
            return self.clone();
        }
        let own = band.start - self.band.start..band.end - self.band.start;
        Self { weight: self.weight.part(own), band, ..self.clone() }
    }

    /// Logits of chosen flat token positions into a buffer that can be used again, row-major
    /// (positions, token ids of the band): fresh memory for many rows costs about as much as a
    /// layer. The state must have passed all layers for them to mean the model's output.
    ///
    /// # Panics
    /// If a position is not in the batch.
    pub fn logits_into(&self, state: &State, positions: &[usize], logits: &mut Vec<f32>) {
        let (width, columns) = (self.config.hidden_size, self.band.len());
        logits.resize(positions.len() * columns, 0.0);
        let rows = logits.chunks_mut(LOGIT_ROWS * columns).zip(positions.chunks(LOGIT_ROWS));
        let rows: Vec<_> = rows.collect();
        let shared = self.large && rows.len() < rayon::current_num_threads();
        let done: Result<Vec<()>, Infallible> =
            run_all(rows, shared, |(logits, positions), team| {
                let mut hidden = Vec::with_capacity(positions.len() * width);
                for p in positions {
                    hidden.extend_from_slice(&state.hidden[p * width..(p + 1) * width]);
                }
                let mut normed = vec![0.0; hidden.len()];
                self.norm_into(&hidden, &mut normed);
                self.multiply(team, &normed, logits);
                Ok(())
            });
        done.unwrap_or_else(|never| match never {});
    }

    /// The final norm of (rows, hidden).
    pub(crate) fn norm_into(&self, hidden: &[f32], normed: &mut [f32]) {
        rms_norm(hidden, &self.norm, self.config.rms_norm_eps as f32, normed);
    }

    /// Logits (rows, token ids of the band) of normed rows.
    pub(crate) fn multiply(&self, team: Team<'_>, normed: &[f32], logits: &mut [f32]) {
        let width = self.config.hidden_size;
        let (rows, columns) = (normed.len() / width, self.band.len());
        multiply(team, rows, normed, width, self.weight.panels(), logits, columns);
    }
}
