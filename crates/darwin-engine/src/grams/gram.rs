//! Gram matrices of rows of values.

use crate::kernels::{PANEL, Panels, Values, multiply};
use crate::team::Team;
use rayon::prelude::*;
use std::borrow::Cow;

/// Rows whose products are added up in float32, before they go into sums in float64.
const ROWS: usize = 256;

/// Rows of the matrix that a thread computes together.
const TILE: usize = 64;

/// A Gram matrix `X^T X` of inputs X (tokens, inputs) of a linear map: sums in float64 over blocks of
/// 256 tokens, each of which is summed in float32. The same bits whatever the number of threads.
#[derive(Clone, Debug, PartialEq)]
pub struct Gram {
    inputs: usize,
    tokens: u64,
    /// (inputs, inputs), symmetric
    sums: Vec<f64>,
}

impl Gram {
    /// Of no tokens.
    #[must_use]
    pub fn new(inputs: usize) -> Self {
        Self { inputs, tokens: 0, sums: vec![0.0; inputs * inputs] }
    }

    /// Of rows (tokens, inputs).
    ///
    /// # Panics
    /// If they are no whole rows.
    #[must_use]
    pub fn of(rows: &[f32], inputs: usize) -> Self {
        assert!(rows.len().is_multiple_of(inputs), "whole rows");
        let mut gram = Self::new(inputs);
        gram.add(rows);
        gram
    }

    /// Of some rows of `x`, `inputs` values each, by their numbers.
    pub(super) fn of_chosen(x: &[f32], inputs: usize, chosen: &[u32]) -> Self {
        let mut gram = Self::new(inputs);
        let mut block = Vec::with_capacity(ROWS.min(chosen.len()) * inputs);
        for chosen in chosen.chunks(ROWS) {
            block.clear();
            for row in chosen {
                block.extend_from_slice(&x[*row as usize * inputs..][..inputs]);
            }
            gram.add_block(&block);
        }
        gram.mirror();
        gram
    }

    /// Adds rows (tokens, inputs). Which rows come in one call counts: a call's last block of rows
    /// may be a smaller one.
    pub(super) fn add(&mut self, rows: &[f32]) {
        rows.chunks(ROWS * self.inputs).for_each(|block| self.add_block(block));
        self.mirror();
    }

    /// Number of inputs: rows and columns of the matrix.
    #[must_use]
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// Tokens that it is the sum over.
    #[must_use]
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// The matrix (inputs, inputs).
    #[must_use]
    pub fn values(&self) -> &[f64] {
        &self.sums
    }

    /// Adds the products of up to [`ROWS`] rows to the upper triangle.
    fn add_block(&mut self, block: &[f32]) {
        let width = self.inputs;
        let (tokens, padded) = (block.len() / width, width.next_multiple_of(PANEL));
        let right = if padded == width {
            Cow::Borrowed(block)
        } else {
            let mut rows = vec![0.0; tokens * padded];
            for (to, from) in rows.chunks_exact_mut(padded).zip(block.chunks_exact(width)) {
                to[..width].copy_from_slice(from);
            }
            Cow::Owned(rows)
        };
        let tiles = self.sums.par_chunks_mut(TILE * width).enumerate();
        tiles.for_each_init(Vec::new, |space, (tile, sums)| {
            let (first, rows) = (tile * TILE, sums.len() / width);
            let columns = width - first;
            space.resize(rows * (tokens + columns), 0.0);
            let (turned, products) = space.split_at_mut(rows * tokens);
            for (t, row) in block.chunks_exact(width).enumerate() {
                let values = row[first..first + rows].iter().enumerate();
                values.for_each(|(r, v)| turned[r * tokens + t] = *v);
            }
            let right = Panels {
                values: Values::F32(&right[first..]),
                columns,
                depth: tokens,
                row: padded,
                panel: PANEL,
            };
            multiply(Team::alone(), rows, turned, tokens, right, products, columns);
            for (r, products) in products.chunks_exact(columns).enumerate() {
                let sums = &mut sums[r * width + first + r..(r + 1) * width];
                sums.iter_mut().zip(&products[r..]).for_each(|(sum, v)| *sum += f64::from(*v));
            }
        });
        self.tokens += tokens as u64;
    }

    /// The lower triangle from the upper one.
    fn mirror(&mut self) {
        let n = self.inputs;
        for r in 1..n {
            for c in 0..r {
                self.sums[r * n + c] = self.sums[c * n + r];
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_of_all_pairs_of_inputs() {
        for (inputs, tokens) in [(1, 1), (5, 3), (16, 40), (37, 300), (130, 517)] {
            let x: Vec<f32> =
                (0..inputs * tokens).map(|i| ((i * 37 % 101) as f32 - 50.0) / 64.0).collect();
            let mut gram = Gram::new(inputs);
            gram.add(&x);
            let all: Vec<u32> = (0..tokens as u32).collect();
            assert_eq!(gram, Gram::of_chosen(&x, inputs, &all));
            assert_eq!((gram.inputs(), gram.tokens()), (inputs, tokens as u64));
            for a in 0..inputs {
                for b in 0..inputs {
                    let products = x.chunks(inputs).map(|x| f64::from(x[a]) * f64::from(x[b]));
                    let (sum, size) = products.fold((0.0, 0.0), |(s, t), p| (s + p, t + p.abs()));
                    let found = gram.values()[a * inputs + b];
                    assert!((found - sum).abs() <= 1e-6 * size, "{found} instead of {sum}");
                }
            }
        }
    }

    #[test]
    fn rows_are_chosen_by_their_numbers() {
        let x: Vec<f32> = (0..40).map(|i| i as f32).collect();
        let gram = Gram::of_chosen(&x, 4, &[2, 7]);
        assert_eq!(gram.tokens(), 2);
        assert_eq!(gram.values()[1], 8.0 * 9.0 + 28.0 * 29.0);
        assert_eq!(Gram::of_chosen(&x, 4, &[]), Gram::new(4));
    }
}
