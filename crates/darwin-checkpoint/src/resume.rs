//! Which shards of an interrupted write are whole.
//!
//! The folder that is filled aside holds [`NAME`]: what is being written, and the SHA-256 of every
//! shard that was synced. It goes before the folder gets its final name.

use crate::Error;
use darwin_core::fs::write_json;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The record's name.
const NAME: &str = ".darwin-shards.json";

/// Hashes of the weight files, as `sha256sum --check` reads them.
pub(crate) const SUMS: &str = "SHA256SUMS";

#[derive(Debug, Default, Serialize, Deserialize)]
struct Record {
    /// What is being written.
    identity: String,
    /// SHA-256 by file name.
    shards: BTreeMap<String, String>,
}

/// The whole shards of a folder that is being filled.
#[derive(Debug)]
pub(crate) struct Finished {
    path: PathBuf,
    record: Record,
}

impl Finished {
    /// What an earlier write of the same thing left in `folder`; everything else is removed.
    pub(crate) fn open(folder: &Path, identity: String) -> Result<Self, Error> {
        let path = folder.join(NAME);
        let read = std::fs::read(&path).ok();
        let kept: Option<Record> = read.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let record = match kept {
            Some(kept) if kept.identity == identity => kept,
            _ => Record { identity, shards: BTreeMap::new() },
        };
        let entries = std::fs::read_dir(folder).map_err(|e| Error::io("read", folder, e))?;
        for entry in entries {
            let entry = entry.map_err(|e| Error::io("read", folder, e))?;
            let name = entry.file_name();
            let whole = name.to_str().is_some_and(|n| n == NAME || record.shards.contains_key(n));
            if !whole {
                let path = entry.path();
                std::fs::remove_file(&path).map_err(|e| Error::io("remove", &path, e))?;
            }
        }
        Ok(Self { path, record })
    }

    /// Whether a shard of so many bytes is there.
    pub(crate) fn has(&self, name: &str, bytes: u64) -> bool {
        let file = self.path.with_file_name(name);
        self.record.shards.contains_key(name)
            && std::fs::metadata(file).is_ok_and(|about| about.len() == bytes)
    }

    /// Whether any shard is whole.
    pub(crate) fn any(&self) -> bool {
        !self.record.shards.is_empty()
    }

    /// Records a shard that was synced.
    pub(crate) fn add(&mut self, name: &str, sha256: String) -> Result<(), Error> {
        self.record.shards.insert(name.to_owned(), sha256);
        write_json(&self.path, &self.record).map_err(|e| Error::io("write", &self.path, e))
    }

    /// Ends the record; the lines of [`SUMS`].
    pub(crate) fn end(self) -> Result<String, Error> {
        std::fs::remove_file(&self.path).map_err(|e| Error::io("remove", &self.path, e))?;
        let line = |(name, sha256): (&String, &String)| format!("{sha256}  {name}\n");
        Ok(self.record.shards.iter().map(line).collect())
    }
}
