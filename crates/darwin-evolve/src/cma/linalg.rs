//! The little linear algebra of CMA-ES: a symmetric matrix and its eigendecomposition.

use nalgebra::{DMatrix, SymmetricEigen};
use serde::{Deserialize, Serialize};

/// QR steps per eigenvalue at most; two or three are usual, and NaN would never end.
const EIGEN_STEPS: usize = 100;

/// A symmetric matrix, (n, n) row-major.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Symmetric {
    n: usize,
    values: Vec<f64>,
}

impl Symmetric {
    pub(super) fn from_diagonal(diagonal: &[f64]) -> Self {
        let n = diagonal.len();
        let mut values = vec![0.0; n * n];
        for (i, value) in diagonal.iter().enumerate() {
            values[i * n + i] = *value;
        }
        Self { n, values }
    }

    /// The symmetric part of square rows.
    pub(super) fn from_rows(rows: &[Vec<f64>]) -> Self {
        let n = rows.len();
        let values = (0..n * n)
            .map(|place| (place / n, place % n))
            .map(|(i, j)| if i == j { rows[i][i] } else { 0.5 * (rows[i][j] + rows[j][i]) })
            .collect();
        Self { n, values }
    }

    pub(super) fn n(&self) -> usize {
        self.n
    }

    pub(super) fn get(&self, i: usize, j: usize) -> f64 {
        self.values[i * self.n + j]
    }

    pub(super) fn diagonal(&self) -> impl Iterator<Item = f64> + '_ {
        (0..self.n).map(|i| self.get(i, i))
    }

    pub(super) fn rows(&self) -> impl Iterator<Item = &[f64]> {
        self.values.chunks_exact(self.n)
    }

    /// As many finite numbers as n asks for; what a file may lie about.
    pub(super) fn is_whole(&self) -> bool {
        self.values.len() == self.n * self.n && self.values.iter().all(|v| v.is_finite())
    }

    pub(super) fn scale(&mut self, factor: f64) {
        self.values.iter_mut().for_each(|v| *v *= factor);
    }

    /// Adds `weight` v v^T.
    pub(super) fn add_outer(&mut self, v: &[f64], weight: f64) {
        for i in 0..self.n {
            for j in 0..=i {
                let value = self.values[i * self.n + j] + weight * v[i] * v[j];
                self.values[i * self.n + j] = value;
                self.values[j * self.n + i] = value;
            }
        }
    }

    /// Scales row and column `i`, that is coordinate i of what has this covariance.
    pub(super) fn scale_coordinate(&mut self, i: usize, factor: f64) {
        for j in 0..self.n {
            self.values[i * self.n + j] *= factor;
            self.values[j * self.n + i] *= factor;
        }
    }

    fn add_to_diagonal(&mut self, value: f64) {
        for i in 0..self.n {
            self.values[i * self.n + i] += value;
        }
    }

    /// The eigendecomposition, `None` unless all eigenvalues are positive and finite.
    pub(super) fn decompose(&self) -> Option<Eigen> {
        let n = self.n;
        let most_steps = EIGEN_STEPS * n;
        let matrix = DMatrix::from_fn(n, n, |i, j| self.get(i, j));
        let decomposed = SymmetricEigen::try_new(matrix, f64::EPSILON, most_steps)?;
        let eigenvalues = &decomposed.eigenvalues;
        let mut rising: Vec<usize> = (0..n).collect();
        rising.sort_by(|a, b| eigenvalues[*a].total_cmp(&eigenvalues[*b]));
        let positive = eigenvalues.iter().all(|value| *value > 0.0 && value.is_finite());
        let vector = |k: &usize| decomposed.eigenvectors.column(*k).iter().copied().collect();
        positive.then(|| Eigen {
            lengths: rising.iter().map(|k| eigenvalues[*k].sqrt()).collect(),
            vectors: rising.iter().map(vector).collect(),
        })
    }

    /// [`decompose`](Self::decompose) of a matrix that rounding may have made indefinite: the
    /// diagonal is raised, 1e-14 of its mean first and ten times as much each time, until the
    /// decomposition exists.
    pub(super) fn decompose_raised(&mut self) -> Option<Eigen> {
        let mean = self.diagonal().map(f64::abs).sum::<f64>() / self.n as f64;
        let mut raise = 1e-14 * mean;
        loop {
            if let Some(eigen) = self.decompose() {
                return Some(eigen);
            }
            if !(raise > 0.0 && raise <= mean) {
                return None;
            }
            self.add_to_diagonal(raise);
            raise *= 10.0;
        }
    }
}

/// C = B D^2 B^T: orthonormal `vectors` (the columns of B) and axis `lengths` (D), rising.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Eigen {
    pub(super) lengths: Vec<f64>,
    pub(super) vectors: Vec<Vec<f64>>,
}

impl Eigen {
    /// C^(1/2) v. The symmetric root, which does not depend on signs or order of eigenvectors.
    pub(super) fn sqrt_times(&self, v: &[f64]) -> Vec<f64> {
        self.transform(v, |length| length)
    }

    /// C^(-1/2) v.
    pub(super) fn inverse_sqrt_times(&self, v: &[f64]) -> Vec<f64> {
        self.transform(v, |length| 1.0 / length)
    }

    /// The Mahalanobis norm ||C^(-1/2) v||.
    pub(super) fn mahalanobis(&self, v: &[f64]) -> f64 {
        let along = |(vector, length): (&Vec<f64>, &f64)| (dot(vector, v) / length).powi(2);
        self.vectors.iter().zip(&self.lengths).map(along).sum::<f64>().sqrt()
    }

    /// The condition number of C.
    pub(super) fn condition(&self) -> f64 {
        match (self.lengths.first(), self.lengths.last()) {
            (Some(short), Some(long)) => (long / short).powi(2),
            _ => 1.0,
        }
    }

    /// Finite numbers in the right shape; what a file may lie about.
    pub(super) fn is_whole(&self, n: usize) -> bool {
        let finite = |v: &Vec<f64>| v.len() == n && v.iter().all(|x| x.is_finite());
        self.vectors.len() == n
            && self.vectors.iter().all(finite)
            && finite(&self.lengths)
            && self.lengths.iter().all(|length| *length > 0.0)
    }

    fn transform(&self, v: &[f64], scale: impl Fn(f64) -> f64) -> Vec<f64> {
        let mut out = vec![0.0; v.len()];
        for (vector, length) in self.vectors.iter().zip(&self.lengths) {
            let along = scale(*length) * dot(vector, v);
            out.iter_mut().zip(vector).for_each(|(o, b)| *o += along * b);
        }
        out
    }
}

pub(super) fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

pub(super) fn norm(v: &[f64]) -> f64 {
    dot(v, v).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(a: &[f64], b: &[f64]) {
        assert!(a.iter().zip(b).all(|(x, y)| (x - y).abs() < 1e-12), "{a:?} is not {b:?}");
    }

    #[test]
    fn roots_of_a_full_matrix() {
        let rows = vec![vec![4.0, 1.0, 0.5], vec![1.0, 3.0, -0.2], vec![0.5, -0.2, 1.0]];
        let matrix = Symmetric::from_rows(&rows);
        let eigen = matrix.decompose().unwrap();
        let v = [0.3, -1.0, 2.0];
        let product: Vec<f64> = matrix.rows().map(|row| dot(row, &v)).collect();
        close(&eigen.sqrt_times(&eigen.sqrt_times(&v)), &product);
        close(&eigen.inverse_sqrt_times(&eigen.sqrt_times(&v)), &v);
        assert!((eigen.mahalanobis(&v) - norm(&eigen.inverse_sqrt_times(&v))).abs() < 1e-12);
        assert!(eigen.is_whole(3) && !eigen.is_whole(2));
    }

    #[test]
    fn one_dimension() {
        let eigen = Symmetric::from_diagonal(&[4.0]).decompose().unwrap();
        close(&eigen.sqrt_times(&[3.0]), &[6.0]);
        assert_eq!(eigen.condition(), 1.0);
    }

    #[test]
    fn indefinite_matrices_are_raised() {
        let mut matrix = Symmetric::from_rows(&[vec![1.0, 1.0], vec![1.0, 1.0]]);
        matrix.add_outer(&[1.0, -1.0], -1e-12);
        assert!(matrix.decompose().is_none());
        let eigen = matrix.decompose_raised().unwrap();
        assert!(eigen.condition() > 1e8);
        let mut nothing = Symmetric::from_diagonal(&[0.0, 0.0]);
        assert!(nothing.decompose_raised().is_none());
        let mut bad = Symmetric::from_diagonal(&[f64::NAN, 1.0]);
        assert!(bad.decompose_raised().is_none());
    }

    #[test]
    fn coordinates_scale_rows_and_columns() {
        let mut matrix = Symmetric::from_rows(&[vec![2.0, 1.0], vec![1.0, 3.0]]);
        matrix.scale_coordinate(0, 0.5);
        assert_eq!(matrix.rows().flatten().copied().collect::<Vec<_>>(), [0.5, 0.5, 0.5, 3.0]);
    }
}
