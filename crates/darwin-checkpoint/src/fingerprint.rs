//! Which model this is, by content: SHA-256 of its weight files, config and tokenizer.

use crate::resume::SUMS;
use crate::{Adapted, AnyModel, Checkpoint, Error, Gguf};
use darwin_core::files::{FileHash, FileHashes, SCHEMA};
use darwin_core::fs::{Stamp, open_regular, write_json};
use darwin_core::hash::Hasher;
use darwin_core::{Cancel, Fingerprint, Progress};
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Files of a model folder beside the weights that decide what it computes and answers.
const DECISIVE: [&str; 13] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "tokenizer.model",
    "spiece.model",
    "chat_template.jinja",
    "chat_template.json",
];

/// Bytes that are read and hashed at once.
const BUFFER: usize = 1 << 20;

/// Smaller files are hashed each time: remembering them would cost as much.
const REMEMBERED: u64 = 1 << 20;

/// Seconds before a file's stamp tells two states of it apart for certain: the clock of a file
/// system moves in steps, and some move in whole seconds.
const SETTLED: i64 = 2;

/// A model that has files.
pub trait HasFiles {
    /// The files that decide what it computes and answers.
    fn decisive_files(&self) -> Vec<PathBuf>;
}

impl HasFiles for Checkpoint {
    fn decisive_files(&self) -> Vec<PathBuf> {
        let beside = DECISIVE.iter().map(|name| self.folder().join(name));
        let beside = beside.filter(|path| path.is_file());
        self.shard_paths().map(Path::to_owned).chain(beside).collect()
    }
}

impl HasFiles for Gguf {
    fn decisive_files(&self) -> Vec<PathBuf> {
        vec![self.path().to_owned()]
    }
}

impl HasFiles for AnyModel {
    fn decisive_files(&self) -> Vec<PathBuf> {
        match self {
            Self::Checkpoint(model) => model.decisive_files(),
            Self::Gguf(model) => model.decisive_files(),
        }
    }
}

impl HasFiles for Adapted {
    fn decisive_files(&self) -> Vec<PathBuf> {
        let own = self.files().map(Path::to_owned);
        self.base().decisive_files().into_iter().chain(own).collect()
    }
}

/// SHA-256 of files, each read once: what was hashed is remembered by size, times, device and
/// inode, in this process and, where a path is given, in `hashes.json`.
#[derive(Debug, Default)]
pub struct HashCache {
    path: Option<PathBuf>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    known: BTreeMap<String, FileHash>,
    added: bool,
}

impl HashCache {
    /// Reads what is kept at `path`; a file that is missing or damaged holds nothing.
    #[must_use]
    pub fn open(path: Option<PathBuf>) -> Self {
        let kept: Option<FileHashes> = path.as_ref().and_then(|path| {
            let bytes = darwin_core::fs::read_bounded(path, darwin_core::fs::MAX_JSON_BYTES);
            serde_json::from_slice(&bytes.ok()?).ok()
        });
        let known = kept.filter(|k| k.schema == SCHEMA).map(|k| k.files).unwrap_or_default();
        Self { path, state: Mutex::new(State { known, added: false }) }
    }

    /// The fingerprints of models. Files that are not known are read by all threads of the pool,
    /// with progress in bytes; what was read is kept.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Invalid`] naming a file that changed while it was read;
    /// [`Error::Cancelled`].
    pub fn fingerprints(
        &self,
        models: &[&dyn HasFiles],
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Result<Vec<Fingerprint>, Error> {
        let files: Vec<Vec<PathBuf>> = models.iter().map(|model| model.decisive_files()).collect();
        let mut all: Vec<&PathBuf> = files.iter().flatten().collect();
        all.sort();
        all.dedup();
        self.sha256_all(&all, progress, cancel)?;
        files
            .iter()
            .map(|files| {
                let parts = files.iter().map(|file| {
                    let name = file.file_name().unwrap_or_default().to_string_lossy();
                    Ok((name.into_owned(), self.sha256(file, progress, cancel)?))
                });
                let mut parts = parts.collect::<Result<Vec<_>, Error>>()?;
                parts.sort();
                Ok(Fingerprint::of("model", parts))
            })
            .collect()
    }

    /// The fingerprint of one model.
    ///
    /// # Errors
    /// As [`HashCache::fingerprints`].
    pub fn fingerprint(
        &self,
        model: &dyn HasFiles,
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Result<Fingerprint, Error> {
        let mut found = self.fingerprints(&[model], progress, cancel)?;
        Ok(found.pop().expect("one model, one fingerprint"))
    }

    /// The hash of a file, read anew unless it looks as it did when it was hashed.
    ///
    /// # Errors
    /// As [`HashCache::fingerprints`].
    pub fn sha256(
        &self,
        file: &Path,
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Result<String, Error> {
        let (name, stamp) = named(file)?;
        if let Some(known) = self.state().known.get(&name).filter(|known| known.stamp == stamp) {
            return Ok(known.sha256.clone());
        }
        let found = read(file, progress, cancel)?;
        let sha256 = found.sha256.clone();
        let mut state = self.state();
        state.added |= found.stamp.size() >= REMEMBERED;
        state.known.insert(name, found);
        Ok(sha256)
    }

    /// Remembers the hashes that a checkpoint was just written with, from its `SHA256SUMS`.
    pub fn learn(&self, folder: &Path) {
        for (file, sha256) in sums(folder).into_iter().flatten() {
            if let Ok((name, stamp)) = named(&file) {
                let mut state = self.state();
                state.added |= stamp.size() >= REMEMBERED;
                state.known.insert(name, FileHash { stamp, sha256 });
            }
        }
    }

    /// Checks a checkpoint that Darwin wrote against its `SHA256SUMS`: the first file that is
    /// missing or has other bytes; every shard must be in the list.
    ///
    /// # Errors
    /// As [`HashCache::fingerprints`], but for missing files.
    pub fn check_sums(
        &self,
        folder: &Path,
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Result<Option<PathBuf>, Error> {
        let Some(sums) = sums(folder) else { return Ok(Some(folder.join(SUMS))) };
        if let Some((missing, _)) = sums.iter().find(|(file, _)| !file.is_file()) {
            return Ok(Some(missing.clone()));
        }
        let entries = std::fs::read_dir(folder).map_err(|e| Error::io("read", folder, e))?;
        for entry in entries {
            let path = entry.map_err(|e| Error::io("read", folder, e))?.path();
            let shard = path.extension().is_some_and(|of| of == "safetensors");
            if shard && !sums.iter().any(|(file, _)| *file == path) {
                return Ok(Some(path));
            }
        }
        let files: Vec<&PathBuf> = sums.iter().map(|(file, _)| file).collect();
        self.sha256_all(&files, progress, cancel)?;
        for (file, sha256) in &sums {
            if self.sha256(file, progress, cancel)? != *sha256 {
                return Ok(Some(file.clone()));
            }
        }
        Ok(None)
    }

    /// Reads the files that are not known, side by side.
    fn sha256_all(
        &self,
        files: &[&PathBuf],
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Result<(), Error> {
        let mut unknown = Vec::new();
        for file in files {
            let (name, stamp) = named(file)?;
            if self.state().known.get(&name).is_none_or(|known| known.stamp != stamp) {
                unknown.push((*file, stamp.size()));
            }
        }
        let bytes = unknown.iter().map(|(_, bytes)| bytes).sum();
        if unknown.is_empty() {
            return Ok(());
        }
        // Large files first, so that none is left alone at the end.
        unknown.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
        progress.start("hash", bytes, "B");
        let read = unknown
            .par_iter()
            .with_max_len(1)
            .try_for_each(|(file, _)| self.sha256(file, progress, cancel).map(|_| ()));
        progress.finish();
        read
    }

    /// Keeps what was read, for the next process. Failing to is no error: the cache saves time
    /// alone.
    pub fn save(&self) {
        let Some(path) = &self.path else { return };
        let state = self.state();
        if !state.added {
            return;
        }
        // Another process may have kept more meanwhile.
        let mut files = Self::open(Some(path.clone())).state().known.clone();
        files.extend(state.known.clone());
        drop(state);
        let Some(now) = now(path) else { return };
        files.retain(|name, file| {
            let as_it_was = || Stamp::of(Path::new(name)).is_ok_and(|stamp| stamp == file.stamp);
            let settled = file.stamp.changed() + SETTLED < now;
            file.stamp.size() >= REMEMBERED && settled && as_it_was()
        });
        if write_json(path, &FileHashes { schema: SCHEMA, files }).is_ok() {
            self.state().added = false;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The time by the file system that keeps the cache, in seconds: of a file that is made for it.
fn now(path: &Path) -> Option<i64> {
    let folder = path.parent()?;
    std::fs::create_dir_all(folder).ok()?;
    let clock = folder.join(format!(".now-{}", std::process::id()));
    let file = std::fs::File::create(&clock).ok()?;
    let about = file.metadata().ok();
    let _ = std::fs::remove_file(&clock);
    Some(Stamp::from(about?).changed())
}

/// The lines of a checkpoint's `SHA256SUMS`; `None` where there is none that makes sense.
fn sums(folder: &Path) -> Option<Vec<(PathBuf, String)>> {
    let bytes = darwin_core::fs::read_bounded(&folder.join(SUMS), darwin_core::fs::MAX_JSON_BYTES);
    let text = String::from_utf8(bytes.ok()?).ok()?;
    let line = |line: &str| {
        let (sha256, name) = line.split_once("  ")?;
        (!name.contains('/')).then(|| (folder.join(name), sha256.to_owned()))
    };
    let lines: Option<Vec<_>> = text.lines().map(line).collect();
    lines.filter(|lines| !lines.is_empty())
}

/// A file's absolute name and its stamp.
fn named(file: &Path) -> Result<(String, Stamp), Error> {
    let io = |e| Error::io("read", file, e);
    let name = std::path::absolute(file).map_err(io)?.display().to_string();
    Ok((name, Stamp::of(file).map_err(io)?))
}

/// Reads a file for its hash.
fn read(path: &Path, progress: &dyn Progress, cancel: &Cancel) -> Result<FileHash, Error> {
    let io = |e| Error::io("read", path, e);
    let mut file = open_regular(path).map_err(io)?;
    let stamp = Stamp::from(file.metadata().map_err(io)?);
    let (mut hasher, mut buffer) = (Hasher::default(), vec![0; BUFFER]);
    loop {
        if cancel.is_cancelled() {
            return Err(Error::Cancelled);
        }
        let n = file.read(&mut buffer).map_err(io)?;
        if n == 0 {
            break;
        }
        hasher.update(&buffer[..n]);
        progress.advance(n as u64);
    }
    if Stamp::from(file.metadata().map_err(io)?) != stamp {
        return Err(Error::one(
            format!("{}: changed while it was read", path.display()),
            "wait until whatever writes it is done",
        ));
    }
    Ok(FileHash { stamp, sha256: hasher.finish() })
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "a test may write plainly")]
mod tests {
    use super::*;
    use darwin_core::NoProgress;
    use darwin_core::hash::sha256_hex;

    fn sha256(cache: &HashCache, file: &Path) -> String {
        cache.sha256(file, &NoProgress, &Cancel::default()).unwrap()
    }

    /// A file whose last change is long ago as far as its own times can tell.
    fn write(path: &Path, bytes: &[u8]) {
        std::fs::write(path, bytes).unwrap();
    }

    #[test]
    fn only_what_changed_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        let (one, two) = (vec![1; 1 << 20], vec![2; 1 << 20]);
        write(&a, &one);
        write(&b, &two);
        let path = dir.path().join("cache/hashes.json");
        let first = HashCache::open(Some(path.clone()));
        assert_eq!(sha256(&first, &a), sha256_hex(&one));
        assert_eq!(sha256(&first, &b), sha256_hex(&two));
        first.save();
        let kept = std::fs::read_to_string(&path).unwrap();
        assert!(!kept.contains(&sha256_hex(&one)), "too young to be told apart: {kept}");
        // What is kept is marked, so that it shows when it is used.
        let marked = |file: &Path| FileHash { sha256: "kept".into(), ..read_quietly(file) };
        let files = [&a, &b].map(|file| (named(file).unwrap().0, marked(file))).into();
        write_json(&path, &FileHashes { schema: SCHEMA, files }).unwrap();
        let times = std::fs::metadata(&b).unwrap().modified().unwrap();
        let owt = vec![3; 1 << 20];
        write(&b, &owt);
        std::fs::File::options().write(true).open(&b).unwrap().set_modified(times).unwrap();
        let second = HashCache::open(Some(path.clone()));
        assert_eq!(sha256(&second, &a), "kept");
        assert_eq!(sha256(&second, &b), sha256_hex(&owt), "same size, same mtime");
        // A file that takes another's place is another, whatever its size and times.
        let c = dir.path().join("c");
        write(&c, &owt);
        std::fs::File::options().write(true).open(&c).unwrap().set_modified(times).unwrap();
        std::fs::rename(&c, &a).unwrap();
        assert_eq!(sha256(&HashCache::open(Some(path.clone())), &a), sha256_hex(&owt));
        write(&path, b"{");
        assert_eq!(sha256(&HashCache::open(Some(path)), &a), sha256_hex(&owt), "damaged");
    }

    fn read_quietly(file: &Path) -> FileHash {
        read(file, &NoProgress, &Cancel::default()).unwrap()
    }

    #[test]
    fn a_stopped_hash_is_no_hash() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a");
        write(&file, b"one");
        let cancel = Cancel::default();
        cancel.cancel();
        let stopped = HashCache::default().sha256(&file, &NoProgress, &cancel);
        assert!(matches!(stopped, Err(Error::Cancelled)));
    }
}
