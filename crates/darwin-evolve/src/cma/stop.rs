//! When to end: the criteria of pycma and of the tutorial (B.3), with pycma's tolerances.

use super::Parameters;
use super::state::State;
use serde::{Deserialize, Serialize};
use std::fmt;

const TOL_FUN: f64 = 1e-11;
const TOL_FUN_HIST: f64 = 1e-12;
const TOL_X: f64 = 1e-11;
const TOL_X_UP: f64 = 1e3;
const TOL_CONDITION: f64 = 1e14;
/// Generations of flat fitness that are tolerated.
const TOL_FLAT: usize = 1;
/// Generations that are remembered.
const MEMORY: usize = 20_000;

/// Why a run may end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopReason {
    /// The fitness of the last generation, and of the best of recent ones, differs by less than
    /// 1e-11.
    TolFun,
    /// The best of recent generations differ by less than 1e-12.
    TolFunHist,
    /// More than a generation in a row whose better three quarters are equal.
    FlatFitness,
    /// Every standard deviation is below 1e-11.
    TolX,
    /// A standard deviation grew a thousandfold: the first was far too small.
    TolXUp,
    /// The condition number of the covariance is above 1e14.
    Condition,
    /// A tenth of a standard deviation along an axis no longer changes the mean.
    NoEffectAxis,
    /// A fifth of a standard deviation in a coordinate no longer changes the mean.
    NoEffectCoordinate,
    /// Neither the best nor the median fitness improves any more.
    Stagnation,
}

impl fmt::Display for StopReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TolFun => "the fitness differs by less than 1e-11",
            Self::TolFunHist => "the best fitness of recent generations differs by less than 1e-12",
            Self::FlatFitness => "the fitness is flat",
            Self::TolX => "the steps are shorter than 1e-11",
            Self::TolXUp => "the steps grew a thousandfold",
            Self::Condition => "the condition number of the covariance is above 1e14",
            Self::NoEffectAxis => "steps along an axis no longer change the mean",
            Self::NoEffectCoordinate => "steps in a coordinate no longer change the mean",
            Self::Stagnation => "neither the best nor the median fitness improves",
        })
    }
}

/// What the criteria remember of the generations told.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Record {
    /// Standard deviations at the start, (n).
    pub(super) start_stds: Vec<f64>,
    /// Best finite fitness and median of the finite ones, by generation; those without are left
    /// out.
    best_and_median: Vec<(f64, f64)>,
    /// Worst minus best of the last generation, `None` if a value was not finite.
    range: Option<f64>,
    /// Generations in a row whose better three quarters are equal.
    flat: usize,
}

impl Record {
    pub(super) fn new(start_stds: Vec<f64>) -> Self {
        Self { start_stds, ..Self::default() }
    }

    /// Takes a generation's fitness, sorted, what is not finite last.
    pub(super) fn push(&mut self, sorted: &[f64]) {
        let finite = sorted.iter().take_while(|f| f.is_finite()).count();
        let known = &sorted[..finite];
        self.range = None;
        if let (Some(best), Some(worst)) = (known.first(), known.last()) {
            let middle = 0.5 * (known[finite / 2] + known[(finite - 1) / 2]);
            self.best_and_median.push((*best, middle));
            self.range = (finite == sorted.len()).then_some(worst - best);
        }
        let excess = self.best_and_median.len().saturating_sub(MEMORY);
        self.best_and_median.drain(..excess);
        let flat = sorted[0] >= sorted[sorted.len() * 3 / 4];
        self.flat = if flat { self.flat + 1 } else { 0 };
    }

    /// Worst minus best of the last `window` generations' best, of `least` at least.
    fn best_range(&self, window: usize, least: usize) -> Option<f64> {
        let recent = &self.best_and_median[self.best_and_median.len().saturating_sub(window)..];
        let best = || recent.iter().map(|(best, _)| *best);
        let range = best().fold(f64::MIN, f64::max) - best().fold(f64::MAX, f64::min);
        (recent.len() >= least).then_some(range)
    }

    /// Whether neither history is better in the last 30 % of the window than in the first 30 %.
    fn stagnates(&self, shortest: usize) -> bool {
        let seen = self.best_and_median.len();
        let window = shortest.max(seen / 5);
        if seen < window {
            return false;
        }
        let recent = &self.best_and_median[seen - window..];
        let part = window * 3 / 10;
        let (first, last) = (&recent[..part], &recent[window - part..]);
        let worse = |value: fn(&(f64, f64)) -> f64| median(last, value) >= median(first, value);
        worse(|pair| pair.0) && worse(|pair| pair.1)
    }
}

fn median(pairs: &[(f64, f64)], value: fn(&(f64, f64)) -> f64) -> f64 {
    let mut values: Vec<f64> = pairs.iter().map(value).collect();
    values.sort_by(f64::total_cmp);
    0.5 * (values[values.len() / 2] + values[(values.len() - 1) / 2])
}

/// The criteria that hold, in the order of [`StopReason`].
pub(super) fn reasons(state: &State, p: &Parameters) -> Vec<StopReason> {
    if state.generation == 0 {
        return vec![];
    }
    let record = &state.record;
    let per_popsize = 30 * state.mean.len() / p.popsize;
    let below = |range: Option<f64>, tolerance: f64| range.is_some_and(|r| r < tolerance);
    let best_range = |least| record.best_range(10 + per_popsize, least);
    let tol_fun = below(record.range, TOL_FUN) && below(best_range(1), TOL_FUN);
    let mut grown = state.stds().zip(&record.start_stds);
    let path_is_small = state.path_c.iter().all(|pc| state.sigma * pc.abs() < TOL_X);
    [
        (StopReason::TolFun, tol_fun),
        (StopReason::TolFunHist, below(best_range(10), TOL_FUN_HIST)),
        (StopReason::FlatFitness, record.flat > TOL_FLAT),
        (StopReason::TolX, path_is_small && state.stds().all(|std| std < TOL_X)),
        (StopReason::TolXUp, grown.any(|(std, start)| std > TOL_X_UP * start)),
        (StopReason::Condition, state.eigen.condition() > TOL_CONDITION),
        (StopReason::NoEffectAxis, axis_has_no_effect(state)),
        (StopReason::NoEffectCoordinate, coordinate_has_no_effect(state)),
        (StopReason::Stagnation, record.stagnates(120 + per_popsize)),
    ]
    .into_iter()
    .filter_map(|(reason, holds)| holds.then_some(reason))
    .collect()
}

/// Each generation looks at another axis.
fn axis_has_no_effect(state: &State) -> bool {
    let axis = state.generation % state.mean.len();
    let step = 0.1 * state.sigma * state.eigen.lengths[axis];
    state.mean.iter().zip(&state.eigen.vectors[axis]).all(|(m, b)| *m == m + step * b)
}

fn coordinate_has_no_effect(state: &State) -> bool {
    state.mean.iter().zip(state.stds()).any(|(m, std)| *m == m + 0.2 * std)
}
