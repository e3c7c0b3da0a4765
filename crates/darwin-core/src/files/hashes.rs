//! `hashes.json`: hashes of input files, so that a resumed run need not read them again. A cache:
//! it may be removed at any time.

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
    /// Size.
    pub bytes: u64,
    /// Time of the last change of its bytes: seconds and nanoseconds since 1970.
    pub modified: [i64; 2],
    /// Time of the last change of the file or its metadata, which nobody can set back.
    pub changed: [i64; 2],
    /// SHA-256 of its bytes.
    pub sha256: String,
}
