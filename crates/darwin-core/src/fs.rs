//! Files and folders that bear their final name only when they are whole.

mod input;

pub use input::{
    MAX_JSON_BYTES, MAX_TEXT_BYTES, check_regular, open_regular, read_bounded, read_text_bounded,
};

use serde::Serialize;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Where Darwin keeps what is not finished yet: `NAME.darwin-partial` beside `NAME`.
#[must_use]
pub fn partial_path(path: &Path) -> PathBuf {
    let mut name = path.file_name().map(std::ffi::OsStr::to_os_string).unwrap_or_default();
    name.push(".darwin-partial");
    path.with_file_name(name)
}

/// Writes a file aside, syncs it and renames it into place.
///
/// # Errors
/// Any I/O error; the partial file is removed then.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let aside = partial_path(path);
    let written = File::create(&aside).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()
    });
    if let Err(error) = written.and_then(|()| fs::rename(&aside, path)) {
        let _ = fs::remove_file(&aside);
        return Err(error);
    }
    sync_parent(path);
    Ok(())
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

/// A folder that is filled aside and renamed into place by [`AtomicDir::commit`]. Dropped without
/// a commit it removes what it wrote.
#[derive(Debug)]
pub struct AtomicDir {
    target: PathBuf,
    aside: PathBuf,
    committed: bool,
}

impl AtomicDir {
    /// Opens the folder aside, empty.
    ///
    /// # Errors
    /// `AlreadyExists` if the target exists and is not an empty folder; any other I/O error.
    pub fn create(target: &Path) -> io::Result<Self> {
        let dir = Self::open(target)?;
        fs::remove_dir_all(&dir.aside)?;
        fs::create_dir_all(&dir.aside)?;
        Ok(dir)
    }

    /// Opens the folder aside with what an interrupted process left in it.
    ///
    /// # Errors
    /// As [`AtomicDir::create`].
    pub fn open(target: &Path) -> io::Result<Self> {
        if is_taken(target)? {
            return Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                format!("{} exists and is not an empty folder", target.display()),
            ));
        }
        let aside = partial_path(target);
        fs::create_dir_all(&aside)?;
        Ok(Self { target: target.to_owned(), aside, committed: false })
    }

    /// Leaves what is written so far for [`AtomicDir::open`].
    pub fn keep(mut self) {
        self.committed = true;
    }

    /// The folder to write into.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.aside
    }

    /// Gives the folder its final name.
    ///
    /// # Errors
    /// Any I/O error; the folder aside is removed then.
    pub fn commit(mut self) -> io::Result<()> {
        for entry in fs::read_dir(&self.aside)? {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                File::open(entry.path())?.sync_all()?;
            }
        }
        if self.target.is_dir() {
            fs::remove_dir(&self.target)?;
        }
        fs::rename(&self.aside, &self.target)?;
        self.committed = true;
        sync_parent(&self.target);
        Ok(())
    }
}

impl Drop for AtomicDir {
    fn drop(&mut self) {
        if !self.committed {
            let _ = fs::remove_dir_all(&self.aside);
        }
    }
}

/// Whether something other than an empty folder bears the name.
fn is_taken(target: &Path) -> io::Result<bool> {
    Ok(target.exists() && !(target.is_dir() && fs::read_dir(target)?.next().is_none()))
}

/// Makes a new name or a rename durable; best effort, for some file systems refuse to sync folders.
pub fn sync_parent(path: &Path) {
    if let Some(parent) = path.parent()
        && let Ok(folder) =
            File::open(if parent.as_os_str().is_empty() { Path::new(".") } else { parent })
    {
        let _ = folder.sync_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_uncommitted_folder_leaves_nothing() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let target = dir.path().join("child");
        {
            let out = AtomicDir::create(&target)?;
            write_atomic(&out.path().join("config.json"), b"{}")?;
        }
        assert_eq!(fs::read_dir(dir.path())?.count(), 0);
        let out = AtomicDir::create(&target)?;
        write_atomic(&out.path().join("config.json"), b"{}")?;
        out.keep();
        let out = AtomicDir::open(&target)?;
        assert_eq!(fs::read(out.path().join("config.json"))?, b"{}");
        out.commit()?;
        assert_eq!(fs::read(target.join("config.json"))?, b"{}");
        assert!(AtomicDir::create(&target).is_err());
        Ok(())
    }
}
