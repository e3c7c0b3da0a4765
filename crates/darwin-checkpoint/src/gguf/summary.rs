//! What lies in the file, for people.

use super::{Gguf, Kind};
use crate::any::StoredTensor;

impl Gguf {
    /// Every tensor as the file has it, in the file's order.
    pub(crate) fn stored(&self) -> Vec<StoredTensor<'_>> {
        let pairs = self.manifest.ids().zip(&self.places);
        pairs
            .map(|(id, place)| StoredTensor {
                name: &place.stored,
                id,
                shape: &self.manifest.get(id).shape,
                dtype: place.kind.name(),
                bytes: place.bytes.end - place.bytes.start,
            })
            .collect()
    }

    /// The type that most bytes have, under transformers' name where it has one.
    pub(crate) fn main_type(&self) -> &'static str {
        let mut bytes: Vec<(u64, Kind)> = Vec::new();
        for place in &self.places {
            let size = place.bytes.end - place.bytes.start;
            match bytes.iter_mut().find(|(_, kind)| *kind == place.kind) {
                Some((total, _)) => *total += size,
                None => bytes.push((size, place.kind)),
            }
        }
        let most = bytes.into_iter().max_by_key(|(size, _)| *size);
        most.map_or("", |(_, kind)| match kind {
            Kind::Plain(dtype) => dtype.torch_name(),
            quantised => quantised.name(),
        })
    }
}
