//! The strategy parameters: constants of a run that follow from dimension and population size.
//!
//! Equation and table numbers are those of Hansen's tutorial, arXiv 1604.00772v2; where pycma
//! 4.5.0 has moved on, pycma is followed and the comment says so.

/// The population size for `n` coordinates, 4 + floor(3 ln n) (table 1).
#[must_use]
pub fn default_popsize(n: usize) -> usize {
    4 + (3.0 * (n.max(1) as f64).ln()).floor() as usize
}

/// The smallest multiple of `workers` that is no smaller than [`default_popsize`], so that no
/// worker idles.
#[must_use]
pub fn popsize_for_workers(n: usize, workers: usize) -> usize {
    default_popsize(n).next_multiple_of(workers.max(1))
}

/// Constants of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Parameters {
    /// Candidates a generation, lambda.
    pub popsize: usize,
    /// Candidates with a positive weight, mu.
    pub mu: usize,
    /// Recombination weights by rank, best first; the positive ones sum to 1. The negative ones
    /// are 0 unless the update is active.
    pub weights: Vec<f64>,
    /// Variance-effective number of parents, mu_eff.
    pub mueff: f64,
    /// Cumulation of the path for the covariance, c_c.
    pub cc: f64,
    /// Cumulation of the path for the step size, c_sigma.
    pub cs: f64,
    /// Learning rate of the rank-one update.
    pub c1: f64,
    /// Learning rate of the rank-mu update.
    pub cmu: f64,
    /// Damping of the step size, d_sigma.
    pub damps: f64,
    /// Expected norm of a standard normal vector, E||N(0, I)||.
    pub chi_n: f64,
    /// Generations between two eigendecompositions; below 1 every generation has its own.
    pub eigen_gap: f64,
}

impl Parameters {
    /// The parameters for `n` coordinates and `popsize` candidates; `active` lets bad candidates
    /// shrink the covariance (arXiv 1604.00772, B.4).
    #[must_use]
    pub fn new(n: usize, popsize: usize, active: bool) -> Self {
        let (mut weights, mu) = raw_weights(popsize);
        let mueff = 1.0 / weights[..mu].iter().map(|w| w * w).sum::<f64>();
        let dim = n as f64;
        let lambda = popsize as f64;
        // (56)
        let cc = (4.0 + mueff / dim) / (dim + 4.0 + 2.0 * mueff / dim);
        // (57); pycma makes it smaller below 6 candidates
        let c1 = (lambda / 6.0).min(1.0) * 2.0 / ((dim + 1.3).powi(2) + mueff);
        // (58)
        let cmu = 2.0 * (0.25 + mueff + 1.0 / mueff - 2.0) / ((dim + 2.0).powi(2) + mueff);
        let cmu = cmu.min(1.0 - c1);
        // (55); pycma: 3 for the tutorial's 5, and at most 1/2
        let cs = ((mueff + 2.0) / (dim + mueff + 3.0)).min(0.5);
        // (55); pycma: a larger factor inside, which counts only where mueff is large against n
        let inner = (3.0 * (1.0 - 0.5_f64.powf(dim / 9.0))).max(1.0);
        let damps = 1.0 + 2.0 * (inner * ((mueff - 1.0) / (dim + 1.0)).sqrt() - 1.0).max(0.0) + cs;
        if active {
            finalise_negative(&mut weights, mu, dim, c1, cmu, mueff);
        } else {
            weights[mu..].fill(0.0);
        }
        let eigen_gap = 1.0 / (10.0 * dim * (c1 + cmu));
        Self { popsize, mu, weights, mueff, cc, cs, c1, cmu, damps, chi_n: chi(n), eigen_gap }
    }
}

/// Weights that fall with the logarithm of the rank (49), the positive ones summing to 1 and the
/// negative ones to -1; and the number of positive ones.
fn raw_weights(popsize: usize) -> (Vec<f64>, usize) {
    let middle = ((popsize as f64 + 1.0) / 2.0).ln();
    let mut weights: Vec<f64> = (1..=popsize).map(|rank| middle - (rank as f64).ln()).collect();
    let mu = popsize / 2;
    let (positive, negative) = weights.split_at_mut(mu);
    for half in [positive, negative] {
        let sum = half.iter().sum::<f64>().abs();
        half.iter_mut().for_each(|w| *w /= sum);
    }
    (weights, mu)
}

/// Scales the negative weights, which sum to -1, by the least of the three limits (50)..(53):
/// no decay, their effective number, and a covariance that stays positive definite.
fn finalise_negative(weights: &mut [f64], mu: usize, n: f64, c1: f64, cmu: f64, mueff: f64) {
    let negative = &mut weights[mu..];
    let mueff_minus = 1.0 / negative.iter().map(|w| w * w).sum::<f64>();
    let limit = (1.0 + c1 / cmu)
        .min((1.0 - c1 - cmu) / (n * cmu))
        .min(1.0 + 2.0 * mueff_minus / (mueff + 2.0));
    negative.iter_mut().for_each(|w| *w *= limit);
}

/// sqrt(2) Gamma((n + 1) / 2) / Gamma(n / 2), exact, by chi(n + 2) = chi(n) (n + 1) / n. (The
/// tutorial approximates it, to 1e-4; pycma is exact up to 6 and better than 1e-5 above.)
fn chi(n: usize) -> f64 {
    let (mut at, mut value) = if n.is_multiple_of(2) {
        (2, (std::f64::consts::PI / 2.0).sqrt())
    } else {
        (1, (2.0 / std::f64::consts::PI).sqrt())
    };
    while at < n {
        value *= (at + 1) as f64 / at as f64;
        at += 2;
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn popsizes() {
        assert_eq!([1, 2, 5, 10, 20].map(default_popsize), [4, 6, 8, 10, 12]);
        assert_eq!(popsize_for_workers(10, 4), 12);
        assert_eq!(popsize_for_workers(10, 0), 10);
    }

    /// `scipy.stats.chi(n).mean()`.
    #[test]
    fn norm_of_a_normal_vector() {
        let means = [
            (1, 0.797_884_560_802_865_5),
            (5, 2.127_692_162_140_974),
            (100, 9.975_031_639_551_357),
        ];
        for (n, mean) in means {
            assert!((chi(n) - mean).abs() < 1e-12, "{n}: {}", chi(n));
        }
    }

    #[test]
    fn weights_are_sound_for_every_size() {
        for n in 1..30 {
            for popsize in 3..60 {
                let p = Parameters::new(n, popsize, true);
                assert!(p.weights.windows(2).all(|pair| pair[0] >= pair[1]));
                assert!((p.weights[..p.mu].iter().sum::<f64>() - 1.0).abs() < 1e-12);
                // zero decay at most: C never grows by the negative weights alone
                let decay = p.c1 + p.cmu * p.weights.iter().sum::<f64>();
                assert!((-1e-12..1.0 + 1e-12).contains(&decay), "n {n} lambda {popsize}: {decay}");
                assert!(p.damps >= 1.0 && p.cs <= 0.5 && p.c1 + p.cmu <= 1.0);
            }
        }
    }
}
