//! Errors of recipes, plans and merges.

use darwin_checkpoint::Problem;
use darwin_core::{Diagnose, Fault, io_hint};
use std::fmt;

/// One thing that is wrong with a recipe: where, what, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecipeProblem {
    /// The file's name, or `<recipe>` for text that has none.
    pub file: String,
    /// Line and column, from 1; `None` where the recipe was built in code.
    pub at: Option<(usize, usize)>,
    /// The sentence: names the key, the value found and the values allowed.
    pub text: String,
    /// What to do about it.
    pub hint: String,
}

impl fmt::Display for RecipeProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.at {
            Some((line, column)) => write!(f, "{}:{line}:{column}: {}", self.file, self.text),
            None => write!(f, "{}: {}", self.file, self.text),
        }
    }
}

/// What can go wrong with a merge.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The recipe is wrong; all problems at once.
    #[error("{}", join(.0, |p| &p.hint))]
    Recipe(Vec<RecipeProblem>),
    /// Recipe and models do not fit together; all problems at once.
    #[error("{}", join(.0, |p| &p.hint))]
    Plan(Vec<Problem>),
    /// A file could not be read.
    #[error("cannot read {file}")]
    Io {
        /// The file.
        file: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file could not be written.
    #[error("cannot write {file}")]
    Write {
        /// The file.
        file: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A checkpoint could not be read or written.
    #[error(transparent)]
    Checkpoint(#[from] darwin_checkpoint::Error),
}

impl Error {
    pub(crate) fn plan(text: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Plan(vec![Problem::new(text, hint)])
    }
}

/// As many problems are shown as a person may want to read.
const SHOWN: usize = 100;

/// One sentence a line; where there are several, each with its hint.
fn join<T: fmt::Display>(problems: &[T], hint: impl Fn(&T) -> &String) -> String {
    match problems {
        [one] => one.to_string(),
        _ => {
            let shown = problems.iter().take(SHOWN);
            let mut lines: Vec<String> =
                shown.map(|problem| format!("{problem} ({})", hint(problem))).collect();
            if let Some(more) = problems.len().checked_sub(SHOWN).filter(|more| *more > 0) {
                lines.push(format!("and {more} more problems"));
            }
            lines.join("\n       ")
        }
    }
}

impl Diagnose for Error {
    fn fault(&self) -> Fault {
        match self {
            Self::Recipe(_) | Self::Plan(_) => Fault::User,
            Self::Io { source, .. } | Self::Write { source, .. } => Fault::of_io(source),
            Self::Checkpoint(error) => error.fault(),
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Recipe(problems) => match &problems[..] {
                [one] => Some(one.hint.clone()),
                _ => None,
            },
            Self::Plan(problems) => match &problems[..] {
                [one] => Some(one.hint.clone()),
                _ => None,
            },
            Self::Io { source, .. } | Self::Write { source, .. } => {
                io_hint(source).or_else(|| Some("check the path".to_owned()))
            }
            Self::Checkpoint(error) => error.hint(),
        }
    }
}
