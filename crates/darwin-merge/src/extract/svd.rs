//! Truncated singular value decomposition: the randomised range finder with two power iterations
//! (Halko, Martinsson and Tropp 2011, algorithms 4.4 and 5.1), exact for small matrices.

use darwin_core::keyed::{Key, Rng};
use nalgebra::DMatrix;
use rayon::prelude::*;

/// Directions beyond the rank that is asked for.
const OVERSAMPLING: usize = 10;
const POWER_ITERATIONS: usize = 2;
/// Matrices with a side of at most so many are decomposed exactly.
const EXACT_SIDE: usize = 256;
/// Columns of the transposed product that one task computes.
const BLOCK: usize = 64;

/// left (rows x rank) times right (rank x cols), the roots of the singular values in both.
pub(super) struct Truncated {
    pub(super) left: Vec<f32>,
    pub(super) right: Vec<f32>,
    pub(super) rank: usize,
}

/// A matrix by rows.
#[derive(Clone, Copy)]
pub(super) struct Matrix<'a> {
    pub(super) values: &'a [f32],
    pub(super) rows: usize,
    pub(super) cols: usize,
}

/// The best approximation of at most `max_rank`, of singular values above `epsilon`; what is zero
/// in f64 never counts. `name` keys the random directions.
pub(super) fn truncated(d: Matrix<'_>, max_rank: usize, epsilon: f64, name: &str) -> Truncated {
    let (q, z) = project(d, max_rank, name);
    let qr = z.qr();
    let svd = qr.r().transpose().svd(true, true);
    let largest = svd.singular_values.iter().copied().fold(0.0, f64::max);
    let zero = 4.0 * d.rows.max(d.cols) as f64 * f64::EPSILON * largest;
    let kept = svd.singular_values.iter().filter(|s| **s > epsilon.max(zero)).count();
    let rank = kept.min(max_rank);
    let (Some(u), Some(vt)) = (&svd.u, &svd.v_t) else {
        return Truncated { left: Vec::new(), right: Vec::new(), rank: 0 };
    };
    let roots = |k: usize| svd.singular_values[k].sqrt();
    let left = &q * DMatrix::from_fn(u.nrows(), rank, |i, k| u[(i, k)] * roots(k));
    let right = qr.q() * DMatrix::from_fn(vt.ncols(), rank, |i, k| vt[(k, i)] * roots(k));
    Truncated {
        left: by_rows(&left).iter().map(|v| *v as f32).collect(),
        right: right.as_slice().iter().map(|v| *v as f32).collect(),
        rank,
    }
}

/// Orthonormal columns Q (rows x l) that span the range, and D^T Q (cols x l).
fn project(d: Matrix<'_>, max_rank: usize, name: &str) -> (DMatrix<f64>, DMatrix<f64>) {
    let side = d.rows.min(d.cols);
    let width = max_rank.saturating_add(OVERSAMPLING);
    let q = if side <= EXACT_SIDE.max(width) {
        if d.rows <= d.cols {
            DMatrix::identity(d.rows, d.rows)
        } else {
            DMatrix::from_row_iterator(d.rows, d.cols, d.values.iter().map(|v| f64::from(*v)))
                .qr()
                .q()
        }
    } else {
        let mut rng = Rng::new(Key::new(0, &["extract-lora", name]), 0);
        let omega = DMatrix::from_fn(d.cols, width, |_, _| rng.normal());
        let mut q = times(d, &omega).qr().q();
        for _ in 0..POWER_ITERATIONS {
            let z = transposed_times(d, &q).qr().q();
            q = times(d, &z).qr().q();
        }
        q
    };
    let z = transposed_times(d, &q);
    (q, z)
}

fn by_rows(m: &DMatrix<f64>) -> Vec<f64> {
    m.transpose().as_slice().to_vec()
}

/// D M, each row added up in the order of the columns.
fn times(d: Matrix<'_>, m: &DMatrix<f64>) -> DMatrix<f64> {
    let (width, rows) = (m.ncols(), by_rows(m));
    let mut out = vec![0.0; d.rows * width];
    out.par_chunks_mut(width).zip(d.values.par_chunks(d.cols)).for_each(|(sums, line)| {
        for (v, row) in line.iter().zip(rows.chunks_exact(width)) {
            add(sums, f64::from(*v), row);
        }
    });
    DMatrix::from_row_slice(d.rows, width, &out)
}

/// D^T M, each column added up in the order of the rows, whatever the threads.
fn transposed_times(d: Matrix<'_>, m: &DMatrix<f64>) -> DMatrix<f64> {
    let (width, rows) = (m.ncols(), by_rows(m));
    let mut out = vec![0.0; d.cols * width];
    out.par_chunks_mut(BLOCK * width).enumerate().for_each(|(block, sums)| {
        for (line, row) in d.values.chunks_exact(d.cols).zip(rows.chunks_exact(width)) {
            for (v, sums) in line[block * BLOCK..].iter().zip(sums.chunks_exact_mut(width)) {
                add(sums, f64::from(*v), row);
            }
        }
    });
    DMatrix::from_row_slice(d.cols, width, &out)
}

fn add(sums: &mut [f64], v: f64, row: &[f64]) {
    for (sum, r) in sums.iter_mut().zip(row) {
        *sum += v * r;
    }
}

/// The squared Frobenius norms of D and of D - left right, as the factors are stored.
pub(super) fn residual(d: Matrix<'_>, approximation: &Truncated) -> (f64, f64) {
    let rank = approximation.rank;
    let rows: Vec<(f64, f64)> = d
        .values
        .par_chunks(d.cols)
        .enumerate()
        .map(|(i, line)| {
            let mut rest: Vec<f64> = line.iter().map(|v| f64::from(*v)).collect();
            let full = rest.iter().map(|v| v * v).sum::<f64>();
            for k in 0..rank {
                let l = f64::from(approximation.left[i * rank + k]);
                let right = &approximation.right[k * d.cols..][..d.cols];
                for (rest, r) in rest.iter_mut().zip(right) {
                    *rest -= l * f64::from(*r);
                }
            }
            (full, rest.iter().map(|v| v * v).sum::<f64>())
        })
        .collect();
    rows.iter().fold((0.0, 0.0), |sum, row| (sum.0 + row.0, sum.1 + row.1))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A matrix of small whole numbers and of exact rank.
    fn planted(rows: usize, cols: usize, rank: usize) -> Vec<f32> {
        let mut rng = Rng::new(Key::new(3, &["planted"]), 0);
        let mut draw =
            |n: usize| -> Vec<f32> { (0..n).map(|_| rng.below(7) as f32 - 3.0).collect() };
        let (left, right) = (draw(rows * rank), draw(rank * cols));
        let cell =
            |i: usize, j: usize| (0..rank).map(|k| left[i * rank + k] * right[k * cols + j]).sum();
        (0..rows * cols).map(|at| cell(at / cols, at % cols)).collect()
    }

    #[test]
    fn a_planted_rank_is_found() {
        for (rows, cols) in [(40, 30), (30, 40), (6, 9), (300, 320), (330, 290)] {
            let planted_rank = 4.min(rows);
            let values = planted(rows, cols, planted_rank);
            let d = Matrix { values: &values, rows, cols };
            let found = truncated(d, 16, 0.0, "x");
            assert_eq!(found.rank, planted_rank, "{rows} x {cols}");
            let (full, rest) = residual(d, &found);
            assert!((rest / full).sqrt() < 1e-6, "{rows} x {cols}: {}", (rest / full).sqrt());
            let cut = truncated(d, 1, 0.0, "x");
            assert_eq!((cut.rank, cut.left.len(), cut.right.len()), (1, rows, cols));
        }
    }

    /// The randomised path comes near to what an exact decomposition leaves.
    #[test]
    fn the_randomised_path_is_near_the_best() {
        let (rows, cols, rank) = (300, 280, 8);
        let mut rng = Rng::new(Key::new(5, &["noise"]), 0);
        let values: Vec<f32> = (0..rows * cols).map(|_| rng.normal() as f32).collect();
        let d = Matrix { values: &values, rows, cols };
        let (full, rest) = residual(d, &truncated(d, rank, 0.0, "x"));
        let exact = DMatrix::from_row_iterator(rows, cols, values.iter().map(|v| f64::from(*v)));
        let best: f64 = exact.singular_values().iter().skip(rank).map(|s| s * s).sum();
        assert!(rest >= best * (1.0 - 1e-6) && rest <= best * 1.02, "{rest} {best} of {full}");
    }
}
