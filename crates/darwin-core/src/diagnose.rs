//! Errors that tell a person what happened, what to do, and the shell which exit code fits.

use std::fmt;

/// Whose fault a failure is; decides the process' exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A check ran and failed (exit code 1).
    Check,
    /// The input is wrong: the user can mend it (exit code 2).
    User,
    /// Disk, network, server (exit code 3).
    Environment,
    /// Interrupted; the same command continues (exit code 130).
    Interrupted,
}

impl Fault {
    /// The exit code of a process that stops for this reason.
    #[must_use]
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Check => 1,
            Self::User => 2,
            Self::Environment => 3,
            Self::Interrupted => 130,
        }
    }

    /// The fault behind an I/O error: a full or unwritable disk is the environment's, a missing
    /// file the user's.
    #[must_use]
    pub fn of_io(error: &std::io::Error) -> Self {
        use std::io::ErrorKind as K;
        match error.kind() {
            K::NotFound
            | K::InvalidInput
            | K::InvalidData
            | K::UnexpectedEof
            | K::NotADirectory
            | K::IsADirectory
            | K::AlreadyExists => Self::User,
            K::Interrupted => Self::Interrupted,
            _ => Self::Environment,
        }
    }
}

/// An error of one of Darwin's libraries: a sentence (its `Display`), a hint and a fault.
pub trait Diagnose: std::error::Error + Send + Sync + 'static {
    /// Whose fault it is.
    fn fault(&self) -> Fault {
        Fault::User
    }

    /// What to do about it, as a sentence without a full stop.
    fn hint(&self) -> Option<String> {
        None
    }
}

/// Any failure on its way to the user. Every [`Diagnose`] error converts into it with `?`.
#[derive(Debug)]
pub struct Failure {
    message: String,
    hint: Option<String>,
    fault: Fault,
}

impl Failure {
    /// A failure that has no library error behind it.
    pub fn new(fault: Fault, message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None, fault }
    }

    /// The user's input is wrong.
    pub fn user(message: impl Into<String>) -> Self {
        Self::new(Fault::User, message)
    }

    /// The same failure with a hint.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// Whose fault it is.
    #[must_use]
    pub fn fault(&self) -> Fault {
        self.fault
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl<E: Diagnose> From<E> for Failure {
    fn from(error: E) -> Self {
        let mut message = error.to_string();
        let mut cause = std::error::Error::source(&error);
        while let Some(inner) = cause {
            let text = inner.to_string();
            if !message.contains(&text) {
                message.push_str(": ");
                message.push_str(&text);
            }
            cause = inner.source();
        }
        Self { message, hint: error.hint(), fault: error.fault() }
    }
}

/// The candidate nearest to `word` (edit distance at most a third of its length, at least 2).
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let limit = (word.chars().count() / 3).max(2);
    candidates
        .into_iter()
        .map(|c| (edit_distance(word, c), c))
        .filter(|(d, _)| *d <= limit)
        .min_by_key(|(d, _)| *d)
        .map(|(_, c)| c)
}

fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_finds_typos_and_nothing_else() {
        assert_eq!(nearest("denisty", ["density", "weight"]), Some("density"));
        assert_eq!(nearest("modelz", ["models", "slices"]), Some("models"));
        assert_eq!(nearest("banana", ["models", "slices"]), None);
    }
}
