//! What tells a file from one that was written since.

use serde::{Deserialize, Serialize};
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Size, times of the last change of contents and of the file, and inode. A file that has the same
/// stamp twice was not written in between, as far as the file system says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Stamp {
    size: u64,
    mtime: (i64, i64),
    ctime: (i64, i64),
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
}

impl From<Metadata> for Stamp {
    fn from(about: Metadata) -> Self {
        Self {
            size: about.len(),
            mtime: (about.mtime(), about.mtime_nsec()),
            ctime: (about.ctime(), about.ctime_nsec()),
            inode: about.ino(),
        }
    }
}
