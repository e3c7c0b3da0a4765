//! Which elements of a task vector stay.

mod file;

pub use file::MaskFile;

use crate::methods::kernels::vectorised;
use crate::plan::TaskVector;
use crate::twister::{Cursor, Twister};
use darwin_core::hash::sha256_hex;
use darwin_core::keyed::Key;

/// Masks that are handed over instead of drawn, such as those that another program recorded.
pub trait MaskSource: Send + Sync {
    /// Fills `keep` for the elements from `first` (flat index) of a tensor's task vector; false
    /// where there is no mask for this tensor (canonical name) and model (as the recipe names it).
    fn fill(&self, tensor: &str, model: &str, first: u64, keep: &mut [bool]) -> bool;
}

/// Where all random numbers of a merge come from.
pub(crate) enum Chance {
    /// Numbers keyed by this seed.
    Keyed(u64),
    /// mergekit's one stream.
    Twister(Twister),
}

impl Chance {
    /// The numbers of a task vector. Native ones are keyed by seed, tensor and the vector's
    /// position in the recipe, so that neither threads, tiles, layouts nor paths matter.
    pub(crate) fn stream(&self, tensor: &str, vector: &TaskVector) -> Stream<'_> {
        match self {
            Self::Keyed(seed) => {
                Stream::Keyed(Keyed::new(*seed, &["mask", tensor, &vector.stream.to_string()]))
            }
            Self::Twister(twister) => Stream::Twister { twister, first_word: vector.first_word },
        }
    }
}

/// The random numbers of one task vector.
pub(crate) enum Stream<'a> {
    /// Native ones.
    Keyed(Keyed),
    /// A part of mergekit's stream.
    Twister { twister: &'a Twister, first_word: u64 },
}

impl Stream<'_> {
    fn fill(&self, first: u64, cursor: &mut Cursor, out: &mut [f32]) {
        match self {
            Self::Keyed(keyed) => keyed.fill(first, out),
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

/// The numbers of a [`Key`], many at a time, where [`Key::fill`] makes one block after the other.
pub(crate) struct Keyed {
    key: Key,
    /// The key's two words and the counter's two high ones.
    words: [u32; 4],
}

impl Keyed {
    fn new(seed: u64, names: &[&str]) -> Self {
        let text: String = names.iter().map(|name| format!("{name}\0")).collect();
        let hex = sha256_hex(text.as_bytes());
        let word = |i: usize| u32::from_str_radix(&hex[8 * i..8 * i + 8], 16).unwrap_or(0);
        let words = [seed as u32 ^ word(2), (seed >> 32) as u32 ^ word(3), word(0), word(1)];
        Self { key: Key::new(seed, names), words }
    }

    /// Fills `out` with the uniforms of the elements from `first`.
    fn fill(&self, first: u64, out: &mut [f32]) {
        let head = (first.next_multiple_of(4) - first).min(out.len() as u64) as usize;
        let (head, rest) = out.split_at_mut(head);
        self.key.fill(first, head);
        let mut block = (first + head.len() as u64) / 4;
        let (chunks, tail) = rest.as_chunks_mut::<{ 4 * LANES }>();
        for chunk in chunks {
            philox(self.words, block, chunk);
            block += LANES as u64;
        }
        self.key.fill(block * 4, tail);
    }
}

/// Blocks of four numbers that are made at once.
const LANES: usize = 8;

vectorised! {
    /// Philox-4x32-10 (Salmon et al., SC 2011) for `LANES` counters from `block`, as uniforms of
    /// 24 bits.
    fn philox(words: [u32; 4], block: u64, out: &mut [f32; 4 * LANES]) {
        const M: [u64; 2] = [0xD251_1F53, 0xCD9E_8D57];
        const W: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
        let mut c = [
            std::array::from_fn(|i| (block + i as u64) as u32),
            std::array::from_fn(|i| ((block + i as u64) >> 32) as u32),
            [words[2]; LANES],
            [words[3]; LANES],
        ];
        let mut key = [words[0], words[1]];
        for _ in 0..10 {
            let mut next = [[0_u32; LANES]; 4];
            for i in 0..LANES {
                let a = M[0] * u64::from(c[0][i]);
                let b = M[1] * u64::from(c[2][i]);
                next[0][i] = (b >> 32) as u32 ^ c[1][i] ^ key[0];
                next[1][i] = b as u32;
                next[2][i] = (a >> 32) as u32 ^ c[3][i] ^ key[1];
                next[3][i] = a as u32;
            }
            c = next;
            key = [key[0].wrapping_add(W[0]), key[1].wrapping_add(W[1])];
        }
        for i in 0..LANES {
            for (j, word) in c.iter().enumerate() {
                out[4 * i + j] = (word[i] >> 8) as i32 as f32 * (1.0 / 16_777_216.0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_at_a_time_are_the_keys_own_numbers() {
        let (stream, key) =
            (Keyed::new(1 << 40 | 7, &["a", "b"]), Key::new(1 << 40 | 7, &["a", "b"]));
        for first in [0, 1, 3, 1_000_003, (1 << 34) - 6] {
            let mut out = vec![0.0; 203];
            stream.fill(first, &mut out);
            for (i, u) in out.iter().enumerate() {
                assert_eq!(*u, key.uniform(first + i as u64), "{first} + {i}");
            }
        }
    }
}
