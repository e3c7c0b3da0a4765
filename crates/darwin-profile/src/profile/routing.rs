//! Routing entropies and margins (method 1.2): named quantities, in bits unless said otherwise.

use crate::estimate::ratio;
use crate::profile::counters::{MARGIN_BINS_PER_LOGIT, Samples, Sum};
use darwin_core::files::{Estimate, ExpertLoads, Routing};
use darwin_core::stats::entropy_bits;

/// Mean over tokens of a per-sample sum in one layer.
pub(crate) fn mean_of(samples: &Samples, layer: usize, sum: Sum) -> Estimate {
    let sums: Vec<f64> = samples.rows.iter().map(|r| r.layers[layer].sum(sum)).collect();
    ratio(&sums, &tokens(samples))
}

/// Tokens of every sample.
pub(crate) fn tokens(samples: &Samples) -> Vec<f64> {
    samples.rows.iter().map(|r| f64::from(r.tokens)).collect()
}

/// All of method 1.2 for one layer.
pub(crate) fn routing(samples: &Samples, layer: usize, loads: &ExpertLoads) -> Routing {
    let token_entropy = mean_of(samples, layer, Sum::TokenEntropy);
    let counts: Vec<f64> = loads.tokens.iter().map(|n| *n as f64).collect();
    let load_entropy = entropy_bits(&counts);
    let active = counts.iter().filter(|n| **n > 0.0).count() as f64;
    let mut mean_p = vec![0.0; samples.setting.num_experts];
    for row in &samples.rows {
        mean_p.iter_mut().zip(&row.layers[layer].probability).for_each(|(sum, p)| *sum += p);
    }
    let rho = &loads.relative_load;
    let mean = rho.iter().sum::<f64>() / rho.len() as f64;
    let variance = rho.iter().map(|r| (r - mean).powi(2)).sum::<f64>() / rho.len() as f64;
    Routing {
        token_entropy,
        gate_entropy: mean_of(samples, layer, Sum::GateEntropy),
        load_entropy,
        effective_experts: load_entropy.exp2(),
        load_entropy_normalised: if active > 1.0 { load_entropy / active.log2() } else { 1.0 },
        specialisation: entropy_bits(&mean_p) - token_entropy.value,
        cv2: if mean > 0.0 { variance / (mean * mean) } else { 0.0 },
        max_vio: rho.iter().copied().fold(0.0, f64::max) - 1.0,
        margin_quantiles: [0.05, 0.25, 0.5, 0.75, 0.95]
            .map(|q| histogram_quantile(&samples.margins[layer], q)),
    }
}

/// Quantile of the margin, in logits, linear within a bin.
fn histogram_quantile(bins: &[u64], q: f64) -> f64 {
    let total: u64 = bins.iter().sum();
    let wanted = q * total as f64;
    let mut below = 0.0;
    for (i, n) in bins.iter().enumerate() {
        let n = *n as f64;
        if n > 0.0 && below + n >= wanted {
            return (i as f64 + (wanted - below) / n) / MARGIN_BINS_PER_LOGIT;
        }
        below += n;
    }
    0.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_of_a_histogram() {
        let mut bins = vec![0; 512];
        bins[128] = 10;
        bins[256] = 10;
        assert!((histogram_quantile(&bins, 0.25) - 1.0).abs() < 0.01);
        assert!((histogram_quantile(&bins, 0.95) - 2.0).abs() < 0.01);
    }
}
