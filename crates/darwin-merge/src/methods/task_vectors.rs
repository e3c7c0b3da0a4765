//! Base plus weighted task vectors: four methods, a sparsifier with or without sign election
//! (arXiv 2212.04089, 2306.01708, 2311.03099; `generalized_task_arithmetic.py`).

use super::kernels;
use super::torch_sum::few;
use crate::numerics::Rounding;

/// A sum of weights below this does not divide.
const NO_WEIGHT: f64 = 1e-8;

/// How thinned and weighted vectors are added up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mixing {
    /// Only elements of the majority's sign count.
    pub(crate) consensus: bool,
    /// The sum is divided by the weights that went into it.
    pub(crate) normalize: bool,
    /// Factor of the whole sum.
    pub(crate) lambda: f32,
}

/// Working memory of [`mix`].
#[derive(Default)]
pub(crate) struct MixScratch {
    sums: Vec<f32>,
    mixed: Vec<f32>,
    weights: Vec<f32>,
}

/// Adds `vectors` (thinned, weighted by `weights`) to `base`, in f32.
pub(crate) fn mix(
    base: &mut [f32],
    vectors: &[Vec<f32>],
    weights: impl Iterator<Item = f64>,
    mixing: Mixing,
    scratch: &mut MixScratch,
) {
    if let ([only], false) = (vectors, mixing.normalize) {
        return kernels::add_mixed(base, only, mixing.lambda);
    }
    let n = base.len();
    scratch.sums.clear();
    scratch.sums.resize(n, 0.0);
    for vector in vectors {
        kernels::add_scaled(&mut scratch.sums, vector, 1.0);
    }
    if !mixing.consensus {
        let total: f64 = weights.sum();
        if mixing.normalize && total.abs() >= NO_WEIGHT {
            scratch.weights.clear();
            scratch.weights.resize(n, total as f32);
            kernels::divide(&mut scratch.sums, &scratch.weights);
        }
        return kernels::add_mixed(base, &scratch.sums, mixing.lambda);
    }
    scratch.mixed.clear();
    scratch.mixed.resize(n, 0.0);
    scratch.weights.clear();
    scratch.weights.resize(n, 0.0);
    for (vector, weight) in vectors.iter().zip(weights) {
        let weight = weight as f32;
        kernels::elect(&mut scratch.mixed, &mut scratch.weights, vector, &scratch.sums, weight);
    }
    if mixing.normalize {
        kernels::divide(&mut scratch.mixed, &scratch.weights);
    }
    kernels::add_mixed(base, &scratch.mixed, mixing.lambda);
}

/// The same, each step rounded (`generalized_task_arithmetic.py`; the caller rounds the result).
/// `vectors` and `weights` are rounded already.
pub(crate) fn mix_stepwise(
    base: &mut [f32],
    vectors: &[Vec<f32>],
    weights: &[f32],
    mixing: Mixing,
    rounding: Rounding,
    scratch: &mut MixScratch,
) {
    let MixScratch { sums, mixed, weights: divisors } = scratch;
    for values in [&mut *sums, &mut *mixed, &mut *divisors] {
        values.clear();
        values.resize(base.len(), 0.0);
    }
    for vector in vectors {
        kernels::add_scaled(sums, vector, 1.0);
    }
    rounding.round(sums);
    let mixed = if mixing.consensus {
        for (vector, weight) in vectors.iter().zip(weights) {
            kernels::elect(mixed, divisors, vector, sums, *weight);
        }
        rounding.round(mixed);
        rounding.round(divisors);
        mixed
    } else {
        let divisor = rounding.number(few(weights));
        divisors.fill(if f64::from(divisor.abs()) < NO_WEIGHT { 1.0 } else { divisor });
        sums
    };
    if mixing.normalize {
        kernels::divide(mixed, divisors);
        rounding.round(mixed);
    }
    if mixing.lambda != 1.0 {
        kernels::scale(mixed, mixing.lambda);
        rounding.round(mixed);
    }
    kernels::add_scaled(base, mixed, 1.0);
}
