//! A safetensors file that is no checkpoint, read into memory.

use crate::header::read_header;
use crate::{Dtype, Error};
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
    let mut file = open_regular(path).map_err(|e| Error::io("open", path, e))?;
    let entries = read_header(path, &mut file).map_err(Error::Invalid)?;
    let read = |entry: crate::header::Entry| {
        let mut bytes = vec![0; (entry.bytes.end - entry.bytes.start) as usize];
        file.read_exact_at(&mut bytes, entry.bytes.start)
            .map_err(|e| Error::io("read", path, e))?;
        Ok(WholeTensor { name: entry.name, dtype: entry.dtype, shape: entry.shape, bytes })
    };
    entries.into_iter().map(read).collect()
}
