//! Select, calculate, erase (arXiv 2408.07990; mergekit 0.1.5, `sce.py`): the elements in which the task
//! vectors vary most are kept, models weigh by the energy of what is left of their task vectors,
//! and elements against the majority's sign are erased.

/// Which elements are kept: those whose variance has bits above a threshold, and up to a flat
/// index those at it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kept {
    pub(crate) threshold: u32,
    /// Counted from the tile's first element.
    pub(crate) ties: usize,
}

impl Kept {
    /// All of them.
    pub(crate) const ALL: Self = Self { threshold: 0, ties: usize::MAX };

    fn keeps(self, at: usize, base: &[f32], models: &[Vec<f32>]) -> bool {
        if self.threshold == 0 {
            return true;
        }
        let bits = variance(at, base, models).to_bits();
        bits > self.threshold || bits == self.threshold && at < self.ties
    }
}

fn deltas<'a>(
    at: usize,
    base: &'a [f32],
    models: &'a [Vec<f32>],
) -> impl Iterator<Item = f64> + Clone + 'a {
    models.iter().map(move |x| f64::from(x[at]) - f64::from(base[at]))
}

/// The population variance of the task vectors in an element.
pub(crate) fn variance(at: usize, base: &[f32], models: &[Vec<f32>]) -> f32 {
    let n = models.len() as f64;
    let mean = deltas(at, base, models).sum::<f64>() / n;
    (deltas(at, base, models).map(|d| (d - mean) * (d - mean)).sum::<f64>() / n) as f32
}

/// Adds the squares of each model's kept elements.
pub(crate) fn add_energies(base: &[f32], models: &[Vec<f32>], kept: Kept, sums: &mut [f64]) {
    for at in 0..base.len() {
        if kept.keeps(at, base, models) {
            for (sum, delta) in sums.iter_mut().zip(deltas(at, base, models)) {
                *sum += delta * delta;
            }
        }
    }
}

/// Energies divided by their sum, all the same where nothing is left. mergekit takes all the same
/// as soon as the mean squares sum to less than 1e-6, which task vectors of 1e-3 already do.
pub(crate) fn weights(energies: &[f64]) -> Vec<f64> {
    let total: f64 = energies.iter().sum();
    if total > 0.0 {
        return energies.iter().map(|energy| energy / total).collect();
    }
    vec![1.0 / energies.len() as f64; energies.len()]
}

/// `base + sum(w_i d_i) / sum(w_i)` over the models whose `d_i` has the sign of the sum of all
/// (plus for an exact zero).
pub(crate) fn fill(
    base: &[f32],
    models: &[Vec<f32>],
    kept: Kept,
    weights: &[f64],
    out: &mut [f32],
) {
    for (at, out) in out.iter_mut().enumerate() {
        *out = base[at];
        if !kept.keeps(at, base, models) {
            continue;
        }
        let deltas = deltas(at, base, models);
        let positive = deltas.clone().sum::<f64>() >= 0.0;
        let (mut sum, mut total) = (0.0, 0.0);
        for (delta, weight) in deltas.zip(weights) {
            if delta != 0.0 && (delta > 0.0) == positive {
                sum += weight * delta;
                total += weight;
            }
        }
        if total > 0.0 {
            *out = (f64::from(base[at]) + sum / total) as f32;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_minority_is_erased_and_energy_weighs() {
        let base = [0.0, 0.0];
        let models = [vec![3.0, 1.0], vec![-1.0, 2.0]];
        let mut energies = [0.0; 2];
        add_energies(&base, &models, Kept::ALL, &mut energies);
        assert_eq!(energies, [10.0, 5.0]);
        let mut out = [0.0; 2];
        fill(&base, &models, Kept::ALL, &weights(&energies), &mut out);
        assert_eq!(out, [3.0, (10.0 / 15.0 + 2.0 * 5.0 / 15.0) as f32]);
        let kept = Kept { threshold: 1.0_f32.to_bits(), ties: 0 };
        fill(&base, &models, kept, &[0.5, 0.5], &mut out);
        assert_eq!(out, [3.0, 0.0], "a variance of 4 stays, one of 0.25 does not");
        assert_eq!(weights(&[0.0, 0.0]), [0.5, 0.5]);
        assert_eq!(weights(&[1.0, 3.0].map(|e: f64| e * 1e-12)), [0.25, 0.75], "however small");
    }
}
