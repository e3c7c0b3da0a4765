//! Invalid inputs to the optimiser.

use darwin_core::Diagnose;

/// Why a run could not be made, asked or told.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum CmaError {
    /// A vector or matrix of the wrong size.
    #[error("{what} has length {found}, the search has {expected} coordinates")]
    Dimension {
        /// What it is.
        what: &'static str,
        /// Its length.
        found: usize,
        /// The length it must have.
        expected: usize,
    },
    /// A number that is none.
    #[error("{what}[{index}] is {value}")]
    NotFinite {
        /// What it is.
        what: &'static str,
        /// Its index.
        index: usize,
        /// The value.
        value: f64,
    },
    /// A point outside the box.
    #[error("coordinate {index} is {value}, outside {low}..={high}")]
    Outside {
        /// The coordinate.
        index: usize,
        /// Its value.
        value: f64,
        /// Its lower bound.
        low: f64,
        /// Its upper bound.
        high: f64,
    },
    /// Bounds that hold nothing, or are infinite.
    #[error("bounds of coordinate {index} are {low}..{high}; both must be finite, the lower first")]
    Bounds {
        /// The coordinate.
        index: usize,
        /// Its lower bound.
        low: f64,
        /// Its upper bound.
        high: f64,
    },
    /// A step size that is not a positive number.
    #[error("sigma is {0}; it must be positive and finite")]
    Sigma(f64),
    /// Too few coordinates or candidates.
    #[error("{n} coordinates, {popsize} candidates; the least are 1 and 3")]
    Size {
        /// Coordinates.
        n: usize,
        /// Candidates a generation.
        popsize: usize,
    },
    /// A covariance that no distribution has.
    #[error("the covariance is not positive definite")]
    NotPositiveDefinite,
    /// More injected candidates than a generation has.
    #[error("{found} injected candidates, a generation has {popsize}")]
    TooManyInjected {
        /// Injected candidates.
        found: usize,
        /// Candidates a generation.
        popsize: usize,
    },
    /// A generation of the wrong size.
    #[error("{candidates} candidates with {fitness} values told, a generation has {popsize}")]
    Population {
        /// Candidates told.
        candidates: usize,
        /// Values told.
        fitness: usize,
        /// Candidates a generation.
        popsize: usize,
    },
    /// A saved run whose parts do not fit each other.
    #[error("the saved run is damaged: {0}")]
    Saved(&'static str),
}

impl Diagnose for CmaError {
    fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::NotFinite { .. } => "only a fitness may be not finite",
            Self::Outside { .. } => "move it into the bounds first",
            Self::NotPositiveDefinite => "every variance must be above 0",
            Self::TooManyInjected { .. } => "inject over several generations",
            Self::Population { .. } => "tell failed candidates with a fitness of NaN",
            Self::Saved(_) => "start the run again",
            Self::Dimension { .. } | Self::Bounds { .. } | Self::Sigma(_) | Self::Size { .. } => {
                return None;
            }
        };
        Some(hint.to_owned())
    }
}

/// A point of the right length whose coordinates are finite.
pub(super) fn check_point(what: &'static str, x: &[f64], n: usize) -> Result<(), CmaError> {
    if x.len() != n {
        return Err(CmaError::Dimension { what, found: x.len(), expected: n });
    }
    match x.iter().enumerate().find(|(_, value)| !value.is_finite()) {
        Some((index, value)) => Err(CmaError::NotFinite { what, index, value: *value }),
        None => Ok(()),
    }
}
