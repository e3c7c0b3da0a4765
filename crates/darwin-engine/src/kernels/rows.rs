//! Norms, softmax and reductions over rows.

use super::math::{exp, silu};
use darwin_core::vectorised;

/// Lanes of the partial sums; fixed, so that sums do not depend on the machine.
pub(super) const LANES: usize = 8;

#[inline(always)]
pub(super) fn reduce(lanes: [f32; LANES]) -> f32 {
    ((lanes[0] + lanes[4]) + (lanes[2] + lanes[6]))
        + ((lanes[1] + lanes[5]) + (lanes[3] + lanes[7]))
}

/// Sum of `a * b`, in 8 chains.
#[inline(always)]
pub(super) fn dot_lanes(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0_f32; LANES];
    let (a8, a_rest) = a.as_chunks::<LANES>();
    let (b8, b_rest) = b.as_chunks::<LANES>();
    for (a, b) in a8.iter().zip(b8) {
        for i in 0..LANES {
            lanes[i] = a[i].mul_add(b[i], lanes[i]);
        }
    }
    for (i, (a, b)) in a_rest.iter().zip(b_rest).enumerate() {
        lanes[i] = a.mul_add(*b, lanes[i]);
    }
    reduce(lanes)
}

/// Sum of the values, in 8 chains.
#[inline(always)]
fn sum_lanes(x: &[f32]) -> f32 {
    let mut lanes = [0.0_f32; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    for chunk in chunks {
        for i in 0..LANES {
            lanes[i] += chunk[i];
        }
    }
    for (lane, value) in lanes.iter_mut().zip(rest) {
        *lane += value;
    }
    reduce(lanes)
}

/// The largest value; negative infinity for none.
#[inline(always)]
pub(super) fn max_lanes(row: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (chunks, rest) = row.as_chunks::<LANES>();
    for chunk in chunks {
        for i in 0..LANES {
            lanes[i] = if chunk[i] > lanes[i] { chunk[i] } else { lanes[i] };
        }
    }
    rest.iter().chain(&lanes).fold(f32::NEG_INFINITY, |max, v| if *v > max { *v } else { max })
}

/// One over the rms of up to 8 rows: the roots and quotients of all at once.
#[inline(always)]
fn inverse_rms(x: &[f32], width: usize, eps: f32) -> [f32; LANES] {
    let mut inverses = [1.0_f32; LANES];
    for (inverse, x) in inverses.iter_mut().zip(x.chunks_exact(width)) {
        *inverse = dot_lanes(x, x);
    }
    for inverse in &mut inverses {
        *inverse = 1.0 / (*inverse / width as f32 + eps).sqrt();
    }
    inverses
}

vectorised! {
    /// The inner product.
    pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
        dot_lanes(a, b)
    }
}

vectorised! {
    /// The L2 norm.
    pub(crate) fn l2_norm(x: &[f32]) -> f32 {
        dot_lanes(x, x).sqrt()
    }
}

vectorised! {
    /// Rows of `x` over their rms, times `scale` (the centred weight with 1 already added).
    pub(crate) fn rms_norm(x: &[f32], scale: &[f32], eps: f32, out: &mut [f32]) {
        let width = scale.len();
        for (x, out) in x.chunks_exact(width).zip(out.chunks_exact_mut(width)) {
            let inverse = 1.0 / (dot_lanes(x, x) / width as f32 + eps).sqrt();
            for ((x, w), out) in x.iter().zip(scale).zip(out) {
                *out = x * inverse * w;
            }
        }
    }
}

vectorised! {
    /// The gated norm of linear attention, row by row in place: `weight * x / rms(x) * silu(z)`.
    pub(crate) fn gated_rms_norm(x: &mut [f32], z: &[f32], weight: &[f32], eps: f32) {
        let width = weight.len();
        let some = LANES * width;
        for (x, z) in x.chunks_mut(some).zip(z.chunks(some)) {
            let inverses = inverse_rms(x, width, eps);
            let rows = x.chunks_exact_mut(width).zip(z.chunks_exact(width));
            for ((x, z), inverse) in rows.zip(inverses) {
                for ((x, w), z) in x.iter_mut().zip(weight).zip(z) {
                    *x = w * (*x * inverse) * silu(*z);
                }
            }
        }
    }
}

vectorised! {
    /// Each row of `width` over its L2 norm, times `scale`: `x * rsqrt(sum x^2 + 1e-6) * scale`.
    pub(crate) fn l2_normalize(x: &mut [f32], width: usize, scale: f32) {
        for x in x.chunks_exact_mut(width) {
            let inverse = 1.0 / (dot_lanes(x, x) + 1e-6).sqrt();
            for x in x {
                *x = *x * inverse * scale;
            }
        }
    }
}

vectorised! {
    /// Softmax of `scale * row[..len]` in place; what follows becomes 0.
    pub(crate) fn softmax(row: &mut [f32], len: usize, scale: f32) {
        let (row, rest) = row.split_at_mut(len);
        rest.fill(0.0);
        let max = max_lanes(row) * scale;
        for value in row.iter_mut() {
            *value = exp(value.mul_add(scale, -max));
        }
        let inverse = 1.0 / sum_lanes(row);
        for value in row {
            *value *= inverse;
        }
    }
}

/// The sum of exponentials of a row, as what is subtracted for a log-probability. The largest value
/// and the logarithm of the rest stay apart: added up, the largest would swallow the rest.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LogTotal {
    max: f32,
    /// Logarithm of the sum of `exp(value - max)`.
    rest: f64,
}

impl LogTotal {
    /// The log-probability of one of the row's values.
    #[inline(always)]
    pub(crate) fn log_probability(self, value: f32) -> f64 {
        f64::from(value) - f64::from(self.max) - self.rest
    }
}

vectorised! {
    /// Whether no value is NaN or infinite.
    pub(crate) fn all_finite(values: &[f32]) -> bool {
        let mut largest = [0_u32; LANES];
        let (chunks, rest) = values.as_chunks::<LANES>();
        for chunk in chunks {
            for i in 0..LANES {
                largest[i] = largest[i].max(chunk[i].to_bits() << 1);
            }
        }
        for (largest, value) in largest.iter_mut().zip(rest) {
            *largest = (*largest).max(value.to_bits() << 1);
        }
        // without its sign, an exponent of ones is an infinity or NaN
        largest.iter().all(|bits| *bits < 0xff00_0000)
    }
}

vectorised! {
    /// What the log-probabilities of a row are counted from.
    pub(crate) fn log_total(row: &[f32]) -> LogTotal {
        let max = max_lanes(row);
        let mut total = 0.0_f64;
        let mut exponentials = [0.0_f32; 256];
        for block in row.chunks(256) {
            for (to, value) in exponentials.iter_mut().zip(block) {
                *to = exp(value - max);
            }
            total += f64::from(sum_lanes(&exponentials[..block.len()]));
        }
        LogTotal { max, rest: total.ln() }
    }
}

vectorised! {
    /// Index of the largest value, the first of equals.
    pub(crate) fn argmax(row: &[f32]) -> usize {
        let max = max_lanes(row);
        row.iter().position(|v| *v == max).unwrap_or(0)
    }
}

vectorised! {
    /// Softmax in place of each row of `width` falling values.
    pub(crate) fn softmax_of_falling(rows: &mut [f32], width: usize) {
        for row in rows.chunks_exact_mut(width) {
            let max = row[0];
            for value in row {
                *value -= max;
            }
        }
        for value in rows.iter_mut() {
            *value = exp(*value);
        }
        for row in rows.chunks_exact_mut(width) {
            let inverse = 1.0 / row.iter().sum::<f32>();
            for value in row {
                *value *= inverse;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn softmax_ignores_what_follows_its_length() {
        let mut row = [1.0, 2.0, 3.0, 100.0, f32::INFINITY];
        softmax(&mut row, 3, 0.5);
        assert!((row[..3].iter().sum::<f32>() - 1.0).abs() < 1e-6);
        assert!((row[2] / row[1] - 0.5_f32.exp()).abs() < 1e-5);
        assert_eq!(row[3..], [0.0, 0.0]);
    }

    #[test]
    fn equal_values_have_equal_probabilities_however_large_they_are() {
        for value in [3.0, -7.5, 1e38, -1e38, f32::MAX] {
            let total = log_total(&[value; 2048]);
            assert!((total.log_probability(value) + 2048_f64.ln()).abs() < 1e-6, "{value}");
        }
        // and differences count where the values themselves have none of their digits left
        let total = log_total(&[1e9, 1e9, 1e9 - 64.0]);
        assert!((total.log_probability(1e9) + 2_f64.ln()).abs() < 1e-6);
        assert!((total.log_probability(1e9 - 64.0) + 64.0 + 2_f64.ln()).abs() < 1e-6);
    }

    #[test]
    fn norms_are_unit() {
        let x: Vec<f32> = (1..=20).map(|i| i as f32).collect();
        let mut out = vec![0.0; 20];
        rms_norm(&x, &[1.0; 20], 0.0, &mut out);
        assert!((dot(&out, &out) / 20.0 - 1.0).abs() < 1e-6);
        let mut y = x.clone();
        l2_normalize(&mut y, 20, 2.0);
        assert!((l2_norm(&y) - 2.0).abs() < 1e-6);
        assert_eq!(argmax(&[1.0, 3.0, 3.0]), 1);
    }
}
