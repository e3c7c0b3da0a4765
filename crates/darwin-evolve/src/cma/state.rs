//! The state of a run and its update from a ranked generation.

use super::bounds::Bounds;
use super::linalg::{Eigen, Symmetric, dot, norm};
use super::stop::Record;
use super::{Best, CmaError, Covariance, Parameters};
use darwin_core::keyed::Rng;
use serde::{Deserialize, Serialize};

/// All that changes in a run. Vectors have n entries and lie in the search space.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct State {
    pub(super) mean: Vec<f64>,
    pub(super) sigma: f64,
    pub(super) covariance: Symmetric,
    /// Of the covariance as it was after `eigen_generation` generations.
    pub(super) eigen: Eigen,
    pub(super) eigen_generation: usize,
    /// The path of the covariance, p_c.
    pub(super) path_c: Vec<f64>,
    /// The path of the step size, p_sigma.
    pub(super) path_sigma: Vec<f64>,
    pub(super) generation: usize,
    pub(super) rng_position: u64,
    /// The generation that was asked and not yet told.
    pub(super) pending: Vec<Pending>,
    pub(super) best: Option<Best>,
    pub(super) record: Record,
}

/// A candidate that waits for its fitness.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Pending {
    /// Where it lies in the box.
    pub(super) x: Vec<f64>,
    /// The point of the search space it stands for.
    pub(super) search: Vec<f64>,
    /// Whether it came from outside.
    pub(super) injected: bool,
}

/// A candidate's step from the mean, in units of sigma.
#[derive(Clone, Debug)]
pub(super) struct Step {
    y: Vec<f64>,
    injected: bool,
    /// Whether its fitness was finite.
    pub(super) finite: bool,
}

impl State {
    pub(super) fn new(
        mean: Vec<f64>,
        covariance: &Covariance,
        sigma: f64,
        bounds: &Bounds,
    ) -> Result<Self, CmaError> {
        if !(sigma > 0.0 && sigma.is_finite()) {
            return Err(CmaError::Sigma(sigma));
        }
        let n = mean.len();
        let mut state = Self {
            mean,
            sigma,
            covariance: covariance.matrix(n)?,
            eigen: Eigen { lengths: vec![], vectors: vec![] },
            eigen_generation: 0,
            path_c: vec![0.0; n],
            path_sigma: vec![0.0; n],
            generation: 0,
            rng_position: 0,
            pending: vec![],
            best: None,
            record: Record::default(),
        };
        state.limit_stds(bounds);
        state.eigen = state.covariance.decompose().ok_or(CmaError::NotPositiveDefinite)?;
        state.record = Record::new(state.stds().collect());
        Ok(state)
    }

    /// sigma times the roots of the covariance's diagonal.
    pub(super) fn stds(&self) -> impl Iterator<Item = f64> + '_ {
        self.covariance.diagonal().map(|variance| self.sigma * variance.sqrt())
    }

    /// A point from N(m, sigma^2 C).
    pub(super) fn sample(&self, rng: &mut Rng) -> Vec<f64> {
        let z: Vec<f64> = self.mean.iter().map(|_| rng.normal()).collect();
        let y = self.eigen.sqrt_times(&z);
        self.mean.iter().zip(y).map(|(m, y)| m + self.sigma * y).collect()
    }

    /// A candidate's step; that of an injected one is shortened to a likely length, as long as
    /// sqrt(n) + 2 n / (n + 2) (arXiv 1110.4181, (4) and table 1).
    pub(super) fn step(&self, candidate: &Pending, finite: bool) -> Step {
        let from_mean = |(x, m): (&f64, &f64)| (x - m) / self.sigma;
        let mut y: Vec<f64> = candidate.search.iter().zip(&self.mean).map(from_mean).collect();
        if candidate.injected {
            let n = y.len() as f64;
            let longest = n.sqrt() + 2.0 * n / (n + 2.0);
            let factor = longest / self.eigen.mahalanobis(&y);
            if factor < 1.0 {
                y.iter_mut().for_each(|v| *v *= factor);
            }
        }
        Step { y, injected: candidate.injected, finite }
    }

    /// Counts a generation and keeps what is known of its fitness.
    pub(super) fn count(&mut self, order: &[usize], candidates: &[Vec<f64>], fitness: &[f64]) {
        let before = self.generation * order.len();
        self.generation += 1;
        self.pending.clear();
        let sorted: Vec<f64> = order.iter().map(|i| fitness[*i]).collect();
        self.record.push(&sorted);
        let (first, fitness) = (order[0], sorted[0]);
        let improves = self.best.as_ref().is_none_or(|best| fitness < best.fitness);
        if fitness.is_finite() && improves {
            let x = candidates[first].clone();
            self.best = Some(Best { x, fitness, evaluations: before + first + 1 });
        }
    }

    /// Moves mean, paths, covariance and step size by a generation's steps, best first.
    pub(super) fn update(
        &mut self,
        p: &Parameters,
        ranked: &[Step],
        bounds: &Bounds,
    ) -> Result<(), CmaError> {
        let shift = mean_step(p, ranked); // (41)
        self.mean.iter_mut().zip(&shift).for_each(|(m, y)| *m += self.sigma * y); // (42)
        let isotropic = self.eigen.inverse_sqrt_times(&shift);
        cumulate(&mut self.path_sigma, p.cs, p.mueff, &isotropic, true); // (43)
        let unstalled = self.path_is_short(p);
        cumulate(&mut self.path_c, p.cc, p.mueff, &shift, unstalled); // (45)
        self.adapt_covariance(p, ranked, unstalled);
        let longer = norm(&self.path_sigma) / p.chi_n - 1.0;
        self.sigma *= (p.cs / p.damps * longer).clamp(-1.0, 1.0).exp(); // (44)
        let limited = self.limit_stds(bounds);
        if limited || self.generation as f64 >= self.eigen_generation as f64 + p.eigen_gap {
            let eigen = self.covariance.decompose_raised();
            self.eigen = eigen.ok_or(CmaError::NotPositiveDefinite)?;
            self.eigen_generation = self.generation;
        }
        Ok(())
    }

    /// h_sigma: whether the path of the step size is not much longer than under random selection,
    /// where it has n as squared norm. If it is, the rank-one update stalls.
    fn path_is_short(&self, p: &Parameters) -> bool {
        let n = self.mean.len() as f64;
        let steps = 2.0 * self.generation as f64;
        let squares = dot(&self.path_sigma, &self.path_sigma) / (1.0 - (1.0 - p.cs).powf(steps));
        squares / n < 2.0 + 4.0 / (n + 1.0)
    }

    /// Rank-one and rank-mu update (46), (47). What a bad candidate takes away does not depend on
    /// how long its step was; injected ones take nothing, parents that failed give nothing.
    fn adapt_covariance(&mut self, p: &Parameters, ranked: &[Step], unstalled: bool) {
        let n = self.mean.len() as f64;
        let left_out = |w: f64, step: &Step| if w < 0.0 { step.injected } else { !step.finite };
        let weight = |(w, step): (&f64, &Step)| if left_out(*w, step) { 0.0 } else { p.cmu * w };
        let weights: Vec<f64> = p.weights.iter().zip(ranked).map(weight).collect();
        let lost = if unstalled { 0.0 } else { p.cc * (2.0 - p.cc) };
        self.covariance.scale(1.0 - p.c1 * (1.0 - lost) - weights.iter().sum::<f64>());
        for (weight, step) in weights.iter().zip(ranked) {
            let length = self.eigen.mahalanobis(&step.y) + 1e-9;
            let scale = if *weight < 0.0 { n / length.powi(2) } else { 1.0 };
            self.covariance.add_outer(&step.y, weight * scale);
        }
        self.covariance.add_outer(&self.path_c, p.c1);
    }

    /// Holds every standard deviation below a third of its range; whether one was above.
    fn limit_stds(&mut self, bounds: &Bounds) -> bool {
        let mut limited = false;
        for (i, limit) in bounds.max_stds().enumerate() {
            let std = self.sigma * self.covariance.get(i, i).sqrt();
            if std > limit {
                self.covariance.scale_coordinate(i, limit / std);
                self.path_c[i] *= limit / std;
                limited = true;
            }
        }
        limited
    }
}

/// The weighted mean of the parents' steps; a parent without a finite fitness makes none.
fn mean_step(p: &Parameters, ranked: &[Step]) -> Vec<f64> {
    let mut shift = vec![0.0; ranked[0].y.len()];
    for (weight, step) in p.weights[..p.mu].iter().zip(ranked).filter(|(_, step)| step.finite) {
        shift.iter_mut().zip(&step.y).for_each(|(s, y)| *s += weight * y);
    }
    shift
}

/// path <- (1 - c) path + sqrt(c (2 - c) mu_eff) step, the step where `take`.
fn cumulate(path: &mut [f64], c: f64, mueff: f64, step: &[f64], take: bool) {
    let gain = if take { (c * (2.0 - c) * mueff).sqrt() } else { 0.0 };
    path.iter_mut().zip(step).for_each(|(p, s)| *p = (1.0 - c) * *p + gain * s);
}
