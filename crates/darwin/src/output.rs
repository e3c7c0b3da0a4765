//! Files that a command writes when its work is done: whether they can be written is known before.

use darwin_core::fs::{Lock, probe, resolve, write_atomic};
use darwin_core::{Failure, Fault, io_hint};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// A file that will be written.
pub(crate) struct OutFile {
    named: PathBuf,
    /// Where it leads; `None`: a pipe or a device, which is written as it is.
    target: Option<PathBuf>,
    _owner: Option<Lock>,
}

impl OutFile {
    /// Opens a file that takes long to compute: nobody else writes it meanwhile.
    pub(crate) fn open(path: &Path) -> Result<Self, Failure> {
        let mut file = Self::unlocked(path)?;
        if let Some(target) = &file.target {
            file._owner = Some(Lock::beside(target).map_err(|e| cannot("write", path, &e))?);
        }
        Ok(file)
    }

    /// Opens a file that is computed in a moment.
    pub(crate) fn unlocked(path: &Path) -> Result<Self, Failure> {
        let named = path.to_owned();
        let about = std::fs::metadata(path);
        if about.is_ok_and(|about| !about.is_file() && !about.is_dir()) {
            return Ok(Self { named, target: None, _owner: None });
        }
        let target = resolve(path).and_then(|target| probe(&target).map(|()| target));
        let target = target.map_err(|e| cannot("write", path, &e))?;
        Ok(Self { named, target: Some(target), _owner: None })
    }

    /// Writes it.
    pub(crate) fn write(&self, bytes: &[u8]) -> Result<(), Failure> {
        let written = match &self.target {
            Some(target) => write_atomic(target, bytes),
            None => write_to_device(&self.named, bytes),
        };
        written.map_err(|e| cannot("write", &self.named, &e))
    }

    /// Writes a value as indented JSON.
    pub(crate) fn write_json<T: serde::Serialize>(&self, value: &T) -> Result<(), Failure> {
        let mut bytes = serde_json::to_vec_pretty(value)
            .map_err(|e| cannot("write", &self.named, &io::Error::other(e)))?;
        bytes.push(b'\n');
        self.write(&bytes)
    }
}

fn write_to_device(path: &Path, bytes: &[u8]) -> io::Result<()> {
    std::fs::OpenOptions::new().write(true).open(path)?.write_all(bytes)
}

/// A file that could not be used.
pub(crate) fn cannot(doing: &str, path: &Path, error: &io::Error) -> Failure {
    let text = format!("cannot {doing} {}: {error}", path.display());
    let failure = Failure::new(Fault::of_io(error), text);
    match io_hint(error) {
        Some(hint) => failure.with_hint(hint),
        None => failure,
    }
}
