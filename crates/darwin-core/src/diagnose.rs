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

    /// The fault behind an I/O error: a full, busy or unwritable disk, a lock that another process
    /// holds and a lack of file descriptors are the environment's, a missing file the user's.
    #[must_use]
    pub fn of_io(error: &std::io::Error) -> Self {
        use std::io::ErrorKind as K;
        if error.raw_os_error() == Some(libc::ELOOP) {
            return Self::User;
        }
        match error.kind() {
            K::NotFound
            | K::InvalidInput
            | K::InvalidData
            | K::UnexpectedEof
            | K::NotADirectory
            | K::IsADirectory
            | K::InvalidFilename
            | K::AlreadyExists => Self::User,
            K::Interrupted => Self::Interrupted,
            _ => Self::Environment,
        }
    }
}

/// What to do about an I/O error that the environment caused.
#[must_use]
pub fn io_hint(error: &std::io::Error) -> Option<String> {
    use std::io::ErrorKind as K;
    if error.get_ref().is_some_and(|inner| inner.is::<crate::fs::Held>()) {
        return Some("wait until it ends, or choose another output".to_owned());
    }
    match error.raw_os_error() {
        Some(libc::EMFILE) => {
            let limit = match open_files() {
                Some(limit) => format!("a process may open {limit} files here"),
                None => "a process may not open more".to_owned(),
            };
            return Some(format!("{limit}: allow more with `ulimit -n`"));
        }
        Some(libc::ENFILE) => {
            return Some("the whole system has too many open files: end other programs".to_owned());
        }
        _ => {}
    }
    let hint = match error.kind() {
        K::StorageFull | K::QuotaExceeded => "free some space or choose another output folder",
        K::ReadOnlyFilesystem => "choose an output on a file system that can be written",
        K::PermissionDenied => "check the permissions, or choose another place",
        K::ResourceBusy => "end the program that uses it, or choose another place",
        _ => return None,
    };
    Some(hint.to_owned())
}

/// How many files this process may have open.
fn open_files() -> Option<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the system fills the structure, which lives longer than the call.
    let asked = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) };
    (asked == 0).then_some(limit.rlim_cur)
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
    fn the_environment_is_to_blame_for_what_it_lacks() {
        use std::io::Error;
        for code in [
            libc::EMFILE,
            libc::ENFILE,
            libc::ENOSPC,
            libc::EDQUOT,
            libc::EROFS,
            libc::EACCES,
            libc::EPERM,
            libc::EBUSY,
            libc::EIO,
        ] {
            let error = Error::from_raw_os_error(code);
            assert_eq!(Fault::of_io(&error), Fault::Environment, "{error}");
            assert!(code == libc::EIO || io_hint(&error).is_some(), "{error}");
        }
        for code in [libc::ENOENT, libc::ENOTDIR, libc::EISDIR, libc::ELOOP, libc::ENAMETOOLONG] {
            let error = Error::from_raw_os_error(code);
            assert_eq!(Fault::of_io(&error), Fault::User, "{error}");
        }
        let hint = io_hint(&Error::from_raw_os_error(libc::EMFILE)).unwrap();
        assert!(hint.contains("ulimit -n") && hint.contains(char::is_numeric), "{hint}");
    }

    #[test]
    fn nearest_finds_typos_and_nothing_else() {
        assert_eq!(nearest("denisty", ["density", "weight"]), Some("density"));
        assert_eq!(nearest("modelz", ["models", "slices"]), Some("models"));
        assert_eq!(nearest("banana", ["models", "slices"]), None);
    }
}
