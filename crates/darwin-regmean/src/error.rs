//! Errors of solving.

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
    /// Recipe, parents and items do not fit together.
    #[error("{text}")]
    Unfit {
        /// What does not fit.
        text: String,
        /// What to do.
        hint: String,
    },
    /// A file of solved tensors could not be read or written.
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
    /// The work was cancelled.
    #[error("interrupted")]
    Cancelled,
}

impl Error {
    pub(crate) fn unfit(text: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Unfit { text: text.into(), hint: hint.into() }
    }
}

impl Diagnose for Error {
    fn fault(&self) -> Fault {
        match self {
            Self::Engine(error) => error.fault(),
            Self::Weights(error) => error.fault(),
            Self::Unfit { .. } => Fault::User,
            Self::Io { source, .. } => match Fault::of_io(source) {
                Fault::User => Fault::Environment,
                fault => fault,
            },
            Self::Cancelled => Fault::Interrupted,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Engine(error) => error.hint(),
            Self::Weights(error) => error.hint(),
            Self::Unfit { hint, .. } => Some(hint.clone()),
            Self::Io { source, .. } => io_hint(source),
            Self::Cancelled => None,
        }
    }
}
