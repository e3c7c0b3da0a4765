//! Final norm and output head: likelihoods, and the way back from them.

use super::direction::Ends;
use super::groups::Tally;
use super::maps::{self, Output};
use super::step::{Tokens, norm_to};
use crate::finite::{HEAD, first_not_finite};
use crate::head::LOGIT_ROWS;
use crate::kernels::{Buffer, Matrix, log_total, multiply, scratch, softmax_loss_back};
use crate::{Error, Head};
use std::sync::Arc;

/// The head, its transposed and its directions.
pub(super) struct Ending {
    pub(super) head: Head,
    /// (hidden, vocab)
    back: Matrix,
    direction: Arc<Ends>,
}

/// A token that an answer asks for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    /// The row whose logits say how likely it is.
    pub(super) row: usize,
    /// Its id.
    pub(super) id: u32,
}

#[derive(Debug, Default)]
pub(super) struct Work {
    stream: Buffer,
    normed: Buffer,
    normed_grad: Buffer,
    grad: Buffer,
    logits: Buffer,
    shares: Buffer,
}

impl Ending {
    pub(super) fn new(head: Head, direction: Arc<Ends>) -> Self {
        let back = Matrix::transposed(&[&head.weight]);
        Self { head, back, direction }
    }

    /// Adds to `nlls` (items) the negative log-likelihood of each asked token, and turns the stream
    /// after the last layer (tokens, hidden) into its gradient. Logits of a block of tokens are there
    /// at a time.
    pub(super) fn backward(
        &self,
        tokens: &Tokens<'_>,
        asked: &[Asked],
        stream: &mut [f32],
        (work, maps): (&mut Work, &mut maps::Scratch),
        nlls: &mut [f64],
        tally: &mut Tally<'_>,
    ) -> Result<(), Error> {
        let (hidden, vocab) = (tokens.config.hidden_size, tokens.config.vocab_size);
        let all = scratch(&mut work.stream, stream.len());
        all.copy_from_slice(stream);
        stream.fill(0.0);
        for asked in asked.chunks(LOGIT_ROWS) {
            let (n, items) = (asked.len(), tally.items);
            let x = scratch(&mut work.grad, 2 * n * hidden);
            let (x, grad) = x.split_at_mut(n * hidden);
            for (to, Asked { row, .. }) in x.chunks_exact_mut(hidden).zip(asked) {
                to.copy_from_slice(&all[row * hidden..(row + 1) * hidden]);
            }
            let normed = scratch(&mut work.normed, n * hidden);
            self.head.norm_into(x, normed);
            let logits = scratch(&mut work.logits, n * vocab);
            self.head.multiply(tokens.team, normed, logits);
            if let Some((row, value)) = first_not_finite(logits, vocab) {
                return Err(tokens.not_finite(None, HEAD, (asked[row].row, value)));
            }
            for (logits, Asked { row, id }) in logits.chunks_exact_mut(vocab).zip(asked) {
                let (total, id) = (log_total(logits), *id as usize);
                nlls[items[*row] as usize] -= total.log_probability(logits[id]);
                softmax_loss_back(logits, total, id);
            }
            // the rows that are worked on, as tokens of their own
            let own: Vec<u32> = asked.iter().map(|asked| items[asked.row]).collect();
            let mut tally = Tally { items: &own, sums: &mut *tally.sums, groups: tally.groups };
            let output = Output::all(logits, vocab);
            self.direction.head.shares(tokens.team, (normed, hidden), output, maps, &mut tally);
            let normed_grad = scratch(&mut work.normed_grad, n * hidden);
            multiply(tokens.team, n, logits, vocab, self.back.panels(), normed_grad, hidden);
            grad.fill(0.0);
            let of = (&*x, &*normed_grad);
            let (norm, shares) = (&self.head.norm, &mut work.shares);
            norm_to(tokens, of, norm, &self.direction.norm, shares, grad, &mut tally);
            for (from, Asked { row, .. }) in grad.chunks_exact(hidden).zip(asked) {
                stream[row * hidden..(row + 1) * hidden].copy_from_slice(from);
            }
        }
        Ok(())
    }
}
