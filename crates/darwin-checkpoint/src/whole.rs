//! A safetensors file that is no checkpoint, read into memory.

use crate::header::read_header;
use crate::{Dtype, Error, Problem};
use darwin_core::fs::open_regular;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// A tensor with its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WholeTensor {
    /// Its name in the file.
    pub name: String,
    /// Its element type.
    pub dtype: Dtype,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its elements, little-endian.
    pub bytes: Vec<u8>,
}

/// All tensors of a safetensors file, in the order of their bytes.
///
/// # Errors
/// [`Error::Invalid`] where it is no such file; [`Error::Io`] where it cannot be read.
pub fn whole_tensors(path: &Path) -> Result<Vec<WholeTensor>, Error> {
    whole_tensors_of(path, u64::MAX)
}

/// As [`whole_tensors`], of a file of at most so many bytes.
///
/// # Errors
/// As [`whole_tensors`]; [`Error::Invalid`] where the file is larger.
pub fn whole_tensors_of(path: &Path, most_bytes: u64) -> Result<Vec<WholeTensor>, Error> {
    let mut file = open_regular(path).map_err(|e| Error::io("open", path, e))?;
    let size = file.metadata().map_err(|e| Error::io("read", path, e))?.len();
    if size > most_bytes {
        let text = format!("{}: has {size} bytes, allowed are {most_bytes}", path.display());
        return Err(Error::Invalid(vec![Problem::new(text, "check that it is the right file")]));
    }
    let entries = read_header(path, &mut file).map_err(Error::Invalid)?;
    let read = |entry: crate::header::Entry| {
        let mut bytes = vec![0; (entry.bytes.end - entry.bytes.start) as usize];
        file.read_exact_at(&mut bytes, entry.bytes.start)
            .map_err(|e| Error::io("read", path, e))?;
        Ok(WholeTensor { name: entry.name, dtype: entry.dtype, shape: entry.shape, bytes })
    };
    entries.into_iter().map(read).collect()
}
