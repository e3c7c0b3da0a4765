//! One key-value head: what it remembers, and attention over that.

use crate::kernels::{Buffer, PANEL, Panels, Values, multiply, scratch, softmax};
use crate::team::{Disjoint, Team};

/// Positions whose queries attend side by side, times the heads of a group.
pub(crate) const QUERY_BLOCK: usize = 16;

/// Keys and values of one key-value head.
#[derive(Clone, Debug, Default)]
pub(crate) struct HeadCache {
    /// Panels of 16 positions, each (key width, 16): the right-hand side of `q k^T`.
    keys: Buffer,
    /// (tokens, value width padded to 16): the right-hand side of `p v`.
    values: Buffer,
}

impl HeadCache {
    /// Back to before the first position.
    pub(crate) fn clear(&mut self) {
        self.keys.clear();
        self.values.clear();
    }

    /// Remembers key and value of a position.
    pub(crate) fn append(&mut self, position: usize, key: &[f32], value: &[f32]) {
        let (dim, padded) = (key.len(), value.len().next_multiple_of(PANEL));
        self.keys.resize((position / PANEL + 1) * dim * PANEL);
        let panel = &mut self.keys[position / PANEL * dim * PANEL..];
        for (i, k) in key.iter().enumerate() {
            panel[i * PANEL + position % PANEL] = *k;
        }
        self.values.resize((position + 1) * padded);
        self.values[position * padded..][..value.len()].copy_from_slice(value);
    }

    /// The first positions with values in the place of keys and keys in that of values, both `dim`
    /// wide.
    pub(crate) fn swap_into(&self, positions: usize, dim: usize, to: &mut Self) {
        to.clear();
        let padded = dim.next_multiple_of(PANEL);
        let mut key = vec![0.0; dim];
        for position in 0..positions {
            let panel = &self.keys[position / PANEL * dim * PANEL..];
            for (i, k) in key.iter_mut().enumerate() {
                *k = panel[i * PANEL + position % PANEL];
            }
            to.append(position, &self.values[position * padded..][..dim], &key);
        }
    }

    /// [`HeadCache::attend`], positions shared among a team.
    pub(crate) fn attend_all(
        &self,
        team: Team<'_>,
        shape: &Shape,
        queries: &[f32],
        scores: &mut Vec<Buffer>,
        out: &mut [f32],
    ) {
        let Shape { before, group, dim, value_dim, .. } = *shape;
        let tokens = queries.len() / (group * dim);
        scores.resize(team.threads().max(scores.len()), Buffer::default());
        let (scores, out) = (Disjoint::new(scores), Disjoint::new(out));
        team.each(tokens.div_ceil(QUERY_BLOCK), |part, member| {
            let first = part * QUERY_BLOCK;
            let rows = first * group..tokens.min(first + QUERY_BLOCK) * group;
            let queries = &queries[rows.start * dim..rows.end * dim];
            // SAFETY: a member runs one part at a time, so nobody else has its scores; parts are
            // different blocks of rows, so nobody else has these outputs.
            let (scores, out) = unsafe {
                (scores.at(member), out.range(rows.start * value_dim..rows.end * value_dim))
            };
            self.attend(&Shape { before: before + first, ..*shape }, queries, scores, out);
        });
    }

    /// Causal attention of some queries (tokens x group, dim), into `out`
    /// (tokens x group, value dim).
    pub(crate) fn attend(
        &self,
        shape: &Shape,
        queries: &[f32],
        scores: &mut Buffer,
        out: &mut [f32],
    ) {
        let Shape { before, group, dim, value_dim, .. } = *shape;
        let rows = queries.len() / dim;
        let seen = before + rows / group; // positions that the last query sees
        let width = seen.next_multiple_of(PANEL);
        let scores = scratch(scores, rows * width);
        self.probabilities(shape, queries, scores);
        let values = self.values(seen, value_dim);
        multiply(Team::alone(), rows, scores, width, values, out, value_dim);
    }

    /// What some queries (tokens x group, dim) give to each position that the last of them sees,
    /// padded to 16 (tokens x group, positions).
    pub(crate) fn probabilities(&self, shape: &Shape, queries: &[f32], scores: &mut [f32]) {
        let Shape { before, group, dim, scale, window, .. } = *shape;
        let rows = queries.len() / dim;
        let width = (before + rows / group).next_multiple_of(PANEL);
        multiply(Team::alone(), rows, queries, dim, self.keys(width, dim), scores, width);
        for (r, row) in scores.chunks_exact_mut(width).enumerate() {
            let end = before + r / group + 1;
            let start = end.saturating_sub(window);
            row[..start].fill(0.0);
            softmax(&mut row[start..], end - start, scale);
        }
    }

    /// The keys of the first positions, a multiple of 16, as the right-hand side of `q k^T`.
    pub(crate) fn keys(&self, positions: usize, dim: usize) -> Panels<'_> {
        Panels {
            values: Values::F32(&self.keys),
            columns: positions,
            depth: dim,
            row: PANEL,
            panel: dim * PANEL,
        }
    }

    /// The values of the first positions as the right-hand side of `p v`.
    pub(crate) fn values(&self, positions: usize, value_dim: usize) -> Panels<'_> {
        Panels {
            values: Values::F32(&self.values),
            columns: value_dim,
            depth: positions,
            row: value_dim.next_multiple_of(PANEL),
            panel: PANEL,
        }
    }
}

/// How the queries of a call lie, and what they see.
pub(crate) struct Shape {
    /// Position of the first one.
    pub(crate) before: usize,
    /// Queries of a position that share a key.
    pub(crate) group: usize,
    /// Width of queries and keys.
    pub(crate) dim: usize,
    /// Width of values.
    pub(crate) value_dim: usize,
    /// What scores are multiplied with.
    pub(crate) scale: f32,
    /// How many of the latest positions a query sees.
    pub(crate) window: usize,
}
