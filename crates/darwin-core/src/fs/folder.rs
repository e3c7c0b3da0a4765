//! A folder that is filled aside.

use super::lock::INSIDE;
use super::{ErrorKind, Lock, folder_of, partial_path, resolve, sync_parent, write_atomic};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The folder aside where the target itself is filled.
const INNER: &str = ".darwin-partial";

/// The names that a commit moves out of [`INNER`], one a line: it may be killed in between.
const MOVING: &str = ".darwin-moving";

/// What every new file system of the ext family holds.
const LOST_AND_FOUND: &str = "lost+found";

/// A folder that is filled aside and gets its final name by [`AtomicDir::commit`]. While it is open
/// no other process opens it ([`Lock`]). Dropped without a commit it removes what it wrote, unless
/// there is something to go on with ([`AtomicDir::keep`]).
///
/// It is filled in `TARGET.darwin-partial` and renamed. A target that is an empty folder and cannot
/// be replaced (a mount point, the working folder) is filled in place: in `TARGET/.darwin-partial`,
/// from where the files are moved up, index and config last. A folder without its config is no
/// model to any loader.
///
/// Names that begin with `.darwin-` are notes of who fills the folder, and not part of it.
#[derive(Debug)]
pub struct AtomicDir {
    named: PathBuf,
    target: PathBuf,
    aside: PathBuf,
    in_place: bool,
    keep: bool,
    /// Folders on the way that were made for it.
    made: Vec<PathBuf>,
    locks: Vec<Lock>,
}

impl AtomicDir {
    /// Opens the folder aside, empty.
    ///
    /// # Errors
    /// As [`AtomicDir::open`].
    pub fn create(target: &Path) -> io::Result<Self> {
        let mut dir = Self::open(target)?;
        dir.clear()?;
        Ok(dir)
    }

    /// Opens the folder aside with what an interrupted process left in it. Everything that could
    /// keep the folder from its final name is found now.
    ///
    /// # Errors
    /// `AlreadyExists` if the target exists and is not an empty folder, or if the folder aside is a
    /// link; `ResourceBusy` if another process has it open; any other I/O error.
    pub fn open(target: &Path) -> io::Result<Self> {
        let named = target.to_owned();
        let target = resolve(target)?;
        refuse_taken(&named, &target)?;
        let mut dir = Self {
            aside: partial_path(&target),
            named,
            target,
            in_place: false,
            keep: true,
            made: Vec::new(),
            locks: Vec::new(),
        };
        dir.make_parents()?;
        dir.lock()?;
        refuse_taken(&dir.named, &dir.target)?;
        if dir.in_place {
            dir.aside = dir.target.join(INNER);
        }
        match fs::symlink_metadata(&dir.aside) {
            Ok(about) if !about.is_dir() => {
                let text = format!("{} is not a folder: remove it", dir.aside.display());
                return Err(io::Error::new(ErrorKind::AlreadyExists, text));
            }
            Ok(_) => dir.move_back()?,
            Err(_) => {
                fs::create_dir(&dir.aside)?;
                dir.keep = false;
            }
        }
        Ok(dir)
    }

    /// Removes what was left in the folder aside.
    ///
    /// # Errors
    /// Any I/O error.
    pub fn clear(&mut self) -> io::Result<()> {
        fs::remove_dir_all(&self.aside)?;
        fs::create_dir(&self.aside)?;
        self.keep = false;
        Ok(())
    }

    /// Whether what is written so far is left for [`AtomicDir::open`] where there is no commit. At
    /// first only what was found is.
    pub fn keep(&mut self, keep: bool) {
        self.keep = keep;
    }

    /// The folder to write into.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.aside
    }

    /// The final name, as the caller wrote it.
    #[must_use]
    pub fn named(&self) -> &Path {
        &self.named
    }

    /// Gives the folder its final name.
    ///
    /// # Errors
    /// Any I/O error; what is written stays or goes as [`AtomicDir::keep`] said.
    pub fn commit(mut self) -> io::Result<()> {
        for entry in fs::read_dir(&self.aside)? {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                File::open(entry.path())?.sync_all()?;
            }
        }
        if self.in_place {
            self.move_up()?
        } else {
            self.rename()?
        }
        self.keep = true;
        self.made.clear();
        Ok(())
    }

    /// Makes the folders on the way to the target.
    fn make_parents(&mut self) -> io::Result<()> {
        let missing = self.target.ancestors().skip(1).take_while(|folder| !folder.exists());
        for folder in missing.map(Path::to_owned).collect::<Vec<_>>().into_iter().rev() {
            match fs::create_dir(&folder) {
                Ok(()) => self.made.push(folder),
                Err(error) if error.kind() == ErrorKind::AlreadyExists && folder.is_dir() => {}
                Err(error) => {
                    let text = format!("{}: {error}", folder.display());
                    return Err(io::Error::new(error.kind(), text));
                }
            }
        }
        Ok(())
    }

    /// Locks the target and decides whether it is filled in place.
    fn lock(&mut self) -> io::Result<()> {
        let exists = self.target.is_dir();
        match Lock::beside(&self.target) {
            Ok(lock) => self.locks.push(lock),
            // A mount point in a folder that nobody writes into.
            Err(error) if exists && is_denied(&error) => self.in_place = true,
            Err(error) => return Err(error),
        }
        if exists && !self.in_place {
            self.in_place = !names(&self.target)?.is_empty()
                || is_here(&self.target)
                || is_mounted(&self.target)
                || !can_be_renamed(&self.target)?;
        }
        if self.in_place {
            // The file beside is not seen from another machine or container.
            self.locks.push(Lock::inside(&self.target)?);
        }
        Ok(())
    }

    fn rename(&mut self) -> io::Result<()> {
        let mut notes = Vec::new();
        for name in names(&self.aside)?.into_iter().filter(is_note) {
            let path = self.aside.join(&name);
            notes.push((name, fs::read(&path)?));
            fs::remove_file(&path)?;
        }
        if let Err(error) = fs::rename(&self.aside, &self.target) {
            for (name, bytes) in notes {
                let _ = write_atomic(&self.aside.join(name), &bytes);
            }
            return Err(error);
        }
        // At once: a process that is killed from now on leaves no lock file beside the folder.
        self.locks.clear();
        sync_parent(&self.target);
        Ok(())
    }

    fn move_up(&self) -> io::Result<()> {
        let mut moving = names(&self.aside)?;
        moving.retain(|name| !is_note(name));
        moving.sort_by_key(|name| (turn(name), name.clone()));
        let list =
            moving.iter().filter_map(|name| name.to_str()).fold(String::new(), |a, n| a + n + "\n");
        write_atomic(&self.aside.join(MOVING), list.as_bytes())?;
        for name in &moving {
            fs::rename(self.aside.join(name), self.target.join(name))?;
        }
        let _ = File::open(&self.target).and_then(|folder| folder.sync_all());
        fs::remove_dir_all(&self.aside)
    }

    /// Undoes a commit that was killed half way.
    fn move_back(&self) -> io::Result<()> {
        for name in moving(&self.aside) {
            if self.target.join(&name).exists() {
                fs::rename(self.target.join(&name), self.aside.join(&name))?;
            }
        }
        match fs::remove_file(self.aside.join(MOVING)) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

impl Drop for AtomicDir {
    fn drop(&mut self) {
        if !self.keep && !self.locks.is_empty() {
            let _ = fs::remove_dir_all(&self.aside);
        }
        self.locks.clear();
        // Only those that are empty go.
        let _ = self.made.iter().rev().all(|folder| fs::remove_dir(folder).is_ok());
    }
}

fn is_note(name: &OsString) -> bool {
    name.to_str().is_some_and(|name| name.starts_with(".darwin-"))
}

/// When a file gets its final name.
fn turn(name: &OsStr) -> u8 {
    match name.to_str().unwrap_or("") {
        "config.json" | "adapter_config.json" => 2,
        name if name.ends_with(".index.json") => 1,
        _ => 0,
    }
}

fn names(folder: &Path) -> io::Result<Vec<OsString>> {
    fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name())).collect()
}

/// The names that a commit was moving out of the folder aside.
fn moving(aside: &Path) -> Vec<String> {
    let list = aside.join(MOVING);
    let is_file = fs::symlink_metadata(&list).is_ok_and(|about| about.is_file());
    let text = if is_file { fs::read_to_string(list).unwrap_or_default() } else { String::new() };
    let plain = |name: &&str| Path::new(name).file_name() == Some(OsStr::new(name));
    text.lines().filter(plain).map(str::to_owned).collect()
}

/// Refuses a target that is something else than an empty folder or one that is being filled.
fn refuse_taken(named: &Path, target: &Path) -> io::Result<()> {
    let taken = match fs::symlink_metadata(target) {
        Err(error) if error.kind() == ErrorKind::NotFound => false,
        Err(error) => return Err(error),
        Ok(about) if !about.is_dir() => true,
        Ok(_) => {
            let moving = moving(&target.join(INNER));
            let ours = |name: &OsString| {
                name == INNER
                    || name == INSIDE
                    || name == LOST_AND_FOUND
                    || name.to_str().is_some_and(|n| moving.iter().any(|m| m == n))
            };
            names(target)?.iter().any(|name| !ours(name))
        }
    };
    if taken {
        let text = format!("{} exists and is not an empty folder", named.display());
        return Err(io::Error::new(ErrorKind::AlreadyExists, text));
    }
    Ok(())
}

fn is_denied(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem)
}

/// Whether the working folder is in it.
fn is_here(target: &Path) -> bool {
    fs::canonicalize(".").is_ok_and(|here| here.starts_with(target))
}

fn is_mounted(target: &Path) -> bool {
    let device = |path: &Path| fs::metadata(path).map(|about| about.dev()).ok();
    device(target) != device(folder_of(target))
}

/// Whether an empty folder can be renamed: it is, and gets its name back.
fn can_be_renamed(target: &Path) -> io::Result<bool> {
    let mut name = OsString::from(".");
    name.push(target.file_name().unwrap_or_default());
    name.push(format!(".{}.darwin-probe", std::process::id()));
    let aside = target.with_file_name(name);
    if fs::rename(target, &aside).is_err() {
        return Ok(false);
    }
    fs::rename(&aside, target)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn file(folder: &Path, name: &str) {
        write_atomic(&folder.join(name), b"{}").unwrap();
    }

    fn listed(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            names(folder).unwrap().into_iter().map(|n| n.into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn an_uncommitted_folder_leaves_nothing() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let target = dir.path().join("deep/er/child");
        {
            let out = AtomicDir::create(&target)?;
            file(out.path(), "config.json");
        }
        assert_eq!(listed(dir.path()), [""; 0]);
        let mut out = AtomicDir::create(&target)?;
        file(out.path(), "config.json");
        out.keep(true);
        drop(out);
        let out = AtomicDir::open(&target)?;
        assert_eq!(fs::read(out.path().join("config.json"))?, b"{}");
        // What was found stays even where nothing was said about it.
        drop(out);
        let out = AtomicDir::open(&target)?;
        file(out.path(), ".darwin-note");
        out.commit()?;
        assert_eq!(listed(&target), ["config.json"]);
        assert_eq!(listed(&dir.path().join("deep/er")), ["child"]);
        assert!(AtomicDir::create(&target).is_err());
        Ok(())
    }

    #[test]
    fn a_folder_has_one_owner() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        symlink("child", dir.path().join("link"))?;
        let mut out = AtomicDir::open(&dir.path().join("child"))?;
        file(out.path(), "shard");
        for name in ["child", "child/", "link", "link/"] {
            let busy = AtomicDir::open(&dir.path().join(name)).expect_err("it is open");
            assert_eq!(busy.kind(), ErrorKind::ResourceBusy, "{name}");
        }
        assert_eq!(listed(out.path()), ["shard"]);
        out.keep(false);
        drop(out);
        assert_eq!(listed(dir.path()), ["link"]);
        Ok(())
    }

    #[test]
    fn links_and_empty_folders_become_the_folder() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        fs::create_dir(dir.path().join("empty"))?;
        fs::create_dir(dir.path().join("behind"))?;
        symlink("behind", dir.path().join("link"))?;
        symlink("not-there", dir.path().join("dangling"))?;
        for name in ["empty", "link", "dangling"] {
            let out = AtomicDir::open(&dir.path().join(name))?;
            file(out.path(), "config.json");
            out.commit()?;
            assert_eq!(listed(&dir.path().join(name)), ["config.json"], "{name}");
        }
        assert_eq!(listed(dir.path()), ["behind", "dangling", "empty", "link", "not-there"]);
        assert!(fs::symlink_metadata(dir.path().join("link"))?.is_symlink());
        Ok(())
    }

    #[test]
    fn nothing_behind_a_link_in_the_partial_folders_place_is_touched() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        fs::create_dir(dir.path().join("home"))?;
        file(&dir.path().join("home"), "precious");
        symlink("home", dir.path().join("child.darwin-partial"))?;
        for open in [AtomicDir::open, AtomicDir::create] {
            let error = open(&dir.path().join("child")).expect_err("a link");
            assert_eq!(error.kind(), ErrorKind::AlreadyExists);
        }
        assert_eq!(listed(&dir.path().join("home")), ["precious"]);
        assert_eq!(listed(dir.path()), ["child.darwin-partial", "home"]);
        Ok(())
    }

    /// As in a mount point, where an inner folder was begun.
    fn in_place(target: &Path) -> AtomicDir {
        fs::create_dir_all(target.join(INNER)).unwrap();
        let out = AtomicDir::open(target).unwrap();
        assert!(out.in_place);
        out
    }

    #[test]
    fn what_cannot_be_replaced_is_filled_in_place() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let target = dir.path().join("mount");
        let mut out = in_place(&target);
        let inode = fs::metadata(&target)?.ino();
        for name in ["config.json", "model.safetensors.index.json", "model-1", ".darwin-note"] {
            file(out.path(), name);
        }
        out.keep(true);
        drop(out);
        assert_eq!(listed(&target), [INNER]);
        AtomicDir::open(&target)?.commit()?;
        assert_eq!(listed(&target), ["config.json", "model-1", "model.safetensors.index.json"]);
        assert_eq!(fs::metadata(&target)?.ino(), inode);
        assert_eq!(listed(dir.path()), ["mount"]);
        Ok(())
    }

    #[test]
    fn a_commit_that_was_killed_half_way_goes_on() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let target = dir.path().join("mount");
        let mut out = in_place(&target);
        for name in ["config.json", "model-1"] {
            file(out.path(), name);
        }
        write_atomic(&out.path().join(MOVING), b"model-1\nconfig.json\n../evil\n")?;
        fs::rename(out.path().join("model-1"), target.join("model-1"))?;
        out.keep(true);
        drop(out);
        let out = AtomicDir::open(&target)?;
        assert_eq!(listed(out.path()), ["config.json", "model-1"]);
        out.commit()?;
        assert_eq!(listed(&target), ["config.json", "model-1"]);
        // A file that no commit moved is somebody's.
        let other = dir.path().join("other");
        fs::create_dir_all(other.join(INNER))?;
        file(&other, "model-1");
        assert!(AtomicDir::open(&other).is_err());
        Ok(())
    }
}
