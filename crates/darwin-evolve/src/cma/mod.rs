//! CMA-ES, ask and tell: minimises a function of n real numbers from the ranks of its values.
//!
//! Hansen's tutorial (arXiv 1604.00772v2, whose equation numbers the comments give) with the
//! formulas of pycma 4.5.0, active update included; injection after arXiv 1110.4181.
//!
//! ```
//! use darwin_evolve::cma::{Cma, Covariance, Options};
//!
//! let options = Options { bounds: vec![(-3.0, 3.0); 4], seed: 1, ..Options::default() };
//! let mut cma = Cma::new(&[1.0; 4], Covariance::Isotropic, 0.5, options)?;
//! while cma.stop().is_empty() {
//!     let candidates = cma.ask();
//!     let fitness: Vec<f64> = candidates.iter().map(|x| x.iter().map(|v| v * v).sum()).collect();
//!     cma.tell(&candidates, &fitness)?;
//! }
//! assert!(cma.best().is_some_and(|best| best.fitness < 1e-9));
//! # Ok::<(), darwin_evolve::cma::CmaError>(())
//! ```
//!
//! - A run is a function of its options, of what is injected and of the ranks it is told: nothing
//!   depends on threads or time. [`Cma`] saved by serde between any two calls goes on exactly.
//! - Candidates lie in the box, bounds included. Steps, `sigma` and covariance belong to the
//!   *search space*, which is the box but for a margin at its bounds (pycma's `BoundTransform`)
//!   and in which no standard deviation exceeds a third of the range.
//! - A fitness that is not finite ranks last; if such a candidate counts among the parents all the
//!   same, its step is left out. A generation without any finite one changes nothing but counters.
//! - A candidate that is injected, or told without having been asked, is evaluated where it lies,
//!   but its step counts as no longer than sqrt(n) + 2 n / (n + 2) in Mahalanobis norm, and never
//!   shrinks the covariance.
//!
//! What pycma has and this has not: mirrored samples below 6 candidates (n = 1 only), the
//! re-encoding of coordinates at condition numbers above 1e8, a redistribution of very large
//! `sigma`. pycma gives a candidate told from outside its negative weight, and gives NaN the
//! median's rank.
//!
//! The module knows nothing of Darwin but keyed randomness.

mod bounds;
mod error;
mod linalg;
mod parameters;
mod saved;
mod state;
mod stop;

#[cfg(test)]
mod tests;

pub use error::CmaError;
pub use parameters::{Parameters, default_popsize, popsize_for_workers};
pub use stop::StopReason;

use bounds::Bounds;
use darwin_core::keyed::{Key, Rng};
use linalg::Symmetric;
use serde::{Deserialize, Serialize};
use state::{Pending, State, Step};

/// What a run is made with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Options {
    /// Candidates a generation, at least 3; by default [`default_popsize`].
    pub popsize: Option<usize>,
    /// (low, high) of every coordinate, or empty for all of space.
    pub bounds: Vec<(f64, f64)>,
    /// The seed of all that is random.
    pub seed: u64,
    /// What the run is, so that two runs with one seed differ: `["proxy", "guided"]`.
    pub stream: Vec<String>,
    /// Whether bad candidates shrink the covariance.
    pub active: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { popsize: None, bounds: vec![], seed: 0, stream: vec![], active: true }
    }
}

/// The covariance a run starts with, before it is scaled by the square of `sigma`.
#[derive(Clone, Debug, PartialEq)]
pub enum Covariance {
    /// The identity.
    Isotropic,
    /// Variances of independent coordinates, (n).
    Diagonal(Vec<f64>),
    /// A positive definite matrix, (n, n); its symmetric part is taken.
    Full(Vec<Vec<f64>>),
}

/// The best candidate so far.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// Where it lies, (n).
    pub x: Vec<f64>,
    /// Its fitness.
    pub fitness: f64,
    /// Candidates told up to it, itself included.
    pub evaluations: usize,
}

/// A run of CMA-ES. The smaller the fitness, the better.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "saved::Saved", into = "saved::Saved")]
pub struct Cma {
    options: Options,
    bounds: Bounds,
    parameters: Parameters,
    state: State,
}

impl Cma {
    /// A run that starts at `mean` (n), inside the bounds, with standard deviations of `sigma0`
    /// times the roots of the covariance's diagonal.
    ///
    /// # Errors
    /// Anything that is not finite, has the wrong length or lies outside the bounds; a covariance
    /// that is not positive definite; a population below 3.
    pub fn new(
        mean: &[f64],
        covariance: Covariance,
        sigma0: f64,
        options: Options,
    ) -> Result<Self, CmaError> {
        let (bounds, parameters) = options.resolve(mean.len())?;
        error::check_point("mean", mean, mean.len())?;
        let state = State::new(bounds.to_search(mean)?, &covariance, sigma0, &bounds)?;
        Ok(Self { options, bounds, parameters, state })
    }

    /// A new run with the mean and the covariance of an earlier one; paths, counters and the best
    /// start afresh. With the earlier run's own [`sigma`](Self::sigma) it starts from its last
    /// distribution, with twice as much from one twice as wide.
    ///
    /// # Errors
    /// As [`Cma::new`]; the earlier mean must lie inside the new bounds.
    pub fn warm_started(previous: &Self, sigma: f64, options: Options) -> Result<Self, CmaError> {
        let covariance = Covariance::Full(previous.covariance());
        Self::new(&previous.mean(), covariance, sigma, options)
    }

    /// The candidates of a generation, (popsize, n).
    pub fn ask(&mut self) -> Vec<Vec<f64>> {
        self.draw(vec![])
    }

    /// The candidates of a generation, of which the first are the `injected` ones, as they are
    /// (arXiv 1110.4181). They replace as many samples.
    ///
    /// # Errors
    /// More injected candidates than the generation has, or one that is not finite, has the wrong
    /// length or lies outside the bounds.
    pub fn ask_with(&mut self, injected: &[Vec<f64>]) -> Result<Vec<Vec<f64>>, CmaError> {
        if injected.len() > self.parameters.popsize {
            let found = injected.len();
            return Err(CmaError::TooManyInjected { found, popsize: self.parameters.popsize });
        }
        let given = injected.iter().map(|x| self.foreign(x)).collect::<Result<_, _>>()?;
        Ok(self.draw(given))
    }

    /// The fitness of every candidate of a generation, in any order. Candidates are recognised by
    /// their numbers; others than those last asked count as injected.
    ///
    /// # Errors
    /// Another number of candidates than `popsize`, or a bad candidate as in [`Cma::ask_with`];
    /// the run is then as it was.
    pub fn tell(&mut self, candidates: &[Vec<f64>], fitness: &[f64]) -> Result<(), CmaError> {
        let popsize = self.parameters.popsize;
        if candidates.len() != popsize || fitness.len() != popsize {
            let (candidates, fitness) = (candidates.len(), fitness.len());
            return Err(CmaError::Population { candidates, fitness, popsize });
        }
        let known = self.recognise(candidates)?;
        let order = ranking(fitness);
        let ranked: Vec<Step> =
            order.iter().map(|i| self.state.step(&known[*i], fitness[*i].is_finite())).collect();
        let mut next = self.state.clone();
        next.count(&order, candidates, fitness);
        if ranked.iter().any(|step| step.finite) {
            next.update(&self.parameters, &ranked, &self.bounds)?;
        }
        self.state = next;
        Ok(())
    }

    /// Why the run may end; empty while it should go on. Budgets are the caller's.
    #[must_use]
    pub fn stop(&self) -> Vec<StopReason> {
        stop::reasons(&self.state, &self.parameters)
    }

    /// The best candidate told so far, `None` before one with a finite fitness.
    #[must_use]
    pub fn best(&self) -> Option<&Best> {
        self.state.best.as_ref()
    }

    /// The mean of the distribution, in the box, (n): the point to evaluate at the end.
    #[must_use]
    pub fn mean(&self) -> Vec<f64> {
        self.bounds.to_box(&self.state.mean)
    }

    /// The step size.
    #[must_use]
    pub fn sigma(&self) -> f64 {
        self.state.sigma
    }

    /// The standard deviation of every coordinate in the search space, (n).
    #[must_use]
    pub fn stds(&self) -> Vec<f64> {
        self.state.stds().collect()
    }

    /// The covariance without the factor `sigma` squared, (n, n), in the search space.
    #[must_use]
    pub fn covariance(&self) -> Vec<Vec<f64>> {
        self.state.covariance.rows().map(<[f64]>::to_vec).collect()
    }

    /// Generations told.
    #[must_use]
    pub fn generation(&self) -> usize {
        self.state.generation
    }

    /// Candidates told.
    #[must_use]
    pub fn evaluations(&self) -> usize {
        self.state.generation * self.parameters.popsize
    }

    /// The constants of the run.
    #[must_use]
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// The options the run was made with.
    #[must_use]
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Fills a generation up with samples, m + sigma C^(1/2) N(0, I) (38)..(40).
    fn draw(&mut self, mut generation: Vec<Pending>) -> Vec<Vec<f64>> {
        let mut rng = Rng::new(self.options.key(), self.state.rng_position);
        while generation.len() < self.parameters.popsize {
            let search = self.state.sample(&mut rng);
            generation.push(Pending { x: self.bounds.to_box(&search), search, injected: false });
        }
        self.state.rng_position = rng.position();
        self.state.pending = generation;
        self.state.pending.iter().map(|candidate| candidate.x.clone()).collect()
    }

    /// A candidate that comes from outside.
    fn foreign(&self, x: &[f64]) -> Result<Pending, CmaError> {
        error::check_point("candidate", x, self.state.mean.len())?;
        Ok(Pending { x: x.to_vec(), search: self.bounds.to_search(x)?, injected: true })
    }

    /// The told candidates as they were asked, each asked one used once.
    fn recognise(&self, candidates: &[Vec<f64>]) -> Result<Vec<Pending>, CmaError> {
        let mut asked: Vec<Option<&Pending>> = self.state.pending.iter().map(Some).collect();
        let mut find = |x: &Vec<f64>| {
            let slot = asked.iter_mut().find(|slot| slot.is_some_and(|known| known.x == *x));
            slot.and_then(Option::take).cloned().map_or_else(|| self.foreign(x), Ok)
        };
        candidates.iter().map(&mut find).collect()
    }
}

impl Options {
    /// Validates the options for `n` coordinates.
    fn resolve(&self, n: usize) -> Result<(Bounds, Parameters), CmaError> {
        let popsize = self.popsize.unwrap_or_else(|| default_popsize(n));
        if n == 0 || popsize < 3 {
            return Err(CmaError::Size { n, popsize });
        }
        Ok((Bounds::new(&self.bounds, n)?, Parameters::new(n, popsize, self.active)))
    }

    fn key(&self) -> Key {
        let names: Vec<&str> =
            std::iter::once("cma").chain(self.stream.iter().map(String::as_str)).collect();
        Key::new(self.seed, &names)
    }
}

impl Covariance {
    fn matrix(&self, n: usize) -> Result<Symmetric, CmaError> {
        let shape = |found| CmaError::Dimension { what: "covariance", found, expected: n };
        match self {
            Self::Isotropic => Ok(Symmetric::from_diagonal(&vec![1.0; n])),
            Self::Diagonal(variances) if variances.len() != n => Err(shape(variances.len())),
            Self::Diagonal(variances) => Ok(Symmetric::from_diagonal(variances)),
            Self::Full(rows) => match rows.iter().find(|row| row.len() != n) {
                Some(row) => Err(shape(row.len())),
                None if rows.len() != n => Err(shape(rows.len())),
                None => Ok(Symmetric::from_rows(rows)),
            },
        }
    }
}

/// Indices from best to worst; what is not finite last, ties in the order given.
fn ranking(fitness: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..fitness.len()).collect();
    let worth = |i: usize| if fitness[i].is_finite() { fitness[i] } else { f64::INFINITY };
    order.sort_by(|i, j| worth(*i).total_cmp(&worth(*j)));
    order
}
