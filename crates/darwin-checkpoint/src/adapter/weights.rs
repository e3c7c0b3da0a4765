//! `adapter_model.safetensors`, opened.

use crate::dtype::first_not_finite;
use crate::error::Problems;
use crate::header::{Entry, read_header};
use crate::{Error, Problem};
use darwin_core::fs::open_regular;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// The adapter's weights.
#[derive(Debug)]
pub(super) struct Weights {
    pub(super) path: PathBuf,
    file: File,
}

impl Weights {
    /// Opens the file; its tensors by name.
    pub(super) fn open(folder: &Path) -> Result<(Self, Vec<Entry>), Error> {
        let path = folder.join("adapter_model.safetensors");
        if !path.exists() {
            let pickle = folder.join("adapter_model.bin");
            return Err(if pickle.exists() {
                Error::one(
                    format!("{}: pickle files can run code when read", pickle.display()),
                    "load it with PEFT and save it as safetensors (`safe_serialization=True`)",
                )
            } else {
                Error::one(
                    format!("{}: no adapter_model.safetensors", folder.display()),
                    "give the folder of a PEFT adapter",
                )
            });
        }
        let mut file = open_regular(&path).map_err(|e| Error::io("open", &path, e))?;
        let mut entries = read_header(&path, &mut file).map_err(Error::Invalid)?;
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        let mut problems = Problems::default();
        for entry in entries.iter().filter(|entry| !entry.dtype.is_mergeable()) {
            problems.push(Problem::new(
                format!("{}: tensor `{}` is {}", path.display(), entry.name, entry.dtype),
                "only float32, float16 and bfloat16 adapters can be computed with",
            ));
        }
        problems.into_result((Self { path, file }, entries)).map_err(Error::Invalid)
    }

    /// A whole tensor.
    pub(super) fn read(&self, entry: &Entry) -> Result<Vec<f32>, Error> {
        self.read_rows(entry, 0, entry.shape.iter().product())
    }

    /// So many values from an element on.
    pub(super) fn read_rows(
        &self,
        entry: &Entry,
        first: usize,
        count: usize,
    ) -> Result<Vec<f32>, Error> {
        let size = entry.dtype.size();
        let mut bytes = vec![0; count * size];
        self.file
            .read_exact_at(&mut bytes, entry.bytes.start + (first * size) as u64)
            .map_err(|e| Error::io("read", &self.path, e))?;
        let mut values = vec![0.0; count];
        entry.dtype.decode(&bytes, &mut values);
        match first_not_finite(&values) {
            None => Ok(values),
            Some((at, value)) => Err(Error::NotFinite {
                file: self.path.clone(),
                tensor: entry.name.clone(),
                element: first + at,
                value,
            }),
        }
    }
}
