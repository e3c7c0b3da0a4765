//! Symmetric positive definite systems in float64, by blocks: the same bits whatever the threads.

use darwin_core::vectorised;
use rayon::prelude::*;

/// Columns of a block.
const BLOCK: usize = 64;

/// Rows that a thread updates together.
const ROWS: usize = 64;

/// Inputs that are added up in registers before they reach memory.
const DEPTH: usize = 256;

/// A pivot below this part of its diagonal element is rounding noise: the matrix is singular.
const NOISE: f64 = 1e-13;

vectorised! {
    /// `c (rows, m) -= a (rows, k) b (k, m)`; `a` and `c` with the distance of their rows.
    fn subtract(
        size: (usize, usize, usize),
        a: (&[f64], usize),
        b: &[f64],
        c: (&mut [f64], usize),
    ) {
        const HEIGHT: usize = 4;
        const WIDTH: usize = 8;
        let ((rows, k, m), (a, a_row), (c, c_row)) = (size, a, c);
        for r in (0..rows).step_by(HEIGHT) {
            for j in (0..m).step_by(WIDTH) {
                let mut sums = [[0.0_f64; WIDTH]; HEIGHT];
                if r + HEIGHT <= rows && j + WIDTH <= m {
                    for (p, from) in b.chunks_exact(m).take(k).enumerate() {
                        let Some(from) = from[j..].first_chunk::<WIDTH>() else { continue };
                        for (i, sums) in sums.iter_mut().enumerate() {
                            let value = a[(r + i) * a_row + p];
                            for (sum, x) in sums.iter_mut().zip(from) {
                                *sum = value.mul_add(*x, *sum);
                            }
                        }
                    }
                    for (i, sums) in sums.iter().enumerate() {
                        let to = &mut c[(r + i) * c_row + j..][..WIDTH];
                        to.iter_mut().zip(sums).for_each(|(to, sum)| *to -= sum);
                    }
                } else {
                    for (i, sums) in sums.iter_mut().enumerate().take(rows - r) {
                        for (l, sum) in sums.iter_mut().enumerate().take(m - j) {
                            for p in 0..k {
                                *sum = a[(r + i) * a_row + p].mul_add(b[p * m + j + l], *sum);
                            }
                            c[(r + i) * c_row + j + l] -= *sum;
                        }
                    }
                }
            }
        }
    }
}

/// `c -= a b` with any number of inputs; `b` has them behind each other.
fn subtract_product(
    (rows, k, m): (usize, usize, usize),
    (a, a_row): (&[f64], usize),
    b: &[f64],
    (c, c_row): (&mut [f64], usize),
) {
    for first in (0..k).step_by(DEPTH) {
        let depth = DEPTH.min(k - first);
        subtract((rows, depth, m), (&a[first..], a_row), &b[first * m..], (&mut *c, c_row));
    }
}

/// `r (rows, m) = a (rows, n) g (n, m)`, all dense.
pub(crate) fn product(a: &[f64], g: &[f64], n: usize, m: usize) -> Vec<f64> {
    let rows = a.len() / n;
    let (mut out, mut panel) = (vec![0.0; rows * m], Vec::new());
    for first in (0..m).step_by(BLOCK) {
        let width = BLOCK.min(m - first);
        panel.clear();
        g.chunks_exact(m).for_each(|row| panel.extend_from_slice(&row[first..first + width]));
        subtract_product((rows, n, width), (a, n), &panel, (&mut out[first..], m));
    }
    out.iter_mut().for_each(|v| *v = -*v);
    out
}

/// The lower triangle L of `A = L L^T`.
pub(crate) struct Cholesky {
    n: usize,
    /// (n, n); what is above the diagonal means nothing
    lower: Vec<f64>,
}

impl Cholesky {
    /// Of a symmetric matrix (n, n); none where it is not positive definite beyond rounding.
    pub(crate) fn new(mut a: Vec<f64>, n: usize) -> Option<Self> {
        let diagonal: Vec<f64> = (0..n).map(|i| a[i * n + i]).collect();
        let mut panel = Vec::new();
        for first in (0..n).step_by(BLOCK) {
            let width = BLOCK.min(n - first);
            turned(&a, n, first, width, &mut panel);
            a[first * n..].par_chunks_mut(ROWS * n).for_each(|rows| {
                let mut block = columns(rows, n, first, width);
                let size = (rows.len() / n, first, width);
                subtract_product(size, (rows, n), &panel, (&mut block, width));
                put(rows, n, first, width, &block);
            });
            let mut corner = columns(&a[first * n..(first + width) * n], n, first, width);
            for c in 0..width {
                let (own, below) = corner[c * width..].split_at_mut(width);
                let pivot = own[..c].iter().fold(own[c], |sum, v| sum - v * v);
                if pivot.is_nan() || pivot <= NOISE * diagonal[first + c] {
                    return None;
                }
                own[c] = pivot.sqrt();
                for row in below.chunks_exact_mut(width) {
                    let products = row[..c].iter().zip(&own[..c]);
                    row[c] = products.fold(row[c], |sum, (a, b)| sum - a * b) / own[c];
                }
            }
            put(&mut a[first * n..(first + width) * n], n, first, width, &corner);
            a[(first + width) * n..].par_chunks_mut(n).for_each(|row| {
                forwards(&corner, width, &mut row[first..first + width]);
            });
        }
        Some(Self { n, lower: a })
    }

    /// `R A^-1` of rows (any number, n), in place.
    pub(crate) fn solve(&self, rows: &mut [f64]) {
        let (n, mut panel, count) = (self.n, Vec::new(), rows.len() / self.n);
        for first in (0..n).step_by(BLOCK) {
            let width = BLOCK.min(n - first);
            turned(&self.lower, n, first, width, &mut panel);
            let mut block = columns(rows, n, first, width);
            subtract_product((count, first, width), (rows, n), &panel, (&mut block, width));
            let corner = self.corner(first, width);
            block.chunks_exact_mut(width).for_each(|row| forwards(&corner, width, row));
            put(rows, n, first, width, &block);
        }
        for first in (0..n).step_by(BLOCK).rev() {
            let width = BLOCK.min(n - first);
            let end = first + width;
            panel.clear();
            let below = self.lower[end * n..].chunks_exact(n);
            below.for_each(|row| panel.extend_from_slice(&row[first..end]));
            let mut block = columns(rows, n, first, width);
            let after = &rows[end.min(rows.len())..];
            subtract_product((count, n - end, width), (after, n), &panel, (&mut block, width));
            let corner = self.corner(first, width);
            block.chunks_exact_mut(width).for_each(|row| backwards(&corner, width, row));
            put(rows, n, first, width, &block);
        }
    }

    fn corner(&self, first: usize, width: usize) -> Vec<f64> {
        columns(&self.lower[first * self.n..(first + width) * self.n], self.n, first, width)
    }
}

/// `y L^T = r` of a row, in place.
fn forwards(corner: &[f64], width: usize, row: &mut [f64]) {
    for c in 0..width {
        let lower = &corner[c * width..][..=c];
        let products = row[..c].iter().zip(lower);
        row[c] = products.fold(row[c], |sum, (a, b)| sum - a * b) / lower[c];
    }
}

/// `x L = y` of a row, in place.
fn backwards(corner: &[f64], width: usize, row: &mut [f64]) {
    for c in (0..width).rev() {
        let sum = (c + 1..width).fold(row[c], |sum, p| sum - row[p] * corner[p * width + c]);
        row[c] = sum / corner[c * width + c];
    }
}

/// Some columns of rows, behind each other.
fn columns(rows: &[f64], n: usize, first: usize, width: usize) -> Vec<f64> {
    rows.chunks_exact(n).flat_map(|row| &row[first..first + width]).copied().collect()
}

fn put(rows: &mut [f64], n: usize, first: usize, width: usize, block: &[f64]) {
    for (row, block) in rows.chunks_exact_mut(n).zip(block.chunks_exact(width)) {
        row[first..first + width].copy_from_slice(block);
    }
}

/// The first `first` columns of the rows `first..first + width`, turned: (first, width).
fn turned(lower: &[f64], n: usize, first: usize, width: usize, out: &mut Vec<f64>) {
    out.clear();
    out.resize(first * width, 0.0);
    for (c, row) in lower[first * n..(first + width) * n].chunks_exact(n).enumerate() {
        for (p, v) in row[..first].iter().enumerate() {
            out[p * width + c] = *v;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(n: usize, seed: u64) -> Vec<f64> {
        let mut state = seed;
        let next = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f64 / f64::from(1 << 24) - 0.5
        };
        std::iter::repeat_with(next).take(n).collect()
    }

    /// `X X^T + I / 10` of a random square X.
    fn definite(n: usize) -> Vec<f64> {
        let x = numbers(n * n, 7);
        let dot = |i: usize, j: usize| (0..n).map(|p| x[i * n + p] * x[j * n + p]).sum::<f64>();
        (0..n * n).map(|i| dot(i / n, i % n) + if i / n == i % n { 0.1 } else { 0.0 }).collect()
    }

    #[test]
    fn solutions_solve() {
        for (n, rows) in [(1, 1), (3, 2), (64, 5), (65, 1), (150, 70), (300, 9)] {
            let a = definite(n);
            let wanted = numbers(rows * n, 3);
            let mut found = product(&wanted, &a, n, n);
            for (i, v) in found.iter().enumerate() {
                let plain: f64 = (0..n).map(|p| wanted[i / n * n + p] * a[p * n + i % n]).sum();
                assert!((v - plain).abs() < 1e-11 * n as f64, "product {v} instead of {plain}");
            }
            Cholesky::new(a, n).unwrap().solve(&mut found);
            for (found, wanted) in found.iter().zip(&wanted) {
                assert!((found - wanted).abs() < 1e-8, "{n}: {found} instead of {wanted}");
            }
        }
    }

    #[test]
    fn rows_do_not_depend_on_each_other() {
        let (n, a) = (130, definite(130));
        let factor = Cholesky::new(a, n).unwrap();
        let all = numbers(7 * n, 5);
        let mut together = all.clone();
        factor.solve(&mut together);
        for (row, together) in all.chunks(n).zip(together.chunks(n)) {
            let mut alone = row.to_vec();
            factor.solve(&mut alone);
            assert_eq!(alone, together);
        }
    }

    #[test]
    fn singular_and_indefinite_matrices_have_no_factor() {
        let n = 70;
        let row = numbers(n, 9);
        let outer: Vec<f64> = (0..n * n).map(|i| row[i / n] * row[i % n]).collect();
        assert!(Cholesky::new(outer, n).is_none());
        let mut indefinite = definite(n);
        indefinite[68 * n + 68] = -1.0;
        assert!(Cholesky::new(indefinite, n).is_none());
        assert!(Cholesky::new(vec![f64::NAN], 1).is_none());
    }
}
