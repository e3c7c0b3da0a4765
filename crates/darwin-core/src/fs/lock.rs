//! One owner of a folder or file at a time.

use crate::time::utc;
use std::fmt;
use std::fs::{self, File, Metadata, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read, Seek, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

/// The name of the lock of a folder, in it.
pub(super) const INSIDE: &str = ".darwin-lock";

/// Bytes of a lock file that are looked at.
const MAX_BYTES: u64 = 1024;

/// How often a lock file is looked at whose owner has not written its name into it yet.
const LOOKS: usize = 40;

static HOST: OnceLock<String> = OnceLock::new();

/// Says once what this machine is called: other processes are told so by a lock's owner.
pub fn name_host(name: &str) {
    let plain = |c: &char| c.is_ascii_alphanumeric() || ".-_".contains(*c);
    // The first name holds.
    let _ = HOST.set(name.chars().filter(plain).take(255).collect());
}

/// An exclusive lock, as a file that its owner removes. The operating system releases it when the
/// process ends, however it ends, so that a file that was left behind locks nothing.
///
/// On a file system without locks nothing is locked.
#[derive(Debug)]
pub struct Lock {
    path: PathBuf,
    file: File,
}

impl Lock {
    /// Locks what will bear the name, by the file `.NAME.darwin-lock` beside it.
    ///
    /// # Errors
    /// `ResourceBusy` with a sentence that says who holds the lock; any other I/O error.
    pub fn beside(target: &Path) -> io::Result<Self> {
        let Some(name) = target.file_name() else { return Self::inside(target) };
        let mut hidden = std::ffi::OsString::from(".");
        hidden.push(name);
        hidden.push(".darwin-lock");
        Self::take(target.with_file_name(hidden), target)
    }

    /// Locks a folder that is there, by the file `.darwin-lock` in it.
    ///
    /// # Errors
    /// As [`Lock::beside`].
    pub fn inside(folder: &Path) -> io::Result<Self> {
        Self::take(folder.join(INSIDE), folder)
    }

    fn take(path: PathBuf, target: &Path) -> io::Result<Self> {
        loop {
            let mut options = OpenOptions::new();
            options.read(true).write(true).create(true).truncate(false);
            let file = options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(&path);
            let mut file = file.map_err(|e| no_lock(&path, &e))?;
            if !file.metadata()?.is_file() {
                return Err(no_lock(&path, &io::Error::other("it is no file")));
            }
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => match held(&path, &mut file, target)? {
                    Some(held) => return Err(io::Error::new(ErrorKind::ResourceBusy, held)),
                    None => continue,
                },
                Err(TryLockError::Error(error)) if !is_unsupported(&error) => return Err(error),
                Err(TryLockError::Error(_)) => {}
            }
            // The owner before may have removed the file between the two calls.
            if !is_same(&path, &file.metadata()?) {
                continue;
            }
            let host = HOST.get().map_or("", String::as_str);
            file.set_len(0)?;
            file.rewind()?;
            writeln!(file, "{} {host}", std::process::id())?;
            return Ok(Self { path, file });
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // While the lock is held: who opened this file and waits finds another or none there.
        if self.file.metadata().is_ok_and(|about| is_same(&self.path, &about)) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn no_lock(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{} cannot be made: {error}", path.display()))
}

/// Whether the path still leads to the file.
fn is_same(path: &Path, file: &Metadata) -> bool {
    fs::symlink_metadata(path)
        .is_ok_and(|about| (about.dev(), about.ino()) == (file.dev(), file.ino()))
}

fn is_unsupported(error: &io::Error) -> bool {
    let codes = [libc::ENOLCK, libc::ENOSYS, libc::EOPNOTSUPP, libc::ENOTSUP];
    error.kind() == ErrorKind::Unsupported
        || error.raw_os_error().is_some_and(|code| codes.contains(&code))
}

/// Who holds the lock, as the owner wrote it; `None` where the file went away meanwhile.
fn held(path: &Path, file: &mut File, target: &Path) -> io::Result<Option<Held>> {
    let mut text = String::new();
    for _ in 0..LOOKS {
        if !is_same(path, &file.metadata()?) {
            return Ok(None);
        }
        file.rewind()?;
        text.clear();
        Read::by_ref(file).take(MAX_BYTES).read_to_string(&mut text)?;
        if text.ends_with('\n') {
            break;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let mut words = text.split_whitespace();
    let pid = words.next().and_then(|pid| pid.parse().ok());
    let host = words.next().map(str::to_owned);
    let since = u64::try_from(file.metadata()?.mtime()).unwrap_or(0);
    Ok(Some(Held { target: target.to_owned(), pid, host, since }))
}

/// Somebody else owns what was asked for.
#[derive(Debug)]
pub(crate) struct Held {
    target: PathBuf,
    pid: Option<u32>,
    host: Option<String>,
    since: u64,
}

impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is in use by ", self.target.display())?;
        match self.pid {
            Some(pid) => write!(f, "process {pid}")?,
            None => f.write_str("another process")?,
        }
        if let Some(host) = &self.host {
            write!(f, " on {host}")?;
        }
        write!(f, " since {}", utc(self.since))
    }
}

impl std::error::Error for Held {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_has_one_owner_and_leaves_nothing() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let target = dir.path().join("child");
        for _ in 0..2 {
            let lock = Lock::beside(&target)?;
            let busy = Lock::beside(&target).expect_err("it is held");
            assert_eq!(busy.kind(), ErrorKind::ResourceBusy);
            let text = busy.to_string();
            assert!(text.contains(&format!("in use by process {}", std::process::id())), "{text}");
            assert!(text.contains(" since 2"), "{text}");
            drop(lock);
            assert_eq!(fs::read_dir(dir.path())?.count(), 0);
        }
        Ok(())
    }

    #[test]
    fn a_file_that_was_left_behind_locks_nothing() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        fs::File::create(dir.path().join(INSIDE))?.write_all(b"1 elsewhere and a long rest\n")?;
        let lock = Lock::inside(dir.path())?;
        let text = fs::read_to_string(dir.path().join(INSIDE))?;
        assert_eq!(text.split_whitespace().next(), Some(&*std::process::id().to_string()));
        assert!(!text.contains("rest"), "{text}");
        drop(lock);
        assert_eq!(fs::read_dir(dir.path())?.count(), 0);
        Ok(())
    }

    #[test]
    fn a_link_in_the_locks_place_is_not_followed() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let precious = dir.path().join("precious");
        fs::File::create(&precious)?.write_all(b"text")?;
        std::os::unix::fs::symlink(&precious, dir.path().join(INSIDE))?;
        assert!(Lock::inside(dir.path()).is_err());
        assert_eq!(fs::read(&precious)?, b"text");
        Ok(())
    }

    #[test]
    fn many_threads_never_own_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("child");
        let (owners, taken) = (std::sync::Mutex::new(()), std::sync::atomic::AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        if let Ok(lock) = Lock::beside(&target) {
                            let alone = owners.try_lock();
                            assert!(alone.is_ok(), "two owners at once");
                            taken.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                            drop(alone);
                            drop(lock);
                        }
                    }
                });
            }
        });
        assert!(taken.into_inner() > 0);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
