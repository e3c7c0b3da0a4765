//! Files and folders that bear their final name only when they are whole, and have one owner.

mod folder;
mod input;
mod lock;
mod stamp;

pub use folder::AtomicDir;
pub use input::{
    MAX_JSON_BYTES, MAX_TEXT_BYTES, check_regular, open_regular, read_bounded, read_text_bounded,
};
pub(crate) use lock::Held;
pub use lock::{Lock, name_host};
pub use stamp::Stamp;

use serde::Serialize;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// The end of the names of what is not finished yet.
const PARTIAL: &str = ".darwin-partial";

/// Links that a path may lead through.
const MAX_LINKS: usize = 40;

/// Where Darwin keeps a folder that is not finished yet: `NAME.darwin-partial` beside `NAME`.
#[must_use]
pub fn partial_path(path: &Path) -> PathBuf {
    let mut name = path.file_name().map(std::ffi::OsStr::to_os_string).unwrap_or_default();
    name.push(PARTIAL);
    path.with_file_name(name)
}

/// A new file that no other process uses: `NAME.PID-NUMBER.darwin-partial` beside `NAME`.
fn create_partial(path: &Path) -> io::Result<(PathBuf, File)> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let name = path.file_name().ok_or_else(|| nameless(path))?;
    loop {
        let mut aside = name.to_os_string();
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        aside.push(format!(".{}-{number}{PARTIAL}", std::process::id()));
        let aside = path.with_file_name(aside);
        match OpenOptions::new().write(true).create_new(true).open(&aside) {
            Ok(file) => return Ok((aside, file)),
            // Of a process that had this number before, or has it on another machine.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
}

fn nameless(path: &Path) -> io::Error {
    io::Error::new(ErrorKind::InvalidInput, format!("`{}` names no file", path.display()))
}

/// Writes a file aside, syncs it and renames it into place. Processes that write the same file do
/// not meet: the last one's is there, whole.
///
/// # Errors
/// Any I/O error; the partial file is removed then.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let (aside, mut file) = create_partial(path)?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all());
    if let Err(error) = written.and_then(|()| fs::rename(&aside, path)) {
        let _ = fs::remove_file(&aside);
        return Err(error);
    }
    sync_parent(path);
    Ok(())
}

/// Whether a file can be written: creates one aside and removes it.
///
/// # Errors
/// `IsADirectory` if the path leads to a folder; any other I/O error.
pub fn probe(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Err(io::Error::new(ErrorKind::IsADirectory, "it is a folder"));
    }
    let (aside, _) = create_partial(path)?;
    fs::remove_file(aside)
}

/// Becomes the owner of a folder, and removes what dead processes left of files in it.
///
/// # Errors
/// As [`Lock::inside`].
pub fn own(folder: &Path) -> io::Result<Lock> {
    let lock = Lock::inside(folder)?;
    clean(folder)?;
    Ok(lock)
}

/// Removes what dead processes left of files that they wrote into a folder. For the folder's owner.
///
/// # Errors
/// Where the folder cannot be read.
fn clean(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        if !entry.file_type()?.is_file() {
            continue;
        }
        if name.to_str().is_some_and(is_abandoned) {
            let _ = fs::remove_file(entry.path());
        } else if let Some(name) = name.to_str().and_then(locked_name) {
            // Whoever gets the lock removes its file.
            let _ = Lock::beside(&folder.join(name));
        }
    }
    Ok(())
}

/// What a lock file's name says that it locks, beside it.
fn locked_name(name: &str) -> Option<&str> {
    name.strip_prefix('.')?.strip_suffix(".darwin-lock").filter(|name| !name.is_empty())
}

/// Whether a file bears the name of a partial one whose process is dead. The process of an old
/// version's file, which had no number in its name, is unknown: the folder's owner is asked first.
fn is_abandoned(name: &str) -> bool {
    let Some(name) = name.strip_suffix(PARTIAL) else { return false };
    let numbers = name.rsplit_once('.').and_then(|(_, numbers)| numbers.split_once('-'));
    let pid = numbers.and_then(|(pid, number)| {
        number.parse::<u64>().ok()?;
        pid.parse::<libc::pid_t>().ok()
    });
    pid.is_none_or(|pid| !lives(pid))
}

fn lives(pid: libc::pid_t) -> bool {
    // SAFETY: signal 0 is not sent; no memory is handed over.
    let asked = unsafe { libc::kill(pid, 0) };
    asked == 0 || io::Error::last_os_error().raw_os_error() != Some(libc::ESRCH)
}

/// Where a path leads: absolute, through all links, a last one among them that leads to nothing
/// yet. What is missing on the way may be made later.
///
/// # Errors
/// `InvalidInput` where links lead in a circle or the path has no name; any other I/O error.
pub fn resolve(path: &Path) -> io::Result<PathBuf> {
    // Without a slash at the end, which would ask for a folder.
    let mut path: PathBuf = path.components().collect();
    if path.as_os_str().is_empty() {
        return Err(nameless(&path));
    }
    for _ in 0..MAX_LINKS {
        match fs::canonicalize(&path) {
            Ok(found) => return Ok(found),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let name = path.file_name().ok_or_else(|| nameless(&path))?;
        match fs::read_link(&path) {
            Ok(link) => path = folder_of(&path).join(link).components().collect(),
            Err(_) => return Ok(resolve(folder_of(&path))?.join(name)),
        }
    }
    Err(io::Error::new(ErrorKind::InvalidInput, "its links lead in a circle"))
}

/// The folder that a path's last part is in.
fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Writes a value as indented JSON with a final newline, atomically.
///
/// # Errors
/// Any I/O error.
pub fn write_json<T: Serialize>(path: &Path, value: &T) -> io::Result<()> {
    let mut bytes = serde_json::to_vec_pretty(value).map_err(io::Error::other)?;
    bytes.push(b'\n');
    write_atomic(path, &bytes)
}

/// Makes a new name or a rename durable; best effort, for some file systems refuse to sync folders.
pub fn sync_parent(path: &Path) {
    if let Ok(folder) = File::open(folder_of(path)) {
        let _ = folder.sync_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn writers_of_one_file_do_not_meet() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("report.html");
        std::thread::scope(|scope| {
            for writer in 0..4_u8 {
                let path = &path;
                scope.spawn(move || {
                    for _ in 0..20 {
                        write_atomic(path, &vec![writer; 10_000]).unwrap();
                    }
                });
            }
        });
        let bytes = fs::read(&path).unwrap();
        assert!(bytes.len() == 10_000 && bytes.iter().all(|b| *b == bytes[0]));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_dead_processes_left_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let create = |name: &str| File::create(dir.path().join(name)).unwrap();
        let mut dead = std::process::Command::new("true").spawn().unwrap();
        let pid = dead.id();
        dead.wait().unwrap();
        create(&format!("a.json.{pid}-0.darwin-partial"));
        create("report.html.darwin-partial");
        let mine = format!("b.json.{}-7.darwin-partial", std::process::id());
        create(&mine);
        create("c.json");
        fs::create_dir(dir.path().join("child.darwin-partial")).unwrap();
        create(".child.darwin-lock");
        let _held = Lock::beside(&dir.path().join("other")).unwrap();
        clean(dir.path()).unwrap();
        let mut left: Vec<_> = fs::read_dir(dir.path())
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        assert_eq!(left, [".other.darwin-lock", &mine, "c.json", "child.darwin-partial"]);
    }

    #[test]
    fn paths_lead_through_links_and_to_what_is_not_there_yet() {
        let dir = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(dir.path()).unwrap();
        fs::create_dir(root.join("real")).unwrap();
        symlink(root.join("real"), root.join("link")).unwrap();
        symlink("nowhere/deep", root.join("dangling")).unwrap();
        symlink("dangling", root.join("twice")).unwrap();
        symlink("round", root.join("about")).unwrap();
        symlink("about", root.join("round")).unwrap();
        for (path, leads) in [
            ("real/", "real"),
            ("link/", "real"),
            ("link/../new/", "new"),
            ("dangling", "nowhere/deep"),
            ("twice/", "nowhere/deep"),
            ("link/a/b", "real/a/b"),
        ] {
            assert_eq!(resolve(&root.join(path)).unwrap(), root.join(leads), "{path}");
        }
        assert!(resolve(&root.join("about")).is_err());
        assert!(resolve(Path::new("")).is_err());
        assert!(resolve(&root.join("missing/..")).is_err());
        let here = fs::canonicalize(".").unwrap();
        assert_eq!(resolve(Path::new("no-such-file")).unwrap(), here.join("no-such-file"));
        assert_eq!(resolve(Path::new(".")).unwrap(), here);
    }
}
