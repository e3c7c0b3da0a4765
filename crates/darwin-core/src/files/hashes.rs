//! `hashes.json`: hashes of input files, so that no file is read twice for its hash. A cache: it may
//! be removed at any time.

use crate::fs::Stamp;
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
    pub stamp: Stamp,
    /// SHA-256 of its bytes.
    pub sha256: String,
}
