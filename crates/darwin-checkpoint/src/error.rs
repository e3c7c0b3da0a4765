//! Errors of reading and writing checkpoints.

use darwin_core::{Diagnose, Fault, io_hint};
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
    /// A file is not what it was when the work began.
    #[error("{} {what}", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
        /// What happened to it.
        what: &'static str,
    },
    /// A write failed whose finished shards are kept.
    #[error("{error}")]
    Kept {
        /// Why it failed.
        #[source]
        error: Box<Error>,
        /// Shards that the next write goes on after.
        shards: usize,
    },
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
            Self::Changed { .. } => Fault::Environment,
            Self::Kept { error, .. } => error.fault(),
            Self::Source { fault, .. } => *fault,
            _ => Fault::User,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Io { source, .. } => io_hint(source),
            Self::Changed { .. } => {
                Some("run the command again when no other program writes to it".to_owned())
            }
            Self::Kept { error, shards } => {
                let kept = match shards {
                    1 => "1 finished shard is kept".to_owned(),
                    n => format!("{n} finished shards are kept"),
                };
                let then = format!("{kept}, the same command goes on after them");
                Some(error.hint().map_or(then.clone(), |hint| format!("{hint}; {then}")))
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
