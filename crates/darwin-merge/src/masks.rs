//! Which elements of a task vector stay.

mod file;
mod kept;

pub use file::MaskFile;
pub(crate) use kept::{Bits, Kept, WORD};

use crate::draws::Draws;
use crate::plan::TaskVector;
use crate::twister::{Cursor, Twister};
use darwin_checkpoint::TensorInfo;
use darwin_core::keyed::Key;
use std::sync::Arc;

/// Masks that are handed over instead of drawn, such as those that another program recorded.
pub trait MaskSource: Send + Sync {
    /// Fills `keep` for the elements from `first` (flat index) of a tensor's task vector; false
    /// where there is no mask for this tensor (canonical name) and model (as the recipe names it).
    fn fill(&self, tensor: &str, model: &str, first: u64, keep: &mut [bool]) -> bool;
}

/// Where all random numbers of a merge come from.
pub(crate) enum Chance {
    /// Numbers keyed by this seed.
    Keyed { seed: u64, draws: Arc<Draws>, kept: Kept },
    /// mergekit's one stream.
    Twister(Twister),
}

impl Chance {
    /// Keeps the mask of a task vector from its first drawing on.
    pub(crate) fn keep(&self, tensor: &TensorInfo, vector: &TaskVector) {
        if let Self::Keyed { draws, kept, .. } = self
            && draws.is_off()
        {
            kept.begin(name(tensor, vector), tensor.rows(), tensor.cols());
        }
    }

    /// Keeps masks of no more than so many bytes.
    pub(crate) fn limit_masks(&self, bytes: usize) {
        if let Self::Keyed { kept, .. } = self {
            kept.limit(bytes);
        }
    }

    /// The numbers of a task vector. Native ones are keyed by seed, tensor and the vector's
    /// position in the recipe, so that neither threads, tiles, layouts nor paths matter.
    pub(crate) fn stream(&self, tensor: &TensorInfo, vector: &TaskVector) -> Stream<'_> {
        match self {
            Self::Keyed { seed, draws, kept } => {
                let position = vector.stream.to_string();
                let key = Key::new(*seed, &["mask", &tensor.name, &position]);
                let name = name(tensor, vector);
                let mask = kept.get(&name);
                match draws.get(*seed, name, key, tensor.rows() * tensor.cols()) {
                    Some(numbers) => Stream::Drawn(numbers),
                    None => Stream::Keyed { key, mask },
                }
            }
            Self::Twister(twister) => Stream::Twister { twister, first_word: vector.first_word },
        }
    }
}

fn name(tensor: &TensorInfo, vector: &TaskVector) -> String {
    format!("{} {}", tensor.name, vector.stream)
}

/// The random numbers of one task vector.
pub(crate) enum Stream<'a> {
    /// Native ones; what was made of them, where it is kept.
    Keyed { key: Key, mask: Option<Arc<Bits>> },
    /// Native ones that were drawn before.
    Drawn(Arc<[f32]>),
    /// A part of mergekit's stream.
    Twister { twister: &'a Twister, first_word: u64 },
}

impl Stream<'_> {
    /// The key, and what is kept of a mask.
    pub(crate) fn mask(&self) -> Option<(&Key, &Bits)> {
        match self {
            Self::Keyed { key, mask: Some(mask) } => Some((key, mask)),
            _ => None,
        }
    }

    fn fill(&self, first: u64, cursor: &mut Cursor, out: &mut [f32]) {
        match self {
            Self::Keyed { key, .. } => key.fill(first, out),
            Self::Drawn(numbers) => {
                let first = first as usize;
                out.copy_from_slice(&numbers[first..first + out.len()]);
            }
            Self::Twister { twister, first_word } => twister.fill(first_word + first, cursor, out),
        }
    }
}

/// Numbers that are below the density where the element stays.
pub(crate) fn uniforms(
    handed: Option<(&dyn MaskSource, &str, &str)>,
    stream: &Stream<'_>,
    cursor: &mut Cursor,
    first: u64,
    out: &mut [f32],
) {
    if let Some((masks, tensor, model)) = handed {
        let mut keep = vec![false; out.len()];
        if masks.fill(tensor, model, first, &mut keep) {
            for (u, keep) in out.iter_mut().zip(keep) {
                *u = if keep { -1.0 } else { 2.0 };
            }
            return;
        }
    }
    stream.fill(first, cursor, out);
}
