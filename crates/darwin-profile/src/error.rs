//! Errors of profiling, comparing and checking.

use crate::broken::Broken;
use darwin_core::{Diagnose, Fault, io_hint};
use std::path::PathBuf;

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The engine failed.
    #[error(transparent)]
    Engine(#[from] darwin_engine::Error),
    /// Reading weights failed.
    #[error(transparent)]
    Weights(#[from] darwin_checkpoint::Error),
    /// A model computes NaN or infinities, so that nothing of it can be measured.
    #[error("{model} computes values that are not finite: {}", found.text)]
    NotFinite {
        /// What the model is called.
        model: String,
        /// Where.
        found: Box<Broken>,
    },
    /// There is nothing to measure on.
    #[error("the calibration set holds no items")]
    NoSamples,
    /// Two models that do not fit together.
    #[error("{first} has {what} {a}, {second} has {b}")]
    Mismatch {
        /// Name of the first model.
        first: String,
        /// Name of the second.
        second: String,
        /// Which quantity.
        what: &'static str,
        /// The first model's value.
        a: String,
        /// The second's.
        b: String,
    },
    /// Shards of a profile that share samples: they would count twice.
    #[error("both shards hold sample {id}")]
    Overlap {
        /// The sample.
        id: String,
    },
    /// A file of per-sample counters could not be read or written.
    #[error("cannot {doing} {}", path.display())]
    Io {
        /// `read` or `write`.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file of per-sample counters does not make sense.
    #[error("{}: {what}", path.display())]
    Counters {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// The work was cancelled.
    #[error("interrupted")]
    Cancelled,
}

impl Diagnose for Error {
    fn fault(&self) -> Fault {
        match self {
            Self::Engine(error) => error.fault(),
            Self::Weights(error) => error.fault(),
            Self::Io { doing: "write", source, .. } => match Fault::of_io(source) {
                Fault::User => Fault::Environment,
                fault => fault,
            },
            Self::Io { source, .. } => Fault::of_io(source),
            Self::Cancelled => Fault::Interrupted,
            _ => Fault::User,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Engine(error) => error.hint(),
            Self::Weights(error) => error.hint(),
            Self::NotFinite { .. } => Some(
                "its weights are too large for float32, or damaged: use another model".to_owned(),
            ),
            Self::NoSamples => Some("give a file of calibration items".to_owned()),
            Self::Mismatch { .. } => {
                Some("only models of one architecture and size can be compared".to_owned())
            }
            Self::Overlap { .. } => {
                Some("profile disjoint parts of the calibration set".to_owned())
            }
            Self::Counters { .. } => Some("profile the model again".to_owned()),
            Self::Io { source, .. } => io_hint(source),
            _ => None,
        }
    }
}
