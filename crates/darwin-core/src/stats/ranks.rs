//! Rank correlation, and p values of several tests.

/// Spearman's rank correlation, ties sharing their mean rank. `None` if the lengths differ, there
/// are fewer than two pairs, a value is not a number or one side is constant.
#[must_use]
pub fn spearman(a: &[f64], b: &[f64]) -> Option<f64> {
    let undefined = |x: &[f64]| x.iter().any(|v| v.is_nan());
    if a.len() != b.len() || a.len() < 2 || undefined(a) || undefined(b) {
        return None;
    }
    let (ranks_a, ranks_b) = (ranks(a), ranks(b));
    let centre = (a.len() + 1) as f64 / 2.0;
    let products = |x: &[f64], y: &[f64]| -> f64 {
        x.iter().zip(y).map(|(p, q)| (p - centre) * (q - centre)).sum()
    };
    let spread = products(&ranks_a, &ranks_a) * products(&ranks_b, &ranks_b);
    (spread > 0.0).then(|| (products(&ranks_a, &ranks_b) / spread.sqrt()).clamp(-1.0, 1.0))
}

/// Ranks from 1, ties sharing their mean.
fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|i, j| values[*i].total_cmp(&values[*j]));
    let mut ranks = vec![0.0; values.len()];
    let mut first = 0;
    for group in order.chunk_by(|i, j| values[*i] == values[*j]) {
        let shared = first as f64 + (group.len() + 1) as f64 / 2.0;
        for place in group {
            ranks[*place] = shared;
        }
        first += group.len();
    }
    ranks
}

/// Holm's step-down adjustment of p values, in the order given; each is compared with the level
/// wanted for the whole family. (Holm, Scandinavian Journal of Statistics 1979.)
#[must_use]
pub fn holm(p: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|i, j| p[*i].total_cmp(&p[*j]));
    let mut adjusted = vec![0.0; p.len()];
    let mut largest = 0.0_f64;
    for (rank, test) in order.into_iter().enumerate() {
        largest = largest.max((p.len() - rank) as f64 * p[test]).min(1.0);
        adjusted[test] = largest;
    }
    adjusted
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// `scipy.stats.spearmanr`, scipy 1.17.1.
    #[test]
    fn spearman_equals_scipy() {
        let a = [1.0, 2.0, 2.0, 4.0, 5.0, 7.5, 7.5, 3.0];
        let b = [2.0, 1.0, 3.0, 3.0, 6.0, 7.0, 9.0, 3.0];
        assert!((spearman(&a, &b).unwrap() - 0.913_649_876_900_870_5).abs() < 1e-12);
        let tied = spearman(&[1.0, 2.0, 3.0, 4.0, 5.0], &[5.0, 6.0, 7.0, 8.0, 7.0]).unwrap();
        assert!((tied - 0.820_782_681_668_123_3).abs() < 1e-12);
        assert_eq!(spearman(&[1.0, 1.0], &[1.0, 2.0]), None);
        assert_eq!(spearman(&[1.0, 2.0], &[1.0, f64::NAN]), None);
        assert_eq!(spearman(&[0.0, -0.0, 1.0], &[2.0, 2.0, 3.0]), Some(1.0));
    }

    /// R: `p.adjust(c(0.01, 0.04, 0.03, 0.005), "holm")` = 0.03 0.06 0.06 0.02.
    #[test]
    fn holm_equals_r() {
        let adjusted = holm(&[0.01, 0.04, 0.03, 0.005]);
        for (value, expected) in adjusted.iter().zip([0.03, 0.06, 0.06, 0.02]) {
            assert!((value - expected).abs() < 1e-12);
        }
        assert_eq!(holm(&[0.7, 0.9]), vec![1.0, 1.0]);
        assert!(holm(&[]).is_empty());
    }

    proptest! {
        #[test]
        fn only_ranks_matter(x in prop::collection::vec(-30_i32..30, 3..30)) {
            let a: Vec<f64> = x.iter().map(|v| f64::from(*v)).collect();
            let b: Vec<f64> = a.iter().enumerate().map(|(i, v)| v + (i % 7) as f64).collect();
            let curved: Vec<f64> = a.iter().map(|v| v.powi(3)).collect();
            prop_assert_eq!(spearman(&a, &b), spearman(&curved, &b));
            let negative: Vec<f64> = a.iter().map(|v| -v).collect();
            if let (Some(up), Some(down)) = (spearman(&a, &b), spearman(&negative, &b)) {
                prop_assert!((up + down).abs() < 1e-12);
            }
        }

        #[test]
        fn holm_only_raises_and_keeps_order(p in prop::collection::vec(0.0..1.0_f64, 1..20)) {
            let adjusted = holm(&p);
            for i in 0..p.len() {
                prop_assert!(adjusted[i] >= p[i] && adjusted[i] <= 1.0);
                for j in 0..p.len() {
                    prop_assert!(p[i] > p[j] || adjusted[i] <= adjusted[j]);
                }
            }
        }
    }
}
