//! Errors of an evolution.

use darwin_core::files::ArmName;
use darwin_core::{Diagnose, Fault, io_hint};
use std::path::PathBuf;

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The configuration is wrong.
    #[error("{}: {text}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// Line, column, key and what was found.
        text: String,
        /// What to do.
        hint: String,
    },
    /// A file could not be read or written.
    #[error("cannot use {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The journal is damaged.
    #[error("{}: {text}", path.display())]
    Journal {
        /// The journal.
        path: PathBuf,
        /// What is wrong.
        text: String,
        /// What to do.
        hint: String,
    },
    /// The optimiser was fed something impossible.
    #[error("the optimiser failed: {0}")]
    Optimiser(String),
    /// What an arm has to know before it begins costs more than it may spend.
    #[error(
        "the arm {} needs {needs} forward tokens for what it knows and for its last comparison, and \
         `proxy.steps` gives it {budget}",
        arm.name()
    )]
    Budget {
        /// The arm.
        arm: ArmName,
        /// Tokens that it needs at least.
        needs: u64,
        /// Tokens that it may spend.
        budget: u64,
    },
    /// The work was cancelled; the same command continues.
    #[error("interrupted; the same command continues")]
    Cancelled,
    /// A part of Darwin below failed.
    #[error("{message}")]
    Below {
        /// The sentence.
        message: String,
        /// What to do.
        hint: Option<String>,
        /// Whose fault.
        fault: Fault,
    },
}

impl Error {
    /// The father could not be evaluated: nothing can be compared with him.
    pub(crate) fn father(why: &str) -> Self {
        let message = format!("the father could not be evaluated: {why}");
        Self::Below { message, hint: None, fault: Fault::User }
    }

    /// Carries an error of a crate below upwards, sentence, hint and fault unchanged.
    pub fn below<E: Diagnose>(error: E) -> Self {
        let failure = darwin_core::Failure::from(error);
        if failure.fault() == Fault::Interrupted {
            return Self::Cancelled;
        }
        Self::Below {
            message: failure.to_string(),
            hint: failure.hint().map(str::to_owned),
            fault: failure.fault(),
        }
    }
}

impl Diagnose for Error {
    fn fault(&self) -> Fault {
        match self {
            Self::Io { source, .. } => Fault::of_io(source),
            Self::Cancelled => Fault::Interrupted,
            Self::Below { fault, .. } => *fault,
            _ => Fault::User,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Config { hint, .. } | Self::Journal { hint, .. } => Some(hint.clone()),
            Self::Below { hint, .. } => hint.clone(),
            Self::Io { source, .. } => io_hint(source),
            Self::Budget { .. } => Some(
                "raise `proxy.steps`, or ask fewer items: `proxy.per_domain`, \
                 `proxy.final_per_domain`, `calibration.per_domain`"
                    .to_owned(),
            ),
            _ => None,
        }
    }
}
