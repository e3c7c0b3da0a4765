//! From advantages to the search's prior (method 2).

use darwin_core::files::Estimate;
use darwin_core::stats::sigmoid;

/// What is known of the mother's share in one layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LayerPrior {
    /// r = sigmoid(A* / s0); 0.5 where nothing is known.
    pub r: f64,
    /// Standard deviation of logit r, sqrt(w) se / s0; `None` where s0 = 0.
    pub sd: Option<f64>,
}

/// Shrinks the advantages of one component over its layers (method 2):
/// s^2 = max(0, var(A) - mean se^2), w = s^2 / (s^2 + se^2), A* = w A + (1 - w) mean(A),
/// s0^2 = max(0, mean(A^2) - mean se^2), r = sigmoid(A* / s0).
///
/// Exact negatives of the advantages (swapped parents) give 1 - r; more data sharpens r's error,
/// not its size. The variance has n - 1 degrees of freedom.
#[must_use]
pub fn prior(advantages: &[Estimate]) -> Vec<LayerPrior> {
    let n = advantages.len() as f64;
    let mean_of = |f: &dyn Fn(&Estimate) -> f64| advantages.iter().map(f).sum::<f64>() / n;
    let mean = mean_of(&|a| a.value);
    let noise = mean_of(&|a| a.se * a.se);
    let spread = mean_of(&|a| (a.value - mean).powi(2)) * n / (n - 1.0).max(1.0);
    let s2 = (spread - noise).max(0.0);
    let s0 = (mean_of(&|a| a.value * a.value) - noise).max(0.0).sqrt();
    advantages
        .iter()
        .map(|a| {
            if s0 == 0.0 {
                return LayerPrior { r: 0.5, sd: None };
            }
            let w = if s2 > 0.0 { s2 / (s2 + a.se * a.se) } else { 0.0 };
            let shrunk = w * a.value + (1.0 - w) * mean;
            LayerPrior { r: sigmoid(shrunk / s0), sd: Some(w.sqrt() * a.se / s0) }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn estimates(values: &[(f64, f64)]) -> Vec<Estimate> {
        values.iter().map(|(value, se)| Estimate { value: *value, se: *se }).collect()
    }

    #[test]
    fn swapped_parents_map_r_to_its_complement() {
        let a = [(0.4, 0.05), (-0.1, 0.08), (0.02, 0.01), (1.3, 0.3)];
        let swapped = a.map(|(v, s)| (-v, s));
        for (x, y) in prior(&estimates(&a)).iter().zip(prior(&estimates(&swapped))) {
            assert!((x.r + y.r - 1.0).abs() < 1e-12);
            assert_eq!(x.sd, y.sd);
        }
    }

    #[test]
    fn nothing_known_is_one_half() {
        for a in [[(0.0, 0.0); 3], [(0.01, 0.5), (-0.02, 0.4), (0.0, 0.5)]] {
            assert!(prior(&estimates(&a)).iter().all(|p| p.r == 0.5 && p.sd.is_none()));
        }
    }

    #[test]
    fn more_data_sharpens_the_error_and_not_the_size() {
        let few = prior(&estimates(&[(1.0, 0.2), (-1.0, 0.2), (0.5, 0.2)]));
        let many = prior(&estimates(&[(1.0, 0.02), (-1.0, 0.02), (0.5, 0.02)]));
        assert!((few[0].r - many[0].r).abs() < 0.03);
        assert!(many[0].sd < few[0].sd);
    }
}
