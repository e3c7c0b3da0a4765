//! SHA-256 of the parents' shards, kept in the run folder: a resumed run hashes anew only what
//! changed since.

use crate::Error;
use darwin_core::files::{FileHash, FileHashes, SCHEMA};
use darwin_core::fs::write_json;
use darwin_core::hash::sha256_file;
use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The hashes that an earlier part of this run kept, and those of this one.
#[derive(Debug)]
pub(crate) struct Hashes {
    path: PathBuf,
    known: BTreeMap<String, FileHash>,
    current: BTreeMap<String, FileHash>,
}

impl Hashes {
    /// Reads what is kept at `path`; a file that is missing or damaged holds nothing.
    pub(crate) fn open(path: PathBuf) -> Self {
        let kept: Option<FileHashes> =
            std::fs::read(&path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let known = kept.filter(|k| k.schema == SCHEMA).map(|k| k.files).unwrap_or_default();
        Self { path, known, current: BTreeMap::new() }
    }

    /// The hash of a file, read anew unless size and times are those that are kept.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(crate) fn sha256(&mut self, file: &Path) -> Result<String, Error> {
        let io = |source| Error::Io { path: file.to_owned(), source };
        let name = std::path::absolute(file).map_err(io)?.display().to_string();
        // Looked at before the bytes are: a file that changes meanwhile is read again next time.
        let about = std::fs::metadata(file).map_err(io)?;
        let mut found = FileHash {
            bytes: about.len(),
            modified: [about.mtime(), about.mtime_nsec()],
            changed: [about.ctime(), about.ctime_nsec()],
            sha256: String::new(),
        };
        found.sha256 = match self.known.get(&name) {
            Some(known) if FileHash { sha256: String::new(), ..known.clone() } == found => {
                known.sha256.clone()
            }
            _ => sha256_file(file).map_err(io)?,
        };
        self.current.insert(name, found.clone());
        Ok(found.sha256)
    }

    /// Keeps the hashes of this run's files.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(crate) fn save(self) -> Result<(), Error> {
        if self.current == self.known {
            return Ok(());
        }
        let kept = FileHashes { schema: SCHEMA, files: self.current };
        write_json(&self.path, &kept).map_err(|source| Error::Io { path: self.path, source })
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "a test may write plainly")]
mod tests {
    use super::*;
    use darwin_core::hash::sha256_hex;

    #[test]
    fn only_what_changed_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("hashes.json");
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        std::fs::write(&a, b"one").unwrap();
        std::fs::write(&b, b"two").unwrap();
        let mut first = Hashes::open(path.clone());
        assert_eq!(first.sha256(&a).unwrap(), sha256_hex(b"one"));
        assert_eq!(first.sha256(&b).unwrap(), sha256_hex(b"two"));
        first.save().unwrap();
        // What is kept is marked, so that it shows when it is used.
        let kept = std::fs::read_to_string(&path).unwrap();
        let marked = kept.replace(&sha256_hex(b"one"), "kept").replace(&sha256_hex(b"two"), "kept");
        std::fs::write(&path, marked).unwrap();
        let times = std::fs::metadata(&b).unwrap().modified().unwrap();
        std::fs::write(&b, b"owt").unwrap();
        std::fs::File::options().write(true).open(&b).unwrap().set_modified(times).unwrap();
        let mut second = Hashes::open(path.clone());
        assert_eq!(second.sha256(&a).unwrap(), "kept");
        assert_eq!(second.sha256(&b).unwrap(), sha256_hex(b"owt"), "same size, same mtime");
        std::fs::write(&path, "{").unwrap();
        assert_eq!(Hashes::open(path).sha256(&a).unwrap(), sha256_hex(b"one"), "damaged");
    }
}
