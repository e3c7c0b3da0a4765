//! Arcee Fusion (mergekit 0.1.5, `arcee_fusion.py`): elements that matter most are taken from the other model. An
//! element's score is how far it moved times how far the softmax of its row moved; what lies above
//! the median by 1.5 times the quartiles' distance is taken.
//!
//! The quartiles are those of all elements. mergekit takes them from a million random ones in
//! larger tensors, and writes float32 whatever it read.

/// Added to probabilities.
const EPS: f64 = 1e-8;

/// The scores of whole rows of `cols` elements.
pub(crate) fn scores(base: &[f32], other: &[f32], cols: usize, out: &mut [f32]) {
    let rows = base.chunks_exact(cols).zip(other.chunks_exact(cols));
    for ((base, other), out) in rows.zip(out.chunks_exact_mut(cols)) {
        let divergence = divergence(base, other);
        for ((base, other), out) in base.iter().zip(other).zip(out) {
            *out = ((f64::from(*other) - f64::from(*base)).abs() * divergence) as f32;
        }
    }
}

/// The Kullback-Leibler divergence of the softmax of `base` from that of `other`.
fn divergence(base: &[f32], other: &[f32]) -> f64 {
    let parts = |row: &[f32]| {
        let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let max = f64::from(max);
        let sum: f64 = row.iter().map(|x| (f64::from(*x) - max).exp()).sum();
        (max, sum)
    };
    let ((base_max, base_sum), (max, sum)) = (parts(base), parts(other));
    let terms = base.iter().zip(other).map(|(base, other)| {
        let p = (f64::from(*other) - max).exp() / sum + EPS;
        let q = (f64::from(*base) - base_max).exp() / base_sum + EPS;
        p * (p / q).ln()
    });
    terms.sum::<f64>().max(0.0)
}

/// Of `n` elements, the ranks from the largest (from 1) of the lower quartile, the median and the
/// upper quartile: elements `trunc(q (n - 1))` in ascending order.
pub(crate) fn quartiles(n: usize) -> [u64; 3] {
    [1, 2, 3].map(|quarter| (n - quarter * n.saturating_sub(1) / 4) as u64)
}

/// The score from which elements are taken.
pub(crate) fn threshold([lower, median, upper]: [f32; 3]) -> f64 {
    f64::from(median) + 1.5 * (f64::from(upper) - f64::from(lower))
}

/// The other model's elements where the score reaches the threshold, else the base's. `out` holds
/// the scores.
pub(crate) fn fill(base: &[f32], other: &[f32], threshold: f64, out: &mut [f32]) {
    for ((base, other), out) in base.iter().zip(other).zip(out) {
        *out = if f64::from(*out) >= threshold { *other } else { *base };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quartiles_are_counted_from_the_largest() {
        assert_eq!(quartiles(5), [4, 3, 2]);
        assert_eq!(quartiles(1), [1, 1, 1]);
        assert_eq!(threshold([1.0, 2.0, 4.0]), 6.5);
    }

    #[test]
    fn rows_that_keep_their_softmax_do_not_matter() {
        let mut out = [9.0; 4];
        scores(&[0.0, 1.0, 0.0, 1.0], &[2.0, 3.0, 0.0, 3.0], 2, &mut out);
        assert!(out[0] < 1e-12 && out[1] < 1e-12 && out[3] > 0.1, "{out:?}");
    }
}
