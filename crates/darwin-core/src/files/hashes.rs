//! `hashes.json`: hashes of input files, so that no file is read twice for its hash. A cache: it may
//! be removed at any time.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Hashes by absolute path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileHashes {
    /// [`super::SCHEMA`].
    pub schema: u32,
    /// One entry per file.
    pub files: BTreeMap<String, FileHash>,
}

/// A file's hash, and what it looked like when it was hashed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileHash {
    /// What it looked like.
    #[serde(flatten)]
    pub stamp: FileStamp,
    /// SHA-256 of its bytes.
    pub sha256: String,
}

/// What a file looks like from outside: as long as all of it is the same, so are its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct FileStamp {
    /// Size.
    pub bytes: u64,
    /// Time of the last change of its bytes: seconds and nanoseconds since 1970.
    pub modified: [i64; 2],
    /// Time of the last change of the file or its metadata, which nobody can set back.
    pub changed: [i64; 2],
    /// Device and inode: a file that was replaced has another inode.
    pub inode: [u64; 2],
}

impl FileStamp {
    /// The stamp of an open file or of a path's metadata.
    #[must_use]
    pub fn of(about: &std::fs::Metadata) -> Self {
        use std::os::unix::fs::MetadataExt;
        Self {
            bytes: about.len(),
            modified: [about.mtime(), about.mtime_nsec()],
            changed: [about.ctime(), about.ctime_nsec()],
            inode: [about.dev(), about.ino()],
        }
    }
}
