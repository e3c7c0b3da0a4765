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

/// As many problems are kept as a person may want to read.
const MAX_PROBLEMS: usize = 100;

/// Problems as they are found: a file can have millions, and those beyond [`MAX_PROBLEMS`] are
/// dropped, which the last one says.
#[derive(Debug, Default)]
pub(crate) struct Problems(Vec<Problem>);

impl Problems {
    pub(crate) fn push(&mut self, problem: Problem) {
        match self.0.len() {
            MAX_PROBLEMS.. => {}
            n if n + 1 == MAX_PROBLEMS => {
                let text = format!("there are more problems, {n} are shown");
                self.0.push(Problem::new(text, "begin with the first"));
            }
            _ => self.0.push(problem),
        }
    }

    pub(crate) fn extend(&mut self, problems: impl IntoIterator<Item = Problem>) {
        problems.into_iter().for_each(|problem| self.push(problem));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All problems, else what was found to be right.
    pub(crate) fn into_result<T>(self, value: T) -> Result<T, Vec<Problem>> {
        if self.0.is_empty() { Ok(value) } else { Err(self.0) }
    }
}

/// The beginning of a name from a file, for messages.
pub(crate) fn cut(name: &str) -> String {
    const SHOWN: usize = 120;
    match name.char_indices().nth(SHOWN) {
        Some((at, _)) => format!("{}…", &name[..at]),
        None => name.to_owned(),
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
            Self::Cancelled => None,
        }
    }
}
