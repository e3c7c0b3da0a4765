//! Randomness keyed by what it is for, so that no result depends on order, threads or devices.
//!
//! [`Key`] names a stream by (seed, tensor, model); [`Key::uniform`] is its value at an element.
//! The function is Philox-4x32-10 (Salmon et al., SC 2011), counter = element, key = stream.

#[cfg(target_arch = "x86_64")]
mod wide;

use crate::hash::sha256_hex;

/// A stream of random numbers, addressed by element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    key: [u32; 2],
    stream: [u32; 2],
}

impl Key {
    /// The stream for a seed and the names of what it is used for, in order.
    #[must_use]
    pub fn new(seed: u64, names: &[&str]) -> Self {
        let mut text = String::new();
        for name in names {
            text.push_str(name);
            text.push('\0');
        }
        let hex = sha256_hex(text.as_bytes());
        let word = |i: usize| u32::from_str_radix(&hex[8 * i..8 * i + 8], 16).unwrap_or(0);
        Self {
            key: [seed as u32 ^ word(2), (seed >> 32) as u32 ^ word(3)],
            stream: [word(0), word(1)],
        }
    }

    /// Four random words at a counter.
    #[must_use]
    pub fn block(&self, counter: u64) -> [u32; 4] {
        let [low, high] = [counter as u32, (counter >> 32) as u32];
        philox([[low], [high], [self.stream[0]], [self.stream[1]]], self.key).map(|[word]| word)
    }

    /// The uniform number in [0, 1) of an element, 24 bits.
    #[must_use]
    pub fn uniform(&self, element: u64) -> f32 {
        unit(self.block(element / 4)[(element % 4) as usize])
    }

    /// Fills `out` with the uniforms of the elements `first..first + out.len()`.
    pub fn fill(&self, first: u64, out: &mut [f32]) {
        let head = (first.next_multiple_of(4) - first).min(out.len() as u64) as usize;
        let (head, rest) = out.split_at_mut(head);
        for (element, value) in (first..).zip(head) {
            *value = self.uniform(element);
        }
        let mut block = first.div_ceil(4);
        let (chunks, tail) = rest.as_chunks_mut::<{ 4 * LANES }>();
        self.fill_blocks(block, chunks);
        block += (chunks.len() * LANES) as u64;
        if tail.is_empty() {
            return;
        }
        let mut last = [[0.0; 4 * LANES]];
        self.fill_blocks(block, &mut last);
        tail.copy_from_slice(&last[0][..tail.len()]);
    }

    /// Sets the bits of the elements from `first` (a multiple of 64) whose uniform number is below a
    /// threshold, the lowest bit first.
    pub fn below(&self, first: u64, threshold: f32, words: &mut [u64]) {
        // The least 24-bit number that is not below it.
        let limit = (f64::from(threshold) * UNITS).ceil().clamp(0.0, UNITS) as u32;
        #[cfg(target_arch = "x86_64")]
        if wide::below(self, first / 4, limit, words) {
            return;
        }
        for (word, element) in words.iter_mut().zip((first..).step_by(64)) {
            *word = self.word_below(element, limit);
        }
    }

    /// The bits of 64 elements.
    fn word_below(&self, first: u64, limit: u32) -> u64 {
        let quads = (0..16).map(|i| self.block(first / 4 + i));
        let bits = quads.flatten().map(|word| u64::from(word >> 8 < limit));
        bits.enumerate().fold(0, |word, (i, bit)| word | bit << i)
    }

    /// The uniforms of the blocks from `block`.
    fn fill_blocks(&self, block: u64, chunks: &mut [[f32; 4 * LANES]]) {
        #[cfg(target_arch = "x86_64")]
        if wide::fill(self, block, chunks) {
            return;
        }
        for (i, chunk) in chunks.iter_mut().enumerate() {
            self.fill_lanes(block + (i * LANES) as u64, chunk);
        }
    }

    /// The uniforms of [`LANES`] blocks.
    fn fill_lanes(&self, block: u64, out: &mut [f32; 4 * LANES]) {
        let counters = [
            std::array::from_fn(|i| (block + i as u64) as u32),
            std::array::from_fn(|i| ((block + i as u64) >> 32) as u32),
            [self.stream[0]; LANES],
            [self.stream[1]; LANES],
        ];
        let words = philox(counters, self.key);
        for i in 0..LANES {
            for (j, word) in words.iter().enumerate() {
                out[4 * i + j] = unit(word[i]);
            }
        }
    }
}

/// Blocks that [`Key::fill`] makes at once.
const LANES: usize = 8;

/// How many different uniform numbers there are.
const UNITS: f64 = 16_777_216.0;

/// 24 bits as a number in [0, 1).
#[inline(always)]
fn unit(word: u32) -> f32 {
    // By way of i32, for which AVX2 has an instruction.
    (word >> 8) as i32 as f32 * (1.0 / 16_777_216.0)
}

/// A sequential generator over a keyed stream whose whole state is (key, position): it is saved
/// and restored exactly.
#[derive(Clone, Debug)]
pub struct Rng {
    key: Key,
    position: u64,
}

impl Rng {
    /// Starts at a position of the stream.
    #[must_use]
    pub fn new(key: Key, position: u64) -> Self {
        Self { key, position }
    }

    /// How many 53-bit draws were taken; with the key, the whole state.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.position
    }

    /// A uniform number in [0, 1), 53 bits.
    pub fn uniform(&mut self) -> f64 {
        let [a, b, ..] = self.key.block(self.position);
        self.position += 1;
        let bits = (u64::from(a) << 21) ^ u64::from(b >> 11);
        bits as f64 / (1_u64 << 53) as f64
    }

    /// A standard normal number (Box-Muller, the cosine branch: two draws each).
    pub fn normal(&mut self) -> f64 {
        let u = 1.0 - self.uniform();
        let v = self.uniform();
        (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
    }

    /// A uniform integer in `0..n` (`n` > 0).
    pub fn below(&mut self, n: usize) -> usize {
        ((self.uniform() * n as f64) as usize).min(n.saturating_sub(1))
    }

    /// Shuffles in place (Fisher-Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            let j = self.below(i + 1);
            items.swap(i, j);
        }
    }
}

/// Philox's multipliers, and what its keys grow by.
const M: [u64; 2] = [0xD251_1F53, 0xCD9E_8D57];
const W: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];

/// The keys of ten rounds.
#[inline(always)]
fn round_keys(key: [u32; 2]) -> [[u32; 2]; 10] {
    let mut keys = [key; 10];
    for i in 1..keys.len() {
        let [a, b] = keys[i - 1];
        keys[i] = [a.wrapping_add(W[0]), b.wrapping_add(W[1])];
    }
    keys
}

/// Ten rounds for `N` counters at once.
#[inline(always)]
fn philox<const N: usize>(mut counter: [[u32; N]; 4], key: [u32; 2]) -> [[u32; N]; 4] {
    for key in round_keys(key) {
        let mut next = [[0; N]; 4];
        for i in 0..N {
            let a = M[0] * u64::from(counter[0][i]);
            let b = M[1] * u64::from(counter[2][i]);
            next[0][i] = (b >> 32) as u32 ^ counter[1][i] ^ key[0];
            next[1][i] = b as u32;
            next[2][i] = (a >> 32) as u32 ^ counter[3][i] ^ key[1];
            next[3][i] = a as u32;
        }
        counter = next;
    }
    counter
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Known-answer vectors of the Random123 distribution (kat_vectors, philox4x32 10).
    #[test]
    fn philox_known_answers() {
        let zeros = [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8];
        assert_eq!(philox([[0; LANES]; 4], [0; 2]), zeros.map(|word| [word; LANES]));
        let ones = [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd];
        assert_eq!(philox([[u32::MAX]; 4], [u32::MAX; 2]), ones.map(|word| [word]));
    }

    #[test]
    fn fill_equals_uniform() {
        let key = Key::new(1 << 40 | 7, &["a", "b"]);
        for len in [0, 1, 3, 32, 203] {
            for first in [0, 1, 3, 1_000_003, (1 << 34) - 100, (1 << 34) - 6] {
                let mut out = vec![-1.0; len];
                key.fill(first, &mut out);
                for (i, v) in out.iter().enumerate() {
                    let element = first + i as u64;
                    assert_eq!(v.to_bits(), key.uniform(element).to_bits(), "{first} + {i}");
                    // As the definition has it, in other arithmetic.
                    let word = key.block(element / 4)[(element % 4) as usize];
                    assert_eq!(*v, (word >> 8) as f32 / 16_777_216.0);
                }
            }
        }
        assert_ne!(Key::new(1 << 40 | 7, &["ab", ""]), key);
    }

    #[test]
    fn bits_below_equal_comparisons() {
        let key = Key::new(5, &["bits"]);
        let exact = key.uniform(130);
        for threshold in [0.0, 1.0, 0.8, 0.3, exact, exact.next_up(), 1e-9, 1.0 / 16_777_216.0] {
            for first in [0, 128, (1 << 34) - 128] {
                let mut words = [0; 5];
                key.below(first, threshold, &mut words);
                for i in 0..64 * words.len() {
                    let stays = key.uniform(first + i as u64) < threshold;
                    assert_eq!(
                        words[i / 64] >> (i % 64) & 1 == 1,
                        stays,
                        "{threshold} {first} {i}"
                    );
                }
                let limit = (f64::from(threshold) * UNITS).ceil() as u32;
                assert_eq!(words[1], key.word_below(first + 64, limit));
            }
        }
    }

    #[test]
    fn normals_have_unit_variance() {
        let mut rng = Rng::new(Key::new(1, &["normal"]), 0);
        let n = 20_000;
        let (mut s, mut s2) = (0.0, 0.0);
        for _ in 0..n {
            let x = rng.normal();
            s += x;
            s2 += x * x;
        }
        let mean = s / f64::from(n);
        assert!(mean.abs() < 0.03, "mean {mean}");
        assert!((s2 / f64::from(n) - 1.0).abs() < 0.05);
    }
}
