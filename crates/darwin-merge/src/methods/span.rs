//! Methods whose result lies in the span of their inputs: everything that decides it, lengths and
//! angles, is in the inputs' Gram matrix, which is added up in f64 in one pass. The coefficients
//! are computed in f64; mergekit computes them, and unit vectors, in the tensors' dtype, so that
//! in bfloat16 its coefficients are wrong by up to 0.4 % (`multislerp.py`).

use super::kernels::{dot, dot_deltas};

/// A norm below this counts as this (mergekit 0.1.5, `multislerp.py`).
const TINY_NORM: f64 = 1e-7;
/// Inner products are exact to 1e-14 or better, so that a length beside 1 that is found from them is
/// noise below this: sines of nearly opposite vectors, directions that cancel.
const NOISE: f64 = 1e-6;
/// A sum of two weights below this gives both the same.
const NO_WEIGHT: f64 = 1e-6;

/// How vectors (models, or their differences from the base) are averaged.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Span {
    /// Model Stock (arXiv 2403.19522; mergekit 0.1.5, `model_stock.py`).
    ModelStock,
    /// Along the arc between two vectors, `t` of the way (mergekit 0.1.5, `slerp.py`).
    Nuslerp { t: f64 },
    /// Weighted mean in the tangent space at the weighted mean direction (`multislerp.py`).
    Multislerp { weights: Vec<f64>, eps: f64 },
    /// Riemannian mean of the directions (arXiv 2603.04972; `karcher.py`).
    Karcher { max_iter: usize, tol: f64 },
}

/// Inner products of vectors with one another, the upper triangle row by row.
pub(crate) struct Gram<'a> {
    products: &'a [f64],
    k: usize,
}

/// How many inner products `k` vectors have.
pub(crate) fn products(k: usize) -> usize {
    k * (k + 1) / 2
}

/// Adds the inner products of `vectors`, taken from `base` where there is one.
pub(crate) fn add_products(vectors: &[&[f32]], base: Option<&[f32]>, sums: &mut [f64]) {
    let pairs = (0..vectors.len()).flat_map(|i| (i..vectors.len()).map(move |j| (i, j)));
    for ((i, j), sum) in pairs.zip(sums) {
        *sum += match base {
            Some(base) => dot_deltas(vectors[i], vectors[j], base),
            None => dot(vectors[i], vectors[j]),
        };
    }
}

impl<'a> Gram<'a> {
    pub(crate) fn new(products: &'a [f64], k: usize) -> Self {
        Self { products, k }
    }

    fn at(&self, i: usize, j: usize) -> f64 {
        let (i, j) = (i.min(j), i.max(j));
        self.products[i * self.k - i * (i + 1) / 2 + j]
    }

    fn norm(&self, i: usize) -> f64 {
        self.at(i, i).sqrt()
    }

    /// The norm of a linear combination.
    fn norm_of(&self, c: &[f64]) -> f64 {
        let dots = (0..self.k).map(|i| c[i] * self.dot(c, i));
        dots.sum::<f64>().max(0.0).sqrt()
    }

    /// The inner product of a linear combination with vector `i`.
    fn dot(&self, c: &[f64], i: usize) -> f64 {
        (0..self.k).map(|j| c[j] * self.at(i, j)).sum()
    }
}

impl Span {
    /// The share of the second of two models from their weights, half where they cancel.
    pub(crate) fn nuslerp(weights: [f64; 2]) -> Self {
        let total = weights[0] + weights[1];
        Self::Nuslerp { t: if total.abs() < NO_WEIGHT { 0.5 } else { weights[1] / total } }
    }

    /// What each vector is multiplied by.
    pub(crate) fn coefficients(&self, gram: &Gram<'_>) -> Vec<f64> {
        match self {
            Self::ModelStock => model_stock(gram),
            Self::Nuslerp { t } => nuslerp(gram, *t),
            Self::Multislerp { weights, eps } => multislerp(gram, weights, *eps),
            Self::Karcher { max_iter, tol } => karcher(gram, *max_iter, *tol),
        }
    }
}

/// `t / N` each, `t = N c / (1 + (N - 1) c)` with `c` the mean cosine of all pairs; where the
/// divisor vanishes, the base stays. mergekit takes a product of two norms for at least 1e-6, so
/// that small differences in small tensors count as orthogonal; here only those of length 0 do.
fn model_stock(gram: &Gram<'_>) -> Vec<f64> {
    let k = gram.k;
    let pairs = (0..k).flat_map(|i| (i + 1..k).map(move |j| (i, j)));
    let cosines: Vec<f64> = pairs
        .map(|(i, j)| {
            let product = gram.norm(i) * gram.norm(j);
            if product > 0.0 { (gram.at(i, j) / product).clamp(-1.0, 1.0) } else { 0.0 }
        })
        .collect();
    let n = k as f64;
    let cosine = cosines.iter().sum::<f64>() / cosines.len().max(1) as f64;
    let divisor = 1.0 + (n - 1.0) * cosine;
    let t = if divisor.abs() < 1e-6 { 0.0 } else { n * cosine / divisor };
    vec![t / n; k]
}

/// `sin((1 - t) angle) / sin angle` and `sin(t angle) / sin angle`, `1 - t` and `t` for colinear
/// vectors; the lengths of the vectors stay as they are. mergekit's own
/// limit for colinear ones, `1 - cos^2` up to 1e-16, would let rounding decide in f64.
fn nuslerp(gram: &Gram<'_>, t: f64) -> Vec<f64> {
    let product = gram.norm(0).max(TINY_NORM) * gram.norm(1).max(TINY_NORM);
    let cosine = (gram.at(0, 1) / product).clamp(-1.0, 1.0);
    if 1.0 - cosine * cosine <= NOISE * NOISE {
        return vec![1.0 - t, t];
    }
    let angle = cosine.acos();
    vec![((1.0 - t) * angle).sin() / angle.sin(), (t * angle).sin() / angle.sin()]
}

/// With units `u_i`, their weighted mean's direction `m` and `T` the weighted sum of their tangents
/// at `m`: `(m cos |T| + T sin |T| / |T|) sum(w_i |x_i|)`. Where the weighted mean vanishes there
/// is no direction, and the weighted sum of the vectors is the result (mergekit stops there for
/// more than two).
fn multislerp(gram: &Gram<'_>, weights: &[f64], eps: f64) -> Vec<f64> {
    let k = gram.k;
    let norms: Vec<f64> = (0..k).map(|i| gram.norm(i)).collect();
    let mut mean: Vec<f64> = (0..k).map(|i| weights[i] / (norms[i] + eps)).collect();
    let length = gram.norm_of(&mean);
    if k == 1 || length < eps.max(NOISE) {
        return weights.to_vec();
    }
    mean.iter_mut().for_each(|c| *c /= length);
    let mut tangent = vec![0.0; k];
    for i in 0..k {
        let along = gram.dot(&mean, i) / (norms[i] + eps);
        for j in 0..k {
            tangent[j] -= weights[i] * along * mean[j];
        }
        tangent[i] += weights[i] / (norms[i] + eps);
    }
    let angle = gram.norm_of(&tangent) + eps;
    let scale: f64 = norms.iter().zip(weights).map(|(norm, w)| norm * w).sum();
    let parts = mean.iter().zip(&tangent);
    parts.map(|(m, t)| (m * angle.cos() + t * angle.sin() / angle) * scale).collect()
}

/// The mean norm times the direction from which the logarithms of all directions sum to 0, found
/// by steps along their mean. Vectors not longer than `tol` have no direction. A direction
/// opposite to the mean has no logarithm, which is then 0; mergekit divides by about 0 there.
fn karcher(gram: &Gram<'_>, max_iter: usize, tol: f64) -> Vec<f64> {
    let k = gram.k;
    let norms: Vec<f64> = (0..k).map(|i| gram.norm(i)).collect();
    let valid: Vec<usize> = (0..k).filter(|i| norms[*i] > tol).collect();
    let Some(first) = valid.first() else { return vec![0.0; k] };
    let alpha = 1.0 / valid.len() as f64;
    let mut mean = vec![0.0; k];
    valid.iter().for_each(|i| mean[*i] = alpha / norms[*i]);
    let length = gram.norm_of(&mean);
    if length < tol.max(NOISE) {
        mean.fill(0.0);
        mean[*first] = 1.0 / norms[*first];
    } else {
        mean.iter_mut().for_each(|c| *c /= length);
    }
    for _ in 0..max_iter {
        let mut tangent = vec![0.0; k];
        for &i in &valid {
            let cosine = (gram.dot(&mean, i) / norms[i]).clamp(-1.0, 1.0);
            let (angle, sine) = (cosine.acos(), (1.0 - cosine * cosine).sqrt());
            if angle < tol || sine < NOISE {
                continue;
            }
            let step = alpha * angle / sine;
            (0..k).for_each(|j| tangent[j] -= step * cosine * mean[j]);
            tangent[i] += step / norms[i];
        }
        let length = gram.norm_of(&tangent);
        if length < tol {
            break;
        }
        for (m, t) in mean.iter_mut().zip(&tangent) {
            *m = length.cos() * *m + length.sin() * t / length;
        }
        let length = gram.norm_of(&mean);
        if length > tol {
            mean.iter_mut().for_each(|c| *c /= length);
        }
    }
    let scale = norms.iter().sum::<f64>() / k as f64;
    mean.iter().map(|c| c * scale).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(found: &[f64], wanted: &[f64]) {
        assert_eq!(found.len(), wanted.len());
        for (a, b) in found.iter().zip(wanted) {
            assert!((a - b).abs() < 1e-7, "{found:?} instead of {wanted:?}");
        }
    }

    #[test]
    fn model_stock_by_hand() {
        let orthogonal = [1.0, 0.0, 4.0];
        close(&Span::ModelStock.coefficients(&Gram::new(&orthogonal, 2)), &[0.0, 0.0]);
        let parallel = [1.0, 2.0, 4.0];
        close(&Span::ModelStock.coefficients(&Gram::new(&parallel, 2)), &[0.5, 0.5]);
        let small = [1e-12, 5e-13, 1e-12];
        close(&Span::ModelStock.coefficients(&Gram::new(&small, 2)), &[1.0 / 3.0; 2]);
        let opposite = [1.0, -1.0, 1.0];
        close(&Span::ModelStock.coefficients(&Gram::new(&opposite, 2)), &[0.0, 0.0]);
    }

    #[test]
    fn right_angles_are_halved() {
        let half = 0.5_f64.sqrt();
        let gram = [1.0, 0.0, 1.0];
        close(&Span::nuslerp([1.0, 1.0]).coefficients(&Gram::new(&gram, 2)), &[half, half]);
        let multislerp = Span::Multislerp { weights: vec![0.5, 0.5], eps: 1e-8 };
        close(&multislerp.coefficients(&Gram::new(&gram, 2)), &[half, half]);
        let karcher = Span::Karcher { max_iter: 10, tol: 1e-5 };
        close(&karcher.coefficients(&Gram::new(&gram, 2)), &[half, half]);
        let third = 1.0 / 3.0_f64.sqrt();
        let gram = [1.0, 0.0, 0.0, 1.0, 0.0, 1.0];
        close(&karcher.coefficients(&Gram::new(&gram, 3)), &[third; 3]);
    }

    #[test]
    fn opposite_directions_give_finite_coefficients() {
        let karcher = Span::Karcher { max_iter: 10, tol: 1e-5 };
        for cosine in [-1.0, -1.0 + 1e-16, -1.0 + 1e-12, -1.0 + 1e-7] {
            let gram = [1.0, cosine, 1.0];
            for c in karcher.coefficients(&Gram::new(&gram, 2)) {
                assert!(c.is_finite(), "{cosine}");
            }
        }
        close(&karcher.coefficients(&Gram::new(&[1.0, -1.0, 1.0], 2)), &[1.0, 0.0]);
        for cosine in [-1.0, -1.0 + 1e-16, -1.0 + 1e-15] {
            let gram = [0.25, 0.75 * cosine, 2.25];
            close(&Span::nuslerp([1.0, 1.0]).coefficients(&Gram::new(&gram, 2)), &[0.5, 0.5]);
        }
        let weights = vec![0.25, 0.5, 0.25];
        let gram = [1.0, -1.0, 1.0, 1.0, -1.0, 1.0];
        let multislerp = Span::Multislerp { weights: weights.clone(), eps: 1e-8 };
        close(&multislerp.coefficients(&Gram::new(&gram, 3)), &weights);
    }
}
