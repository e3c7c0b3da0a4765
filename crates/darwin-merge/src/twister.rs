//! mergekit's random numbers: one MT19937 stream for a whole merge (mergekit 0.1.5, `sparsify.py`).

use rand_mt::Mt;
use std::sync::{Mutex, PoisonError};

/// States of the generator that are kept at most, 2.5 KiB each.
const STATES: u64 = 1 << 14;
/// Words between two kept states, unless a merge draws so many that they would be too many.
const SPACING: u64 = 1 << 20;

/// The stream of words behind torch's CPU generator. It is drawn once, in order, as far as it is
/// asked for; states kept on the way let any thread start anywhere near.
pub(crate) struct Twister {
    spacing: u64,
    states: Mutex<Vec<Mt>>,
}

/// A generator and where it stands, carried from tile to tile.
#[derive(Default)]
pub(crate) struct Cursor {
    at: u64,
    generator: Option<Mt>,
}

impl Twister {
    /// The stream of a seed, of which `words` will be used.
    pub(crate) fn new(seed: u32, words: u64) -> Self {
        let spacing = words.div_ceil(STATES).next_power_of_two().max(SPACING);
        Self { spacing, states: Mutex::new(vec![Mt::new(seed)]) }
    }

    /// The last kept state before a word, with its position.
    fn before(&self, word: u64) -> (u64, Mt) {
        let wanted = (word / self.spacing) as usize;
        let mut states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        while states.len() <= wanted {
            let mut next = states[states.len() - 1].clone();
            for _ in 0..self.spacing {
                next.next_u32();
            }
            states.push(next);
        }
        (wanted as u64 * self.spacing, states[wanted].clone())
    }

    /// Fills `out` with the uniforms of the words from `first`: the low 24 bits / 2^24.
    pub(crate) fn fill(&self, first: u64, cursor: &mut Cursor, out: &mut [f32]) {
        let near = cursor.at <= first && first - cursor.at < self.spacing;
        let (mut at, mut generator) = match cursor.generator.take() {
            Some(generator) if near => (cursor.at, generator),
            _ => self.before(first),
        };
        while at < first {
            generator.next_u32();
            at += 1;
        }
        for u in out.iter_mut() {
            *u = (generator.next_u32() & 0xff_ffff) as f32 * (1.0 / 16_777_216.0);
        }
        *cursor = Cursor { at: first + out.len() as u64, generator: Some(generator) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_the_same_wherever_one_starts() {
        let twister = Twister { spacing: 100, ..Twister::new(42, 5_000) };
        let mut whole = vec![0.0; 5_000];
        twister.fill(0, &mut Cursor::default(), &mut whole);
        // `torch.manual_seed(42); torch.rand(3)`
        assert_eq!(whole[..3], [0.882_269_26, 0.915_003_96, 0.382_863_76]);
        for (first, length) in [(4_990, 10), (0, 1), (99, 202), (100, 100), (2_345, 678)] {
            let mut part = vec![0.0; length];
            twister.fill(first, &mut Cursor::default(), &mut part);
            assert_eq!(part, whole[first as usize..first as usize + length]);
        }
        let mut cursor = Cursor::default();
        for (first, length) in [(10, 50), (60, 30), (95, 200), (3, 7)] {
            let mut part = vec![0.0; length];
            twister.fill(first, &mut cursor, &mut part);
            assert_eq!(part, whole[first as usize..first as usize + length]);
        }
    }
}
