//! Masks of the tensors in work: what the pass over a tensor drew, its output need not draw again.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Most bytes of masks that are kept: those of the experts of two layers of Qwen3.5-35B-A3B fit (256 x 1024
/// x 2048 bits each).
const LIMIT: usize = 144 << 20;

/// Elements of a word.
pub(crate) const WORD: usize = 64;

/// Which elements of a task vector stay, a bit each.
pub(crate) struct Bits {
    words: Vec<AtomicU64>,
    /// How many words were set, each once.
    set: AtomicUsize,
}

impl Bits {
    fn new(elements: usize) -> Self {
        let words = (0..elements / WORD).map(|_| AtomicU64::new(0)).collect();
        Self { words, set: AtomicUsize::new(0) }
    }

    /// Sets the words from an element on, which is a multiple of [`WORD`].
    pub(crate) fn set(&self, element: usize, words: &[u64]) {
        let own = &self.words[element / WORD..];
        own.iter().zip(words).for_each(|(own, word)| own.store(*word, Ordering::Relaxed));
        self.set.fetch_add(words.len(), Ordering::Release);
    }

    /// The words from an element on, where all are known.
    pub(crate) fn get(&self, element: usize, words: &mut [u64]) -> bool {
        if self.set.load(Ordering::Acquire) != self.words.len() {
            return false;
        }
        let own = &self.words[element / WORD..];
        own.iter().zip(words).for_each(|(own, word)| *word = own.load(Ordering::Relaxed));
        true
    }
}

/// The masks of the latest tensors, by tensor and position of the vector.
pub(crate) struct Kept {
    latest: Mutex<VecDeque<(String, Arc<Bits>)>>,
    /// Bytes of all of them.
    limit: AtomicUsize,
}

impl Default for Kept {
    fn default() -> Self {
        Self { latest: Mutex::default(), limit: AtomicUsize::new(LIMIT) }
    }
}

impl Kept {
    /// Keeps no more than so many bytes from now on.
    pub(crate) fn limit(&self, bytes: usize) {
        self.limit.store(bytes.min(LIMIT), Ordering::Relaxed);
    }

    /// The mask of a name, if it is kept.
    pub(crate) fn get(&self, name: &str) -> Option<Arc<Bits>> {
        let latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        latest.iter().find(|(of, _)| of == name).map(|(_, bits)| Arc::clone(bits))
    }

    /// Makes room for a mask of rows of so many columns; the oldest make place for it.
    pub(crate) fn begin(&self, name: String, rows: usize, cols: usize) {
        let size = |elements: usize| elements / 8;
        let limit = self.limit.load(Ordering::Relaxed);
        if !cols.is_multiple_of(WORD) || size(rows * cols) > limit {
            return;
        }
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        if latest.iter().any(|(of, _)| *of == name) {
            return;
        }
        let held = |latest: &VecDeque<(String, Arc<Bits>)>| -> usize {
            latest.iter().map(|(_, bits)| size(bits.words.len() * WORD)).sum()
        };
        while held(&latest) + size(rows * cols) > limit {
            latest.pop_front();
        }
        latest.push_back((name, Arc::new(Bits::new(rows * cols))));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_is_known_when_all_of_it_is_set() {
        let kept = Kept::default();
        kept.begin("a".to_owned(), 3, 64);
        kept.begin("b".to_owned(), 3, 63);
        assert!(kept.get("b").is_none(), "words would span rows");
        let bits = kept.get("a").unwrap();
        bits.set(64, &[7, 8]);
        let mut words = [0; 2];
        assert!(!bits.get(0, &mut words));
        bits.set(0, &[6]);
        assert!(bits.get(0, &mut words));
        assert_eq!(words, [6, 7]);
    }

    #[test]
    fn the_oldest_go() {
        let kept = Kept::default();
        for name in ["a", "b", "c"] {
            kept.begin(name.to_owned(), LIMIT / 2, 16 * 8);
            kept.begin(name.to_owned(), LIMIT / 16, 64);
        }
        assert!(kept.get("a").is_none());
        assert!(kept.get("b").is_some() && kept.get("c").is_some());
        kept.limit(8);
        kept.begin("d".to_owned(), 2, 64);
        assert!(kept.get("d").is_none(), "there is no room for it");
        kept.begin("e".to_owned(), 1, 64);
        assert!(kept.get("c").is_none() && kept.get("e").is_some());
    }
}
