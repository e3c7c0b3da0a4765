//! What tells a file from one that was written since.

use serde::{Deserialize, Serialize};
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Size, times of the last change of contents and of the file, device and inode. A file that has the
/// same stamp twice was not written in between, as far as the file system says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Stamp {
    size: u64,
    mtime: (i64, i64),
    ctime: (i64, i64),
    device: u64,
    inode: u64,
}

impl Stamp {
    /// Of a path, links followed.
    ///
    /// # Errors
    /// Any I/O error.
    pub fn of(path: &Path) -> io::Result<Self> {
        Ok(fs::metadata(path)?.into())
    }

    /// Bytes of the file.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Seconds since 1970 of the last change of the file or its metadata, which nobody can set back.
    #[must_use]
    pub fn changed(&self) -> i64 {
        self.ctime.0
    }
}

impl From<Metadata> for Stamp {
    fn from(about: Metadata) -> Self {
        Self {
            size: about.len(),
            mtime: (about.mtime(), about.mtime_nsec()),
            ctime: (about.ctime(), about.ctime_nsec()),
            device: about.dev(),
            inode: about.ino(),
        }
    }
}
