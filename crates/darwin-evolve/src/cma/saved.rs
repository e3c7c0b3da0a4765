//! A run on disk: options and state; what follows from them is computed again and checked.

use super::state::State;
use super::{Cma, CmaError, Options};
use serde::{Deserialize, Serialize};

/// A run as it is written.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Saved {
    options: Options,
    state: State,
}

impl From<Cma> for Saved {
    fn from(cma: Cma) -> Self {
        Self { options: cma.options, state: cma.state }
    }
}

impl TryFrom<Saved> for Cma {
    type Error = CmaError;

    fn try_from(Saved { options, state }: Saved) -> Result<Self, CmaError> {
        let (bounds, parameters) = options.resolve(state.mean.len())?;
        state.check(parameters.popsize)?;
        Ok(Self { options, bounds, parameters, state })
    }
}

impl State {
    /// Whether all parts have the length of the mean and hold numbers.
    fn check(&self, popsize: usize) -> Result<(), CmaError> {
        let n = self.mean.len();
        let whole = |v: &[f64]| v.len() == n && v.iter().all(|x| x.is_finite());
        let pending = self.pending.iter().all(|c| whole(&c.x) && whole(&c.search));
        [
            (whole(&self.mean), "mean"),
            (self.sigma > 0.0 && self.sigma.is_finite(), "sigma"),
            (self.covariance.n() == n && self.covariance.is_whole(), "covariance"),
            (self.eigen.is_whole(n), "eigen"),
            (whole(&self.path_c) && whole(&self.path_sigma), "paths"),
            (whole(&self.record.start_stds), "record"),
            (self.best.as_ref().is_none_or(|best| whole(&best.x)), "best"),
            (pending && [0, popsize].contains(&self.pending.len()), "pending"),
        ]
        .into_iter()
        .find_map(|(holds, part)| (!holds).then_some(Err(CmaError::Saved(part))))
        .unwrap_or(Ok(()))
    }
}
