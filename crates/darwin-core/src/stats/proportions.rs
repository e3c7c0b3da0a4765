//! Intervals and tests for proportions.

use serde::{Deserialize, Serialize};
use statrs::function::beta::beta_reg;

/// The 97.5 % point of the standard normal distribution: two-sided 95 % intervals.
pub const Z95: f64 = 1.959_963_984_540_054;

/// The 80 % point of the standard normal distribution: a power of 80 %.
const Z_POWER: f64 = 0.841_621_233_572_914_3;

/// An interval, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// The lower end.
    #[serde(with = "super::nullable")]
    pub low: f64,
    /// The upper end.
    #[serde(with = "super::nullable")]
    pub high: f64,
}

impl Interval {
    /// `value` +- `z` standard errors.
    #[must_use]
    pub fn normal(value: f64, se: f64, z: f64) -> Self {
        Self { low: value - z * se, high: value + z * se }
    }

    /// Whether the value lies inside, ends included.
    #[must_use]
    pub fn contains(&self, value: f64) -> bool {
        self.low <= value && value <= self.high
    }
}

/// Wilson's score interval of a proportion, `correct` out of `n`; `z` = [`Z95`] for 95 %.
///
/// With `n` = 0 nothing is known: the interval is 0..1. (Wilson, JASA 1927.)
#[must_use]
pub fn wilson(correct: u64, n: u64, z: f64) -> Interval {
    if n == 0 {
        return Interval { low: 0.0, high: 1.0 };
    }
    let (k, n) = (correct.min(n) as f64, n as f64);
    let p = k / n;
    let z2 = z * z;
    let centre = (p + z2 / (2.0 * n)) / (1.0 + z2 / n);
    let half = z / (1.0 + z2 / n) * (p * (1.0 - p) / n + z2 / (4.0 * n * n)).sqrt();
    let low = if k == 0.0 { 0.0 } else { (centre - half).max(0.0) };
    let high = if k == n { 1.0 } else { (centre + half).min(1.0) };
    Interval { low, high }
}

/// One-sided Clopper-Pearson upper bound at level 1 - `alpha` of a proportion, `k` out of `n`.
///
/// `k` and `n` may be real numbers, as effective counts are (counts over a design effect, method
/// 1.1): the (1 - alpha) quantile of Beta(k + 1, n - k). 1 where `k >= n`, nothing being excluded.
#[must_use]
pub fn clopper_pearson_upper(k: f64, n: f64, alpha: f64) -> f64 {
    let k = k.max(0.0);
    if k < n { beta_quantile(k + 1.0, n - k, 1.0 - alpha) } else { 1.0 }
}

/// One-sided Clopper-Pearson lower bound at level 1 - `alpha` of a proportion, `k` out of `n`.
///
/// Real counts as in [`clopper_pearson_upper`]: the alpha quantile of Beta(k, n - k + 1). 0 where
/// `k <= 0`.
#[must_use]
pub fn clopper_pearson_lower(k: f64, n: f64, alpha: f64) -> f64 {
    let k = k.min(n);
    if k > 0.0 { beta_quantile(k, n - k + 1.0, alpha) } else { 0.0 }
}

/// The p-quantile of Beta(a, b), a and b > 0, by bisection of the regularised incomplete beta
/// function: slower than Newton's steps, and right for every shape. Bisects the logarithm of x
/// below 1/2 and of 1 - x above, so that small bounds keep their relative precision.
fn beta_quantile(a: f64, b: f64, p: f64) -> f64 {
    if beta_reg(a, b, 0.5) < p {
        return 1.0 - bisect_log(|y| 1.0 - beta_reg(b, a, y) >= p);
    }
    bisect_log(|x| beta_reg(a, b, x) < p)
}

/// The x in (0, 1/2] at which `below(x)` turns from true to false.
fn bisect_log(below: impl Fn(f64) -> bool) -> f64 {
    let (mut low, mut high) = (f64::MIN_POSITIVE.ln(), 0.5_f64.ln());
    for _ in 0..64 {
        let middle = 0.5 * (low + high);
        if below(middle.exp()) {
            low = middle;
        } else {
            high = middle;
        }
    }
    high.exp()
}

/// Exact two-sided McNemar test: the p value of `b` items only the first got right against `c`
/// items only the second got right, binomial with 1/2. 1 where they never differ.
#[must_use]
pub fn mcnemar_exact(b: u64, c: u64) -> f64 {
    if b == c {
        return 1.0;
    }
    let (k, n) = (b.min(c) as f64, (b + c) as f64);
    // P(X <= k) = I_{1/2}(n - k, k + 1)
    (2.0 * beta_reg(n - k, k + 1.0, 0.5)).min(1.0)
}

/// The smallest true difference of two accuracies (a share, 0.01 = one point) that a paired
/// comparison on `n` items finds in 80 % of the cases at a two-sided 5 % level.
///
/// `discordant` is the share of items that exactly one of the two gets right; for two that answer
/// independently with accuracy p it is 2 p (1 - p), for relatives less. Solves
/// d sqrt(n) = z_a sqrt(q) + z_b sqrt(q - d^2) for d (Connor, Biometrics 1987). 1 where even a
/// difference of everything discordant is not found.
#[must_use]
pub fn minimum_detectable_effect(n: u64, discordant: f64) -> f64 {
    let q = discordant.clamp(0.0, 1.0);
    let n = n as f64;
    let found = |d: f64| d * n.sqrt() >= Z95 * q.sqrt() + Z_POWER * (q - d * d).max(0.0).sqrt();
    if q == 0.0 || !found(q) {
        return 1.0;
    }
    let (mut low, mut high) = (0.0, q);
    for _ in 0..60 {
        let middle = 0.5 * (low + high);
        if found(middle) {
            high = middle;
        } else {
            low = middle;
        }
    }
    high
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn close(value: f64, expected: f64) {
        let scale = expected.abs().max(1e-300);
        assert!((value - expected).abs() <= 1e-9 * scale, "{value} is not {expected}");
    }

    /// `scipy.stats.binomtest(k, n).proportion_ci(method="wilson")`, scipy 1.17.1.
    #[test]
    fn wilson_equals_scipy() {
        let some = wilson(15, 100, Z95);
        close(some.low, 0.093_059_852_836_566_34);
        close(some.high, 0.232_835_595_908_323_67);
        let none = wilson(0, 10, Z95);
        assert_eq!(none.low, 0.0);
        close(none.high, 0.277_532_799_862_889_26);
        let all = wilson(198, 198, Z95);
        close(all.low, 0.980_967_939_673_351_7);
        assert_eq!(all.high, 1.0);
    }

    /// `scipy.stats.beta.ppf(.95, k + 1, n - k)` and `.ppf(.05, k, n - k + 1)`, scipy 1.17.1.
    #[test]
    fn clopper_pearson_equals_scipy() {
        let cases = [
            (0.0, 100.0, 0.0, 0.029_513_049_607_039_925),
            (3.0, 50.0, 0.016_551_859_189_231_34, 0.147_837_176_364_181_23),
            (0.4, 812.7, 5.100_290_133_645_005e-7, 0.004_583_329_614_600_095),
            (2.25, 37.5, 0.012_400_752_971_529_476, 0.167_591_174_424_032_2),
            (49.5, 50.0, 0.924_461_184_188_341_1, 0.999_960_875_479_059_1),
        ];
        for (k, n, low, high) in cases {
            close(clopper_pearson_lower(k, n, 0.05), low);
            close(clopper_pearson_upper(k, n, 0.05), high);
        }
        assert_eq!(clopper_pearson_upper(7.0, 7.0, 0.05), 1.0);
        assert_eq!(clopper_pearson_upper(0.0, 0.0, 0.05), 1.0);
    }

    /// `scipy.stats.binomtest(min(b, c), b + c, 0.5).pvalue`, scipy 1.17.1.
    #[test]
    fn mcnemar_equals_scipy() {
        let cases = [
            (10, 2, 0.038_574_218_75),
            (0, 0, 1.0),
            (5, 5, 1.0),
            (30, 12, 0.007_915_897_334_896_727),
            (0, 6, 0.031_25),
            (600, 500, 0.002_819_544_991_436_428_4),
        ];
        for (b, c, p) in cases {
            close(mcnemar_exact(b, c), p);
            close(mcnemar_exact(c, b), p);
        }
    }

    /// Method 6: 198 questions resolve about 8 points, one point needs about 6,000 items.
    #[test]
    fn detectable_effect_of_the_method() {
        let eight_points = minimum_detectable_effect(198, 0.16);
        assert!((0.075..0.085).contains(&eight_points), "{eight_points}");
        let one_point = minimum_detectable_effect(6000, 0.08);
        assert!((0.0095..0.0105).contains(&one_point), "{one_point}");
        assert_eq!(minimum_detectable_effect(5, 0.2), 1.0);
        assert_eq!(minimum_detectable_effect(0, 0.5), 1.0);
        assert_eq!(minimum_detectable_effect(100, 0.0), 1.0);
    }

    proptest! {
        #[test]
        fn intervals_hold_the_proportion(n in 1_u64..3000, share in 0.0..=1.0_f64) {
            let k = (share * n as f64).round();
            let p = k / n as f64;
            let score = wilson(k as u64, n, Z95);
            prop_assert!(score.contains(p) && score.low >= 0.0 && score.high <= 1.0);
            let low = clopper_pearson_lower(k, n as f64, 0.05);
            let high = clopper_pearson_upper(k, n as f64, 0.05);
            prop_assert!(low <= p && p <= high);
            // swapping successes and failures mirrors the bounds
            let mirrored = 1.0 - clopper_pearson_upper(n as f64 - k, n as f64, 0.05);
            prop_assert!((low - mirrored).abs() < 1e-9);
        }

        #[test]
        fn upper_bound_rises_with_successes(n in 2.0..500.0_f64, share in 0.0..0.9_f64) {
            let k = share * n;
            let bound = clopper_pearson_upper(k, n, 0.05);
            prop_assert!(bound <= clopper_pearson_upper(k + 0.05 * n, n, 0.05) + 1e-12);
            prop_assert!(bound >= clopper_pearson_upper(2.0 * k, 2.0 * n, 0.05) - 1e-12);
        }
    }
}
