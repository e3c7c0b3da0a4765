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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_of_equal_sizes_is_a_mean() {
        let x = [1.0, 4.0, 2.0, 7.0];
        let (r, m) = (ratio(&x, &[1.0; 4]), mean(&x));
        assert!((r.value - m.value).abs() < 1e-12);
        assert!((r.se - m.se).abs() < 1e-12);
    }
}
