//! Masks from a file.

use super::MaskSource;
use crate::Error;
use darwin_checkpoint::{Dtype, canonical_name, whole_tensors};
use std::collections::BTreeMap;
use std::path::Path;

/// Masks recorded elsewhere: a safetensors file of U8 tensors named `<model>/<output tensor>`,
/// other than 0 where the element stays. It is held in memory.
pub struct MaskFile {
    masks: BTreeMap<(String, String), Vec<u8>>,
}

impl MaskFile {
    /// Reads a file of masks.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] where it cannot be read; [`Error::Plan`] where it holds no masks.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let mut masks = BTreeMap::new();
        for tensor in whole_tensors(path)? {
            let Some((model, name)) = tensor.name.rsplit_once('/') else { return Err(wrong(path)) };
            if tensor.dtype != Dtype::U8 {
                return Err(wrong(path));
            }
            masks.insert((canonical_name(name), model.to_owned()), tensor.bytes);
        }
        Ok(Self { masks })
    }

    /// The mask of a tensor (canonical name) and model, row by row.
    #[must_use]
    pub fn get(&self, tensor: &str, model: &str) -> Option<&[u8]> {
        self.masks.get(&(tensor.to_owned(), model.to_owned())).map(Vec::as_slice)
    }
}

fn wrong(path: &Path) -> Error {
    let name = "`<model>/<tensor>`";
    Error::plan(
        format!("{} is not a safetensors file of U8 masks named {name}", path.display()),
        "write 1 where an element stays and 0 where it is dropped",
    )
}

impl MaskSource for MaskFile {
    fn fill(&self, tensor: &str, model: &str, first: u64, keep: &mut [bool]) -> bool {
        let mask = self.get(tensor, model).and_then(|mask| mask.get(first as usize..));
        let Some(mask) = mask.and_then(|mask| mask.get(..keep.len())) else { return false };
        keep.iter_mut().zip(mask).for_each(|(keep, mask)| *keep = *mask != 0);
        true
    }
}
