//! Errors of reading items and of evaluating.

use darwin_core::{Diagnose, Fault, io_hint};
use std::path::{Path, PathBuf};

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be read.
    #[error("cannot read {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A line of an item file is wrong.
    #[error("{}:{line}: {what}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong, with the key.
        what: String,
        /// What to do.
        hint: String,
    },
    /// A set without items.
    #[error("{name} holds no items")]
    Empty {
        /// The file or split.
        name: String,
    },
    /// The tokenizer gives no stop token.
    #[error("the model's files name no end-of-text token")]
    NoStopToken,
    /// The engine failed.
    #[error(transparent)]
    Engine(#[from] darwin_engine::Error),
    /// The work was cancelled.
    #[error("interrupted")]
    Cancelled,
}

impl Error {
    pub(crate) fn line(path: &Path, line: usize, what: String, hint: impl Into<String>) -> Self {
        Self::Line { path: path.to_owned(), line, what, hint: hint.into() }
    }
}

impl Diagnose for Error {
    fn fault(&self) -> Fault {
        match self {
            Self::Io { source, .. } => Fault::of_io(source),
            Self::Engine(error) => error.fault(),
            Self::Cancelled => Fault::Interrupted,
            _ => Fault::User,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Line { hint, .. } => Some(hint.clone()),
            Self::Empty { .. } => Some("give a file with one JSON object per line".to_owned()),
            Self::NoStopToken => {
                Some("set `eos_token_id` in generation_config.json or config.json".to_owned())
            }
            Self::Engine(error) => error.hint(),
            Self::Io { source, .. } => io_hint(source),
            _ => None,
        }
    }
}
