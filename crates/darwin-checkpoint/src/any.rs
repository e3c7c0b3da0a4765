//! A model that can be read, whatever its files are.

use crate::{Checkpoint, Error, Gguf, Manifest, Problem, TensorId, TensorPlan, TensorSource};
use serde_json::Value;
use std::ffi::OsStr;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// A model that can be run, scored and profiled: a folder with safetensors, or a GGUF file. What is
/// merged or written must be a [`Checkpoint`].
#[derive(Debug)]
pub enum AnyModel {
    /// A folder in Hugging Face's form.
    Checkpoint(Box<Checkpoint>),
    /// A GGUF file of a Llama model.
    Gguf(Box<Gguf>),
}

/// A tensor as the files have it.
#[derive(Clone, Copy, Debug)]
pub struct StoredTensor<'a> {
    /// Its name in the files.
    pub name: &'a str,
    /// The logical tensor that it belongs to.
    pub id: TensorId,
    /// Its shape.
    pub shape: &'a [usize],
    /// Its element type: safetensors' or ggml's name.
    pub dtype: &'static str,
    /// Its bytes, without scales that lie in tensors of their own.
    pub bytes: u64,
}

impl AnyModel {
    /// Opens a checkpoint folder, a GGUF file, or a folder whose only weights are one GGUF file;
    /// from headers alone.
    ///
    /// # Errors
    /// Those of [`Checkpoint::open`], [`Gguf::open`] and [`gguf_file`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        match gguf_file(path.as_ref())? {
            Some(file) => Gguf::open(file).map(|model| Self::Gguf(Box::new(model))),
            None => Checkpoint::open(path).map(|model| Self::Checkpoint(Box::new(model))),
        }
    }

    /// The folder or file.
    #[must_use]
    pub fn path(&self) -> &Path {
        match self {
            Self::Checkpoint(model) => model.folder(),
            Self::Gguf(model) => model.path(),
        }
    }

    /// Every tensor as the files have it, in their order.
    #[must_use]
    pub fn stored(&self) -> Vec<StoredTensor<'_>> {
        match self {
            Self::Checkpoint(model) => model.stored(),
            Self::Gguf(model) => model.stored(),
        }
    }

    fn source(&self) -> &dyn TensorSource {
        match self {
            Self::Checkpoint(model) => model.as_ref(),
            Self::Gguf(model) => model.as_ref(),
        }
    }
}

impl TensorSource for AnyModel {
    fn name(&self) -> &str {
        self.source().name()
    }

    fn manifest(&self) -> &Manifest {
        self.source().manifest()
    }

    fn config(&self) -> &Value {
        self.source().config()
    }

    fn prepare(&self, id: TensorId) -> Result<TensorPlan, Error> {
        self.source().prepare(id)
    }

    fn read_tile(
        &self,
        plan: &TensorPlan,
        rows: Range<usize>,
        out: &mut [f32],
    ) -> Result<(), Error> {
        self.source().read_tile(plan, rows, out)
    }

    fn read_bytes(
        &self,
        plan: &TensorPlan,
        rows: Range<usize>,
        out: &mut [u8],
    ) -> Result<bool, Error> {
        self.source().read_bytes(plan, rows, out)
    }

    fn read_raw(&self, id: TensorId, rows: Range<usize>, out: &mut Vec<u8>) -> Result<bool, Error> {
        self.source().read_raw(id, rows, out)
    }
}

/// The GGUF file that a path stands for: the file itself, or the only one of a folder without
/// safetensors.
///
/// # Errors
/// [`Error::Invalid`] where such a folder holds several; [`Error::Io`] where it cannot be listed.
pub fn gguf_file(path: &Path) -> Result<Option<PathBuf>, Error> {
    let ends_with = |path: &Path, end: &str| {
        path.extension().and_then(OsStr::to_str).is_some_and(|e| e.eq_ignore_ascii_case(end))
    };
    if !path.is_dir() {
        return Ok(ends_with(path, "gguf").then(|| path.to_owned()));
    }
    let mut found = Vec::new();
    for entry in std::fs::read_dir(path).map_err(|e| Error::io("read", path, e))? {
        let file = entry.map_err(|e| Error::io("read", path, e))?.path();
        if ends_with(&file, "safetensors") {
            return Ok(None);
        }
        if ends_with(&file, "gguf") && file.is_file() {
            found.push(file);
        }
    }
    found.sort();
    if found.len() > 1 {
        let text = format!("{}: holds {} GGUF files", path.display(), found.len());
        return Err(Error::one(text, format!("name one of them, e.g. {}", found[0].display())));
    }
    Ok(found.pop())
}

/// Why a path cannot be opened as a [`Checkpoint`], where it stands for a GGUF file.
pub(crate) fn no_checkpoint(path: &Path) -> Result<(), Error> {
    let Some(file) = gguf_file(path)? else { return Ok(()) };
    Err(Error::Invalid(vec![Problem::new(
        format!("{}: is a GGUF file, needed is a folder with safetensors", file.display()),
        "GGUF files can be inspected, run, scored and profiled; for everything else give the \
         checkpoint that the file was made from",
    )]))
}
