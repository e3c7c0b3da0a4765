//! Which elements of a task vector stay.

use darwin_core::keyed::Key;

/// Masks that are handed over instead of drawn, such as those that another program recorded.
pub trait MaskSource: Send + Sync {
    /// Fills `keep` for the elements from `first` (flat index) of a tensor's task vector; false
    /// where there is no mask for this tensor (canonical name) and model (as the recipe names it).
    fn fill(&self, tensor: &str, model: &str, first: u64, keep: &mut [bool]) -> bool;
}

/// The stream of a task vector's random numbers: keyed by seed, tensor and the vector's position
/// in the recipe, so that neither threads, tiles, layouts nor paths matter.
pub(crate) fn stream(seed: u64, tensor: &str, position: usize) -> Key {
    Key::new(seed, &["mask", tensor, &position.to_string()])
}

/// Numbers that are below the density where the element stays.
pub(crate) fn uniforms(
    handed: Option<(&dyn MaskSource, &str, &str)>,
    key: &Key,
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
    key.fill(first, out);
}
