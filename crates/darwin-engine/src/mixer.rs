//! What both kinds of token mixer are handed.

use crate::Config;

/// Normed hidden states of some sequences at a layer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Input<'a> {
    pub(crate) config: &'a Config,
    pub(crate) layer: usize,
    /// (tokens, hidden)
    pub(crate) x: &'a [f32],
    /// Where the sequences start (n + 1)
    pub(crate) offsets: &'a [usize],
}

impl Input<'_> {
    /// Rows of `x`.
    pub(crate) fn tokens(&self) -> usize {
        self.x.len() / self.config.hidden_size
    }
}
