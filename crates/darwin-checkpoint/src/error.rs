//! Errors of reading and writing checkpoints.

use darwin_core::{Diagnose, Fault};
use std::fmt;
use std::path::{Path, PathBuf};

/// One thing that is wrong with a checkpoint: a sentence that names file and tensor or key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The sentence.
    pub text: String,
    /// What to do about it.
    pub hint: String,
}

impl Problem {
    /// A problem with its hint.
    pub fn new(text: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { text: text.into(), hint: hint.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// What can go wrong with a checkpoint.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be read or written.
    #[error("cannot {doing} {}", path.display())]
    Io {
        /// `read`, `write`, `open`, `create`.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Headers, index or config contradict themselves or the files; all problems at once.
    #[error("{}", join(.0))]
    Invalid(Vec<Problem>),
    /// A weight is NaN or infinite.
    #[error("{}: tensor `{tensor}` holds {value} at element {element}", file.display())]
    NotFinite {
        /// The shard.
        file: PathBuf,
        /// The tensor's name in the file.
        tensor: String,
        /// Flat index.
        element: usize,
        /// `NaN` or `inf`.
        value: f32,
    },
    /// A tensor that the caller needs is not there.
    #[error("{model} has no tensor `{tensor}`")]
    MissingTensor {
        /// The model's folder.
        model: String,
        /// The canonical name.
        tensor: String,
    },
    /// The work was cancelled.
    #[error("interrupted")]
    Cancelled,
    /// A tensor source that is not a checkpoint failed.
    #[error("{message}")]
    Source {
        /// The sentence.
        message: String,
        /// What to do.
        hint: Option<String>,
        /// Whose fault.
        fault: Fault,
    },
}

impl Error {
    pub(crate) fn io(doing: &'static str, path: &Path, source: std::io::Error) -> Self {
        Self::Io { doing, path: path.to_owned(), source }
    }

    pub(crate) fn one(text: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Invalid(vec![Problem::new(text, hint)])
    }
}

fn join(problems: &[Problem]) -> String {
    problems.iter().map(|p| p.text.as_str()).collect::<Vec<_>>().join("\n       ")
}

impl Diagnose for Error {
    fn fault(&self) -> Fault {
        match self {
            Self::Io { source, doing, .. } => match Fault::of_io(source) {
                Fault::User if *doing == "write" => Fault::Environment,
                fault => fault,
            },
            Self::Cancelled => Fault::Interrupted,
            Self::Source { fault, .. } => *fault,
            _ => Fault::User,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Io { source, .. } if source.kind() == std::io::ErrorKind::StorageFull => {
                Some("free some space or choose another output folder".to_owned())
            }
            Self::Invalid(problems) => problems.first().map(|p| p.hint.clone()),
            Self::NotFinite { .. } => Some(
                "the checkpoint is damaged: download it again, or leave this model out".to_owned(),
            ),
            Self::MissingTensor { .. } => {
                Some("check that the model is complete (`darwin inspect`)".to_owned())
            }
            Self::Source { hint, .. } => hint.clone(),
            _ => None,
        }
    }
}
