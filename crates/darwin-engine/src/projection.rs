//! A weight with its bias, as attention projects with it.

use crate::Error;
use crate::kernels::{Matrix, add_assign, l2_norm, multiply};
use crate::team::Team;
use crate::weights::Loader;
use std::sync::Arc;

/// A weight and its bias.
#[derive(Clone, Debug)]
pub(crate) struct Projection {
    pub(crate) weight: Matrix,
    /// (out); empty where there is none
    bias: Arc<[f32]>,
}

impl Projection {
    pub(crate) fn load(loader: &Loader<'_>, name: &str, biased: bool) -> Result<Self, Error> {
        let weight = loader.matrix(&format!("{name}.weight"))?;
        let bias =
            if biased { loader.vector(&format!("{name}.bias"), |b| b)? } else { Arc::default() };
        Ok(Self { weight, bias })
    }

    /// `x` (rows, in) to `out` (rows, out), whose rows lie `out_row` apart.
    pub(crate) fn forward(
        &self,
        team: Team<'_>,
        rows: usize,
        x: &[f32],
        out: &mut [f32],
        out_row: usize,
    ) {
        let (depth, columns) = (self.weight.depth(), self.weight.columns());
        multiply(team, rows, x, depth, self.weight.panels(), out, out_row);
        if !self.bias.is_empty() {
            let rows = out.chunks_mut(out_row).take(rows);
            rows.for_each(|row| add_assign(&mut row[..columns], &self.bias));
        }
    }

    /// Output width.
    pub(crate) fn columns(&self) -> usize {
        self.weight.columns()
    }

    /// The L2 norm of each head's slice of `x` (tokens, heads x width) through the weight
    /// (tokens, heads).
    pub(crate) fn slice_norms(&self, heads: usize, x: &[f32]) -> Vec<f32> {
        let (all, columns) = (self.weight.depth(), self.weight.columns());
        let (width, tokens) = (all / heads, x.len() / all);
        let mut norms = vec![0.0; tokens * heads];
        let mut out = vec![0.0; tokens * columns];
        for head in 0..heads {
            let of_head = head * width..(head + 1) * width;
            if width.is_multiple_of(2) {
                let slice = self.weight.panels_of_depth(of_head.start, width);
                multiply(Team::alone(), tokens, &x[of_head.start..], all, slice, &mut out, columns);
            } else {
                // packed inputs come in pairs: the other heads' are 0 instead of left out
                let mut alone = vec![0.0; x.len()];
                for (to, from) in alone.chunks_exact_mut(all).zip(x.chunks_exact(all)) {
                    to[of_head.clone()].copy_from_slice(&from[of_head.clone()]);
                }
                multiply(
                    Team::alone(),
                    tokens,
                    &alone,
                    all,
                    self.weight.panels(),
                    &mut out,
                    columns,
                );
            }
            for (t, row) in out.chunks_exact(columns).enumerate() {
                norms[t * heads + head] = l2_norm(row);
            }
        }
        norms
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Weights of one in each output: a head's slice through them is the sum of its inputs.
    #[test]
    fn slices_of_heads_are_told_apart_whatever_their_width() {
        for width in [2, 3] {
            let weight = Matrix::pack(&vec![1.0; 5 * 4 * width], 5, 4 * width);
            let projection = Projection { weight, bias: Arc::default() };
            let x: Vec<f32> = (0..2 * 4 * width).map(|i| i as f32).collect();
            let norms = projection.slice_norms(4, &x);
            let want = x.chunks(width).map(|head| head.iter().sum::<f32>() * 5_f32.sqrt());
            assert_eq!(norms.len(), 8);
            assert!(norms.iter().zip(want).all(|(n, w)| (n - w).abs() < 1e-4 * w), "{norms:?}");
        }
    }
}
