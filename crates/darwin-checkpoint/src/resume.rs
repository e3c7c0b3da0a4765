//! Which shards of an interrupted write are whole.
//!
//! The folder that is filled aside holds [`NAME`]: what is being written, and the SHA-256 of every
//! shard that was synced. It goes before the folder gets its final name.

use crate::Error;
use darwin_core::fs::{Stamp, write_json};
use darwin_core::hash::Hasher;
use darwin_core::{Cancel, Progress};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

/// The record's name.
const NAME: &str = ".darwin-shards.json";

/// Bytes of a record that are read; a record of 100,000 shards has 12 MB.
const MAX_BYTES: u64 = 64 << 20;

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
    /// Of the shards whose bytes are known to have the hash, since this process wrote or read them.
    stamps: BTreeMap<String, Stamp>,
    /// Whole shards of an interrupted write of something else, which were removed.
    discarded: usize,
}

impl Finished {
    /// What an earlier write of the same thing left in `folder`; everything else is removed.
    pub(crate) fn open(folder: &Path, identity: String) -> Result<Self, Error> {
        let path = folder.join(NAME);
        let mut discarded = 0;
        let record = match read_record(&path)? {
            Some(kept) if kept.identity == identity => kept,
            other => {
                discarded = other.map_or(0, |other| other.shards.len());
                Record { identity, shards: BTreeMap::new() }
            }
        };
        let entries = fs::read_dir(folder).map_err(|e| Error::io("read", folder, e))?;
        for entry in entries {
            let entry = entry.map_err(|e| Error::io("read", folder, e))?;
            let (name, path) = (entry.file_name(), entry.path());
            let kind = entry.file_type().map_err(|e| Error::io("read", &path, e))?;
            let known = name.to_str().is_some_and(|n| n == NAME || record.shards.contains_key(n));
            if !known || !kind.is_file() {
                let removed =
                    if kind.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
                removed.map_err(|e| Error::io("remove", &path, e))?;
            }
        }
        Ok(Self { path, record, stamps: BTreeMap::new(), discarded })
    }

    /// Reads the shards that an earlier process left. Those whose bytes are not what it wrote are
    /// forgotten, and named.
    pub(crate) fn take_over(
        &mut self,
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Result<Vec<String>, Error> {
        let mut spoiled = Vec::new();
        if !self.any() {
            return Ok(spoiled);
        }
        let names: Vec<String> = self.record.shards.keys().cloned().collect();
        let size = |name: &String| fs::metadata(self.file(name)).map_or(0, |about| about.len());
        progress.start("verify", names.iter().map(size).sum(), "B");
        for name in names {
            let found = hash(&self.file(&name), progress, cancel)?;
            match found {
                Some((sha256, stamp)) if self.record.shards.get(&name) == Some(&sha256) => {
                    self.stamps.insert(name, stamp);
                }
                _ => {
                    self.record.shards.remove(&name);
                    spoiled.push(name);
                }
            }
        }
        progress.finish();
        if !spoiled.is_empty() {
            self.save()?;
        }
        Ok(spoiled)
    }

    /// How many whole shards of something else were removed.
    pub(crate) fn discarded(&self) -> usize {
        self.discarded
    }

    /// Whether a shard is whole.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.record.shards.contains_key(name)
    }

    /// Whether any shard is whole.
    pub(crate) fn any(&self) -> bool {
        !self.record.shards.is_empty()
    }

    /// How many shards are whole.
    pub(crate) fn count(&self) -> usize {
        self.record.shards.len()
    }

    /// Records a shard that was synced.
    pub(crate) fn add(&mut self, name: &str, sha256: String, stamp: Stamp) -> Result<(), Error> {
        self.record.shards.insert(name.to_owned(), sha256);
        self.stamps.insert(name.to_owned(), stamp);
        self.save()
    }

    /// Whether every shard still is what was written. One whose file was touched since is read
    /// again; one that is not the same is forgotten.
    pub(crate) fn check(&mut self) -> Result<(), Error> {
        let touched: Vec<String> = self
            .record
            .shards
            .keys()
            .filter(|name| {
                let about = fs::symlink_metadata(self.file(name)).ok().filter(|a| a.is_file());
                about.map(Stamp::from).as_ref() != self.stamps.get(*name)
            })
            .cloned()
            .collect();
        let mut wrong = None;
        for name in touched {
            let path = self.file(&name);
            let what = match hash(&path, &darwin_core::NoProgress, &Cancel::default())? {
                Some((sha256, _)) if self.record.shards.get(&name) == Some(&sha256) => continue,
                Some(_) => "changed after it was written",
                None => "was removed after it was written",
            };
            self.record.shards.remove(&name);
            wrong = wrong.or(Some(Error::Changed { path, what }));
        }
        let Some(error) = wrong else { return Ok(()) };
        self.save()?;
        Err(error)
    }

    /// The lines of [`SUMS`].
    pub(crate) fn sums(&self) -> String {
        let line = |(name, sha256): (&String, &String)| format!("{sha256}  {name}\n");
        self.record.shards.iter().map(line).collect()
    }

    fn file(&self, name: &str) -> PathBuf {
        self.path.with_file_name(name)
    }

    fn save(&self) -> Result<(), Error> {
        write_json(&self.path, &self.record).map_err(|e| Error::io("write", &self.path, e))
    }
}

/// A record, if there is one that can be understood.
fn read_record(path: &Path) -> Result<Option<Record>, Error> {
    match fs::symlink_metadata(path) {
        Ok(about) if about.is_file() && about.len() <= MAX_BYTES => {}
        Ok(_) => return Ok(None),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io("read", path, error)),
    }
    let bytes = fs::read(path).map_err(|e| Error::io("read", path, e))?;
    Ok(serde_json::from_slice(&bytes).ok())
}

/// A file's SHA-256 and its stamp; `None` where there is no such file, or a link in its place.
fn hash(
    path: &Path,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<Option<(String, Stamp)>, Error> {
    if !fs::symlink_metadata(path).is_ok_and(|about| about.is_file()) {
        return Ok(None);
    }
    let io = |e| Error::io("read", path, e);
    let mut file = File::open(path).map_err(io)?;
    let stamp = file.metadata().map_err(io)?.into();
    let mut hasher = Hasher::default();
    let mut buffer = vec![0; 1 << 20];
    loop {
        if cancel.is_cancelled() {
            return Err(Error::Cancelled);
        }
        match file.read(&mut buffer).map_err(io)? {
            0 => return Ok(Some((hasher.finish(), stamp))),
            n => {
                hasher.update(&buffer[..n]);
                progress.advance(n as u64);
            }
        }
    }
}
