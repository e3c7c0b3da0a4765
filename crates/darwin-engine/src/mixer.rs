//! The input of every token mixer (linear, full and latent attention): a block of tokens.

use crate::Config;
use crate::team::Team;
use std::ops::Range;

/// Tokens that go through a layer together up to the routed experts: what lies between two
/// products stays in the caches, and whole tiles of 6 rows come out.
pub(crate) const BLOCK_TOKENS: usize = 144;

/// Tokens of one sequence in a block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    /// Which sequence.
    pub(crate) sequence: usize,
    /// Whether the sequence's first token of the pass is among them.
    pub(crate) starts: bool,
    /// Rows, counted from the block's first.
    pub(crate) rows: Range<usize>,
}

/// Tokens that follow one another, of one sequence or more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Block {
    /// Rows of the pass.
    pub(crate) rows: Range<usize>,
    pub(crate) pieces: Vec<Piece>,
}

impl Block {
    /// Cuts sequences that start at `offsets` (n + 1) into blocks.
    pub(crate) fn cut(offsets: &[usize]) -> Vec<Self> {
        let mut blocks: Vec<Self> = Vec::new();
        for (sequence, ends) in offsets.windows(2).enumerate() {
            let mut from = ends[0];
            while from < ends[1] {
                if blocks.last().is_none_or(|b| b.rows.len() == BLOCK_TOKENS) {
                    blocks.push(Self { rows: from..from, pieces: Vec::new() });
                }
                let Some(block) = blocks.last_mut() else { break };
                let to = ends[1].min(block.rows.start + BLOCK_TOKENS);
                let rows = from - block.rows.start..to - block.rows.start;
                block.pieces.push(Piece { sequence, starts: from == ends[0], rows });
                block.rows.end = to;
                from = to;
            }
        }
        blocks
    }
}

/// Sequence of a row of the blocks, and its position among the sequence's tokens in them.
pub(crate) fn token_of(blocks: &[Block], row: usize) -> (usize, usize) {
    let pieces = blocks.iter().flat_map(|block| {
        let at = |rows: &Range<usize>| block.rows.start + rows.start..block.rows.start + rows.end;
        block.pieces.iter().map(move |piece| (piece.sequence, at(&piece.rows)))
    });
    let mut begun = None;
    for (sequence, rows) in pieces {
        let (_, first) = *begun.insert(match begun {
            Some((same, first)) if same == sequence => (same, first),
            _ => (sequence, rows.start),
        });
        if rows.contains(&row) {
            return (sequence, row - first);
        }
    }
    (0, row)
}

/// Normed hidden states of a block at a layer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Input<'a> {
    pub(crate) config: &'a Config,
    pub(crate) team: Team<'a>,
    pub(crate) layer: usize,
    /// (tokens, hidden)
    pub(crate) x: &'a [f32],
    pub(crate) pieces: &'a [Piece],
}

impl Input<'_> {
    /// Rows of `x`.
    pub(crate) fn tokens(&self) -> usize {
        self.x.len() / self.config.hidden_size
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_cover_every_token_once_in_order() {
        let blocks = Block::cut(&[0, 0, 3, 4, 4 + 2 * BLOCK_TOKENS, 4 + 2 * BLOCK_TOKENS]);
        let piece = |sequence, starts, rows| Piece { sequence, starts, rows };
        let whole = BLOCK_TOKENS;
        assert_eq!(
            blocks,
            [
                Block {
                    rows: 0..whole,
                    pieces: vec![
                        piece(1, true, 0..3),
                        piece(2, true, 3..4),
                        piece(3, true, 4..whole)
                    ],
                },
                Block { rows: whole..2 * whole, pieces: vec![piece(3, false, 0..whole)] },
                Block { rows: 2 * whole..2 * whole + 4, pieces: vec![piece(3, false, 0..4)] },
            ]
        );
        let tokens = [(0, 1, 0), (2, 1, 2), (3, 2, 0), (4, 3, 0), (whole, 3, whole - 4)];
        for (row, sequence, position) in tokens {
            assert_eq!(token_of(&blocks, row), (sequence, position));
        }
        assert_eq!(token_of(&blocks, 2 * whole + 3), (3, 2 * whole - 1));
    }
}
