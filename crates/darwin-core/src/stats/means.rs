//! Means, their differences and what a normal distribution says of them.

use super::proportions::Interval;
use crate::keyed::{Key, Rng};
use serde::{Deserialize, Serialize};
use statrs::function::erf::erfc;
use std::f64::consts::SQRT_2;

/// A mean with its standard error; the standard error is over samples, never over tokens
/// (method 0).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// The mean; not a number where there is no sample.
    #[serde(with = "super::nullable")]
    pub value: f64,
    /// Its standard error; not a number below two samples.
    #[serde(with = "super::nullable")]
    pub se: f64,
    /// Samples.
    pub n: usize,
}

impl Estimate {
    /// The normal interval `value` +- `z` `se`.
    #[must_use]
    pub fn interval(&self, z: f64) -> Interval {
        Interval::normal(self.value, self.se, z)
    }
}

/// The mean of the samples and its standard error, sd / sqrt(n) with n - 1 degrees of freedom.
#[must_use]
pub fn mean_se(samples: &[f64]) -> Estimate {
    let n = samples.len();
    let value = samples.iter().sum::<f64>() / n as f64;
    let squares: f64 = samples.iter().map(|x| (x - value).powi(2)).sum();
    let se = if n < 2 { f64::NAN } else { (squares / (n - 1) as f64 / n as f64).sqrt() };
    Estimate { value, se, n }
}

/// The difference of two paired means.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Difference {
    /// Mean of `a - b`.
    pub value: f64,
    /// Standard deviation of the resampled means.
    pub se: f64,
    /// The 95 % percentile interval of the resampled means.
    pub interval: Interval,
    /// Pairs.
    pub n: usize,
}

/// 1 / (1 + e^-x).
#[must_use]
pub fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// ln(p / (1 - p)).
#[must_use]
pub fn logit(p: f64) -> f64 {
    (p / (1.0 - p)).ln()
}

/// Paired bootstrap of the mean of `a - b`, pairs being resampled together (method 6).
///
/// `None` if the lengths differ, there are fewer than two pairs or no draws, or a value is not
/// finite.
#[must_use]
pub fn paired_bootstrap(a: &[f64], b: &[f64], draws: usize, key: Key) -> Option<Difference> {
    if a.len() != b.len() || a.len() < 2 || draws == 0 {
        return None;
    }
    let differences: Vec<f64> = a.iter().zip(b).map(|(x, y)| x - y).collect();
    if differences.iter().any(|d| !d.is_finite()) {
        return None;
    }
    let n = differences.len();
    let mut rng = Rng::new(key, 0);
    let means: Vec<f64> = (0..draws)
        .map(|_| (0..n).map(|_| differences[rng.below(n)]).sum::<f64>() / n as f64)
        .collect();
    let centre = means.iter().sum::<f64>() / draws as f64;
    let variance = means.iter().map(|m| (m - centre).powi(2)).sum::<f64>() / draws as f64;
    let interval = Interval { low: quantile(&means, 0.025)?, high: quantile(&means, 0.975)? };
    let value = differences.iter().sum::<f64>() / n as f64;
    Some(Difference { value, se: variance.sqrt(), interval, n })
}

/// The p value of "they differ by `margin` or more": the larger of two one-sided normal tests of
/// `difference` against -margin and +margin (Schuirmann 1987). Equality may be said where it is
/// small, and only then (method 6).
#[must_use]
pub fn equivalence_p(difference: f64, se: f64, margin: f64) -> f64 {
    normal_cdf((difference.abs() - margin) / se)
}

/// The `q`-quantile (0..=1) by linear interpolation between order statistics (type 7, the default
/// of R and numpy). `None` if there is no value, or one is not a number.
#[must_use]
pub fn quantile(values: &[f64], q: f64) -> Option<f64> {
    if values.is_empty() || values.iter().any(|v| v.is_nan()) {
        return None;
    }
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let place = q.clamp(0.0, 1.0) * (sorted.len() - 1) as f64;
    let below = sorted[place.floor() as usize];
    let above = sorted[place.ceil() as usize];
    if below == above { Some(below) } else { Some(below + place.fract() * (above - below)) }
}

/// Shannon entropy in bits of weights that are normalised to sum to 1; those of 0 or less count
/// nothing. Maximum log2 of their number; 0 where all weights are 0.
#[must_use]
pub fn entropy_bits(weights: &[f64]) -> f64 {
    let total: f64 = weights.iter().filter(|w| **w > 0.0).sum();
    let bits: f64 = weights
        .iter()
        .filter(|w| **w > 0.0)
        .map(|w| w / total)
        .map(|p| if p > 0.0 { -p * p.log2() } else { 0.0 })
        .sum();
    bits.max(0.0)
}

/// The standard normal distribution function.
#[must_use]
pub fn normal_cdf(z: f64) -> f64 {
    0.5 * erfc(-z / SQRT_2)
}

/// The two-sided p value of a standard normal statistic.
#[must_use]
pub fn two_sided_p(z: f64) -> f64 {
    erfc(z.abs() / SQRT_2)
}

impl Difference {
    /// Whether 0 lies outside the interval.
    #[must_use]
    pub fn excludes_zero(&self) -> bool {
        !self.interval.contains(0.0)
    }

    /// The two-sided p value of the normal approximation.
    #[must_use]
    pub fn p(&self) -> f64 {
        if self.value == 0.0 { 1.0 } else { two_sided_p(self.value / self.se) }
    }
}

impl From<Estimate> for crate::files::Estimate {
    fn from(estimate: Estimate) -> Self {
        Self { value: estimate.value, se: estimate.se }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Z95;
    use super::*;
    use crate::keyed::Rng;
    use proptest::prelude::{prop, prop_assert, prop_assert_eq, proptest};

    fn close(value: f64, expected: f64) {
        assert!((value - expected).abs() <= 1e-12, "{value} is not {expected}");
    }

    /// `numpy.mean`, `scipy.stats.sem`, `numpy.quantile`.
    #[test]
    fn mean_and_quantiles_equal_numpy() {
        let x = [3.2, 1.5, 4.8, 2.2, 9.1];
        let estimate = mean_se(&x);
        close(estimate.value, 4.16);
        close(estimate.se, 1.353_735_572_406_96);
        let expected = [1.5, 1.78, 2.2, 3.2, 8.24, 9.1];
        for (q, value) in [0.0, 0.1, 0.25, 0.5, 0.95, 1.0].into_iter().zip(expected) {
            close(quantile(&x, q).unwrap(), value);
        }
        assert_eq!(quantile(&[], 0.5), None);
        assert_eq!(quantile(&[1.0, f64::NAN], 0.5), None);
    }

    #[test]
    fn undefined_is_null_in_json_and_comes_back() {
        let one = mean_se(&[2.0]);
        let text = serde_json::to_string(&one).unwrap();
        assert_eq!(text, r#"{"value":2.0,"se":null,"n":1}"#);
        let back: Estimate = serde_json::from_str(&text).unwrap();
        assert!(back.value == 2.0 && back.se.is_nan());
        assert!(mean_se(&[]).value.is_nan());
    }

    /// `scipy.stats.norm.cdf(z)` and `2 * norm.sf(z)`, scipy 1.17.1; statrs's erfc is good to about
    /// 1e-10 of its value, in the tails too.
    #[test]
    fn normal_equals_scipy() {
        let cases = [
            (normal_cdf(0.5), 0.691_462_461_274_013_1),
            (normal_cdf(-1.96), 0.024_997_895_148_220_435),
            (normal_cdf(-6.0), 9.865_876_450_376_946e-10),
            (two_sided_p(-Z95), 0.05),
            (two_sided_p(2.575_829), 0.010_000_008_778_481_622),
            (two_sided_p(8.0), 1.244_192_114_854_348e-15),
        ];
        for (value, expected) in cases {
            assert!((value / expected - 1.0_f64).abs() < 1e-9, "{value} is not {expected}");
        }
        close(normal_cdf(0.0), 0.5);
        assert_eq!(two_sided_p(0.0), 1.0);
    }

    /// `scipy.stats.entropy(w, base=2)`.
    #[test]
    fn entropy_equals_scipy() {
        close(entropy_bits(&[0.5, 0.25, 0.125, 0.125]), 1.75);
        close(entropy_bits(&[3.0, 1.0, 4.0, 1.0, 5.0]), 2.067_031_495_157_584_3);
        assert_eq!(entropy_bits(&[0.0, 0.0]), 0.0);
        assert_eq!(entropy_bits(&[0.0, 7.0]), 0.0);
    }

    #[test]
    fn bootstrap_agrees_with_the_normal_interval() {
        let mut rng = Rng::new(Key::new(3, &["pairs"]), 0);
        let b: Vec<f64> = (0..200).map(|_| rng.normal()).collect();
        let a: Vec<f64> = b.iter().map(|x| x + 0.3 + 0.5 * rng.normal()).collect();
        let key = Key::new(1, &["bootstrap"]);
        let difference = paired_bootstrap(&a, &b, 4000, key).unwrap();
        let pairs: Vec<f64> = a.iter().zip(&b).map(|(x, y)| x - y).collect();
        let normal = mean_se(&pairs);
        close(difference.value, normal.value);
        assert!((difference.se / normal.se - 1.0).abs() < 0.05);
        assert!((difference.interval.low - normal.interval(Z95).low).abs() < 0.1 * normal.se * Z95);
        assert!(difference.excludes_zero() && difference.p() < 1e-6);
        assert_eq!(paired_bootstrap(&a, &b, 4000, key), Some(difference));
        let swapped = paired_bootstrap(&b, &a, 4000, key).unwrap();
        close(swapped.interval.low, -difference.interval.high);
        assert_eq!(paired_bootstrap(&a, &b[1..], 10, key), None);
        assert_eq!(paired_bootstrap(&[f64::NAN, 1.0], &[0.0, 0.0], 10, key), None);
    }

    #[test]
    fn equality_needs_both_tests() {
        assert!(equivalence_p(0.0, 0.01, 0.03) < 0.05);
        assert!(equivalence_p(0.02, 0.01, 0.03) > 0.05);
        close(equivalence_p(0.01, 0.02, 0.03), equivalence_p(-0.01, 0.02, 0.03));
    }

    proptest! {
        #[test]
        fn quantiles_are_monotone(mut x in prop::collection::vec(-1e6..1e6_f64, 1..40),
                                  q in 0.0..1.0_f64, r in 0.0..1.0_f64) {
            let (low, high) = (quantile(&x, q.min(r)).unwrap(), quantile(&x, q.max(r)).unwrap());
            prop_assert!(low <= high);
            x.reverse();
            prop_assert_eq!(quantile(&x, q.min(r)).unwrap(), low);
        }

        #[test]
        fn entropy_is_bounded(w in prop::collection::vec(0.0..10.0_f64, 1..40)) {
            let bits = entropy_bits(&w);
            prop_assert!(bits >= 0.0 && bits <= (w.len() as f64).log2() + 1e-9);
        }
    }
}
