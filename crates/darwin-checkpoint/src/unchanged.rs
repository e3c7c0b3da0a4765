//! Files that must stay what they were when they were opened.

use crate::Error;
use darwin_core::fs::Stamp;
use std::fs::File;
use std::path::{Path, PathBuf};

/// Files with their stamps.
#[derive(Debug, Default)]
pub(crate) struct Unchanged(Vec<(PathBuf, Stamp)>);

impl Unchanged {
    /// Of open files.
    pub(crate) fn of_open<'a>(
        files: impl Iterator<Item = (&'a Path, &'a File)>,
    ) -> Result<Self, Error> {
        let stamp = |(path, file): (&Path, &File)| match file.metadata() {
            Ok(about) => Ok((path.to_owned(), about.into())),
            Err(error) => Err(Error::io("read", path, error)),
        };
        files.map(stamp).collect::<Result<_, _>>().map(Self)
    }

    /// Of files that are about to be opened.
    pub(crate) fn of<'a>(paths: impl Iterator<Item = &'a Path>) -> Result<Self, Error> {
        let stamp = |path: &Path| match Stamp::of(path) {
            Ok(stamp) => Ok((path.to_owned(), stamp)),
            Err(error) => Err(Error::io("read", path, error)),
        };
        paths.map(stamp).collect::<Result<_, _>>().map(Self)
    }

    /// Names the first file that was written or replaced since.
    pub(crate) fn check(&self) -> Result<(), Error> {
        for (path, stamp) in &self.0 {
            let now = Stamp::of(path).map_err(|e| Error::io("read", path, e))?;
            if now != *stamp {
                let what = "changed while it was read";
                return Err(Error::Changed { path: path.clone(), what });
            }
        }
        Ok(())
    }
}
