//! Design effect of clustered counts (method 1.1).

/// Design effect of a proportion counted in clusters: variance of the ratio estimator
/// f = sum(count) / sum(size) over clusters, divided by the binomial variance f (1 - f) / T that
/// T = sum(size) independent draws would have.
///
/// `counts[i]` are the hits and `sizes[i]` the draws of cluster i. The variance is the linearised
/// m / (m - 1) sum((count - f size)^2) / T^2 of m clusters (Cochran 1977, 6.5 and 9A.4). It is
/// returned as it is, below 1 too. `None` below two non-empty clusters, and where f is 0 or 1.
#[must_use]
pub fn design_effect(counts: &[f64], sizes: &[f64]) -> Option<f64> {
    let clusters = || counts.iter().zip(sizes).filter(|(_, size)| **size > 0.0);
    let m = clusters().count() as f64;
    let total: f64 = clusters().map(|(_, size)| size).sum();
    let f = clusters().map(|(count, _)| count).sum::<f64>() / total;
    if counts.len() != sizes.len() || m < 2.0 || f <= 0.0 || f >= 1.0 {
        return None;
    }
    let squares: f64 = clusters().map(|(count, size)| (count - f * size).powi(2)).sum();
    let variance = m / (m - 1.0) * squares / (total * total);
    Some(variance / (f * (1.0 - f) / total))
}

/// Pooled design effect of a layer's expert loads over samples: the mean of the experts'
/// [`design_effect`]s over those with at least `min_selections` selections (method 1.1: 20).
///
/// `counts` is (samples, experts), row-major: tokens of the sample routed to the expert; `tokens`
/// (samples). `None` if the shapes disagree or no expert qualifies.
#[must_use]
pub fn pooled_design_effect(counts: &[u64], tokens: &[u64], min_selections: u64) -> Option<f64> {
    let samples = tokens.len();
    if samples == 0 || !counts.len().is_multiple_of(samples) {
        return None;
    }
    let experts = counts.len() / samples;
    let sizes: Vec<f64> = tokens.iter().map(|t| *t as f64).collect();
    let effects: Vec<f64> = (0..experts)
        .filter_map(|expert| {
            let column = counts.iter().skip(expert).step_by(experts);
            let enough = column.clone().sum::<u64>() >= min_selections;
            let column: Vec<f64> = column.map(|count| *count as f64).collect();
            enough.then(|| design_effect(&column, &sizes)).flatten()
        })
        .collect();
    let pooled = effects.iter().sum::<f64>() / effects.len() as f64;
    (!effects.is_empty()).then_some(pooled)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keyed::{Key, Rng};

    #[test]
    fn independent_draws_have_no_design_effect() {
        let mut rng = Rng::new(Key::new(5, &["deff"]), 0);
        let (samples, experts) = (400, 8);
        let tokens: Vec<u64> = (0..samples).map(|_| 20 + rng.below(60) as u64).collect();
        let mut counts = vec![0; samples * experts];
        for (sample, n) in tokens.iter().enumerate() {
            for _ in 0..*n {
                counts[sample * experts + rng.below(experts)] += 1;
            }
        }
        let deff = pooled_design_effect(&counts, &tokens, 20).unwrap();
        assert!((deff - 1.0).abs() < 0.1, "{deff}");
    }

    /// Whole samples that go to one expert are worth one draw each: deff = tokens a sample.
    #[test]
    fn whole_samples_count_once() {
        let counts: Vec<f64> = (0..100).map(|i| if i % 4 == 0 { 30.0 } else { 0.0 }).collect();
        let deff = design_effect(&counts, &[30.0; 100]).unwrap();
        assert!((deff - 30.0 * 100.0 / 99.0).abs() < 1e-9, "{deff}");
    }

    /// By hand: counts 1, 3 of 4 and 6: f = 0.4, residuals -0.6 and 0.6, variance
    /// 2 * 0.72 / 100, binomial 0.024.
    #[test]
    fn two_clusters_by_hand() {
        let deff = design_effect(&[1.0, 3.0], &[4.0, 6.0]).unwrap();
        assert!((deff - 0.6).abs() < 1e-12, "{deff}");
    }

    #[test]
    fn rare_experts_and_bad_shapes_are_left_out() {
        assert_eq!(design_effect(&[1.0], &[4.0]), None);
        assert_eq!(design_effect(&[0.0, 0.0], &[4.0, 4.0]), None);
        assert_eq!(design_effect(&[4.0, 4.0], &[4.0, 4.0]), None);
        assert_eq!(pooled_design_effect(&[1, 0, 1], &[4, 4], 1), None);
        assert_eq!(pooled_design_effect(&[1, 0, 1, 2], &[4, 4], 20), None);
        let common = pooled_design_effect(&[30, 1, 20, 0], &[40, 40], 20);
        assert_eq!(common, design_effect(&[30.0, 20.0], &[40.0, 40.0]));
    }
}
