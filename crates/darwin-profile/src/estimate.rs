//! Means with standard errors over samples, never over tokens (method 0).

use darwin_core::files::Estimate;

pub(crate) use darwin_eval::estimate as mean;

/// Mean over tokens of a quantity that is summed per sample: sum(x) / sum(t), with the linearised
/// standard error sqrt(m / (m - 1) sum((x - r t)^2)) / sum(t) over m samples (Cochran 1977, 6.5).
pub(crate) fn ratio(sums: &[f64], tokens: &[f64]) -> Estimate {
    let total: f64 = tokens.iter().sum();
    if total <= 0.0 {
        return Estimate::default();
    }
    let value = sums.iter().sum::<f64>() / total;
    let m = sums.len() as f64;
    if m < 2.0 {
        return Estimate { value, se: 0.0 };
    }
    let squares: f64 = sums.iter().zip(tokens).map(|(x, t)| (x - value * t).powi(2)).sum();
    Estimate { value, se: (m / (m - 1.0) * squares).sqrt() / total }
}

/// Whether a value lies above a limit. What is not a number does: no comparison with it may count
/// in a model's favour.
pub(crate) fn above(value: f64, limit: f64) -> bool {
    value.is_nan() || limit.is_nan() || value > limit
}

/// A number for people: `decimals` places, or that it is not finite.
pub(crate) fn shown(value: f64, decimals: usize) -> String {
    if value.is_finite() { format!("{value:.decimals$}") } else { "not finite".to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_a_number_is_above_every_limit() {
        assert!(above(2.0, 1.0) && !above(1.0, 1.0) && !above(0.5, 1.0));
        assert!(above(f64::NAN, 1.0) && above(1.0, f64::NAN) && above(f64::INFINITY, 1.0));
        assert_eq!(shown(1.25, 1), "1.2");
        assert_eq!([f64::NAN, f64::INFINITY].map(|v| shown(v, 3)), ["not finite"; 2]);
    }

    #[test]
    fn a_ratio_of_equal_sizes_is_a_mean() {
        let x = [1.0, 4.0, 2.0, 7.0];
        let (r, m) = (ratio(&x, &[1.0; 4]), mean(&x));
        assert!((r.value - m.value).abs() < 1e-12);
        assert!((r.se - m.se).abs() < 1e-12);
    }
}
