//! Random numbers that are kept from merge to merge.
//!
//! A search merges the same tensors hundreds of times with the same seed, so that candidates
//! differ by their recipes alone; the numbers behind the masks are then the same every time.

use darwin_core::keyed::Key;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Numbers of whole task vectors, up to a limit.
#[derive(Default)]
pub(crate) struct Draws {
    limit: usize,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    bytes: usize,
    vectors: BTreeMap<(u64, String), Arc<[f32]>>,
}

impl Draws {
    /// Keeps up to so many bytes.
    pub(crate) fn up_to(limit: usize) -> Self {
        Self { limit, kept: Mutex::default() }
    }

    /// Whether nothing is kept.
    pub(crate) fn is_off(&self) -> bool {
        self.limit == 0
    }

    /// The numbers of `name` (tensor and vector) under a seed, where there is room for them.
    pub(crate) fn get(&self, seed: u64, name: String, key: Key, n: usize) -> Option<Arc<[f32]>> {
        let bytes = n * size_of::<f32>();
        if bytes > self.limit {
            return None;
        }
        let name = (seed, name);
        {
            let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(numbers) = kept.vectors.get(&name) {
                return Some(Arc::clone(numbers));
            }
            if kept.bytes + bytes > self.limit {
                return None;
            }
        }
        let mut numbers = vec![0.0; n];
        key.fill(0, &mut numbers);
        let numbers: Arc<[f32]> = numbers.into();
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.vectors.insert(name, Arc::clone(&numbers)).is_none() {
            kept.bytes += bytes;
        }
        Some(numbers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fits_is_kept_and_equals_the_keys_numbers() {
        let draws = Draws::up_to(60);
        let key = || Key::new(7, &["a"]);
        let first = draws.get(7, "a".to_owned(), key(), 10).unwrap();
        assert_eq!(first[3], key().uniform(3));
        let again = draws.get(7, "a".to_owned(), key(), 10).unwrap();
        assert!(Arc::ptr_eq(&first, &again));
        assert!(draws.get(7, "b".to_owned(), key(), 10).is_none(), "no room");
        assert!(draws.get(8, "c".to_owned(), key(), 5).is_some());
        assert!(Draws::default().get(7, "a".to_owned(), key(), 1).is_none(), "off");
    }
}
