//! Reinforced Agent Merging (arXiv 2601.13572; mergekit 0.1.5, `ram.py`): what several task vectors touch
//! is averaged over those that do, what one alone touches is kept whole.

/// Where a task vector counts: beyond `epsilon`.
fn active(delta: f64, epsilon: f64) -> bool {
    delta.abs() > epsilon
}

fn count(models: &[Vec<f32>], base: f64, at: usize, epsilon: f64) -> usize {
    models.iter().filter(|x| active(f64::from(x[at]) - base, epsilon)).count()
}

/// Adds, for each model, how many of its active elements it shares and how many are its own.
pub(crate) fn add_counts(base: &[f32], models: &[Vec<f32>], epsilon: f64, sums: &mut [f64]) {
    for (at, base) in base.iter().enumerate() {
        let base = f64::from(*base);
        let count = count(models, base, at, epsilon);
        for (x, sums) in models.iter().zip(sums.chunks_exact_mut(2)) {
            if active(f64::from(x[at]) - base, epsilon) {
                sums[usize::from(count == 1)] += 1.0;
            }
        }
    }
}

/// `lambda_i = 1 + r clamp(shared_i / max(own_i, epsilon), 0, alpha)` (RAM+).
pub(crate) fn factors(counts: &[f64], epsilon: f64, [r, alpha]: [f64; 2]) -> Vec<f64> {
    let factor = |counts: &[f64]| {
        let ratio = counts[0] / counts[1].max(epsilon);
        1.0 + r * ratio.max(0.0).min(alpha)
    };
    counts.chunks_exact(2).map(factor).collect()
}

/// `base + sum of active task vectors / their number`, a single one times its model's factor
/// (1 without factors).
pub(crate) fn fill(
    base: &[f32],
    models: &[Vec<f32>],
    epsilon: f64,
    factors: &[f64],
    out: &mut [f32],
) {
    for (at, (out, base)) in out.iter_mut().zip(base).enumerate() {
        let base = f64::from(*base);
        let count = count(models, base, at, epsilon);
        let mut sum = 0.0;
        for (i, x) in models.iter().enumerate() {
            let delta = f64::from(x[at]) - base;
            if active(delta, epsilon) {
                let own = if count == 1 { factors.get(i).copied().unwrap_or(1.0) } else { 1.0 };
                sum += delta * own;
            }
        }
        *out = (base + sum / count.max(1) as f64) as f32;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_elements_are_averaged_and_own_ones_reinforced() {
        let base = [1.0, 1.0, 1.0, 1.0];
        let models = [vec![2.0, 1.0, 3.0, 1.0], vec![4.0, 1.0, 1.0, 1.0]];
        let mut counts = [0.0; 4];
        add_counts(&base, &models, 1e-5, &mut counts);
        assert_eq!(counts, [1.0, 1.0, 1.0, 0.0]);
        let factors = factors(&counts, 1e-5, [0.5, 0.4]);
        assert_eq!(factors, [1.2, 1.2], "both ratios lie above alpha");
        let mut out = [0.0; 4];
        fill(&base, &models, 1e-5, &[], &mut out);
        assert_eq!(out, [3.0, 1.0, 3.0, 1.0]);
        fill(&base, &models, 1e-5, &factors, &mut out);
        assert_eq!(out, [3.0, 1.0, 3.4, 1.0]);
    }
}
