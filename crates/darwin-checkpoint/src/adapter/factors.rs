//! What an adapter does to one tensor, and the rows of B A.

use super::weights::Weights;
use crate::Error;
use crate::header::Entry;
use std::ops::Range;

/// A change of rows of a logical tensor seen as a matrix.
#[derive(Clone, Debug)]
pub(super) enum Edit {
    /// The rows are replaced (`modules_to_save`, `bias`).
    Replace { rows: Range<usize>, by: Entry },
    /// A vector is added (`lora_B.bias`).
    Vector { values: Entry, scale: f32 },
    /// scale L R is added.
    Product(Product),
}

/// scale B A in the orientation of the tensor: the rows `rows` get `scale` times left (rows x r)
/// right (r x cols), experts each their own.
#[derive(Clone, Debug)]
pub(super) struct Product {
    pub(super) rows: Range<usize>,
    pub(super) a: Entry,
    pub(super) b: Entry,
    pub(super) rank: usize,
    pub(super) scale: f32,
    /// Experts in the tensor, 1 for a matrix.
    pub(super) units: usize,
    /// Whether the tensor lies as (in, out): embeddings, Conv1D, some experts.
    pub(super) transposed: bool,
}

/// Left and right as they are multiplied.
#[derive(Debug)]
pub(super) struct Factors {
    left: Vec<f32>,
    right: Vec<f32>,
}

impl Factors {
    pub(super) fn bytes(&self) -> usize {
        4 * (self.left.len() + self.right.len())
    }
}

impl Product {
    /// Reads A and B: r (in + out) values for a matrix, as many times as there are experts.
    ///
    /// PEFT keeps an expert's rows of A together (expert, rank) and the columns of B apart
    /// (rank, expert).
    pub(super) fn load(&self, weights: &Weights) -> Result<Factors, Error> {
        let (a, b) = (weights.read(&self.a)?, weights.read(&self.b)?);
        let (units, rank) = (self.units, self.rank);
        let (inputs, outputs) = (self.a.shape[1], self.b.shape[0]);
        let b_at = |unit: usize, o: usize, k: usize| b[o * rank * units + k * units + unit];
        let mut left = Vec::with_capacity(if self.transposed { a.len() } else { b.len() });
        if !self.transposed {
            // left (unit, out, r), right (unit, r, in)
            for unit in 0..units {
                for o in 0..outputs {
                    left.extend((0..rank).map(|k| b_at(unit, o, k)));
                }
            }
            return Ok(Factors { left, right: a });
        }
        // left (unit, in, r), right (unit, r, out)
        let mut right = Vec::with_capacity(b.len());
        for unit in 0..units {
            for i in 0..inputs {
                left.extend((0..rank).map(|k| a[(unit * rank + k) * inputs + i]));
            }
            for k in 0..rank {
                right.extend((0..outputs).map(|o| b_at(unit, o, k)));
            }
        }
        Ok(Factors { left, right })
    }

    /// Adds to the rows `at..` of the tensor that `out` holds, in f32: the products of a row in the
    /// order of the rank, then the scale, then the weight.
    pub(super) fn add(&self, factors: &Factors, at: Range<usize>, cols: usize, out: &mut [f32]) {
        let rank = self.rank;
        let unit_rows = self.rows.len() / self.units;
        let mut delta = vec![0.0_f32; cols];
        for row in at.start.max(self.rows.start)..at.end.min(self.rows.end) {
            let local = row - self.rows.start;
            let right = &factors.right[local / unit_rows * rank * cols..][..rank * cols];
            delta.fill(0.0);
            let left = &factors.left[local * rank..][..rank];
            for (l, line) in left.iter().zip(right.chunks_exact(cols)) {
                for (sum, r) in delta.iter_mut().zip(line) {
                    *sum += l * r;
                }
            }
            for (w, d) in out[(row - at.start) * cols..][..cols].iter_mut().zip(&delta) {
                *w += self.scale * d;
            }
        }
    }
}
