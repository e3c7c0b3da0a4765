//! Masks from a file.

use super::MaskSource;
use crate::Error;
use darwin_checkpoint::{MAX_HEADER_BYTES, canonical_name};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;

/// Masks recorded elsewhere: a safetensors file of U8 tensors named `<model>/<output tensor>`,
/// other than 0 where the element stays. It is held in memory.
pub struct MaskFile {
    masks: BTreeMap<(String, String), Vec<u8>>,
}

#[derive(Deserialize)]
struct Entry {
    dtype: String,
    data_offsets: [usize; 2],
}

impl MaskFile {
    /// Reads a file of masks.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Plan`] where it is not such a file.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let file = path.display().to_string();
        let bytes =
            std::fs::read(path).map_err(|source| Error::Io { file: file.clone(), source })?;
        let masks = masks(&bytes).ok_or_else(|| {
            Error::plan(
                format!("{file} is not a safetensors file of U8 masks named `<model>/<tensor>`"),
                "write 1 where an element stays and 0 where it is dropped",
            )
        })?;
        Ok(Self { masks })
    }

    /// The mask of a tensor (canonical name) and model, row by row.
    #[must_use]
    pub fn get(&self, tensor: &str, model: &str) -> Option<&[u8]> {
        self.masks.get(&(tensor.to_owned(), model.to_owned())).map(Vec::as_slice)
    }
}

fn masks(bytes: &[u8]) -> Option<BTreeMap<(String, String), Vec<u8>>> {
    let (length, rest) = bytes.split_first_chunk::<8>()?;
    let length = u64::from_le_bytes(*length);
    if length > MAX_HEADER_BYTES || length > rest.len() as u64 {
        return None;
    }
    let (header, body) = rest.split_at(length as usize);
    let entries: BTreeMap<String, serde_json::Value> = serde_json::from_slice(header).ok()?;
    let mut masks = BTreeMap::new();
    for (key, entry) in entries.into_iter().filter(|(key, _)| key != "__metadata__") {
        let entry: Entry = serde_json::from_value(entry).ok()?;
        let (model, tensor) = key.rsplit_once('/')?;
        let [start, end] = entry.data_offsets;
        let mask = body.get(start..end).filter(|_| entry.dtype == "U8")?;
        masks.insert((canonical_name(tensor), model.to_owned()), mask.to_vec());
    }
    Some(masks)
}

impl MaskSource for MaskFile {
    fn fill(&self, tensor: &str, model: &str, first: u64, keep: &mut [bool]) -> bool {
        let range = first as usize..first as usize + keep.len();
        let Some(mask) = self.get(tensor, model).and_then(|mask| mask.get(range)) else {
            return false;
        };
        keep.iter_mut().zip(mask).for_each(|(keep, mask)| *keep = *mask != 0);
        true
    }
}
