//! Randomness keyed by what it is for, so that no result depends on order, threads or devices.
//!
//! [`Key`] names a stream by (seed, tensor, model); [`Key::uniform`] is its value at an element.
//! The function is Philox-4x32-10 (Salmon et al., SC 2011), counter = element, key = stream.

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

    /// The uniforms of the blocks from `block`.
    fn fill_blocks(&self, block: u64, chunks: &mut [[f32; 4 * LANES]]) {
        #[cfg(target_arch = "x86_64")]
        if std::arch::is_x86_feature_detected!("avx2") {
            // SAFETY: the line above found AVX2.
            unsafe { wide::fill(self, block, chunks) };
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

/// The same for AVX2, where compilers do not find that two halves of a vector can be multiplied
/// apart.
#[cfg(target_arch = "x86_64")]
mod wide {
    use super::{Key, LANES, M, W};
    use std::arch::x86_64::*;

    /// Low and high words of eight products.
    #[target_feature(enable = "avx2")]
    #[inline]
    fn products(x: __m256i, factor: __m256i) -> (__m256i, __m256i) {
        let even = _mm256_mul_epu32(x, factor);
        let odd = _mm256_mul_epu32(_mm256_srli_epi64::<32>(x), factor);
        let low = _mm256_blend_epi32::<0xaa>(even, _mm256_slli_epi64::<32>(odd));
        let high = _mm256_blend_epi32::<0xaa>(_mm256_srli_epi64::<32>(even), odd);
        (low, high)
    }

    /// The keys of ten rounds.
    #[target_feature(enable = "avx2")]
    #[inline]
    fn keys(mut key: [u32; 2]) -> [[__m256i; 2]; 10] {
        let mut keys = [[_mm256_setzero_si256(); 2]; 10];
        for round in &mut keys {
            *round = [_mm256_set1_epi32(key[0] as i32), _mm256_set1_epi32(key[1] as i32)];
            key = [key[0].wrapping_add(W[0]), key[1].wrapping_add(W[1])];
        }
        keys
    }

    #[target_feature(enable = "avx2")]
    #[inline]
    fn round(c: [__m256i; 4], key: &[__m256i; 2]) -> [__m256i; 4] {
        let factors = [_mm256_set1_epi64x(M[0] as i64), _mm256_set1_epi64x(M[1] as i64)];
        let (a_low, a_high) = products(c[0], factors[0]);
        let (b_low, b_high) = products(c[2], factors[1]);
        [
            _mm256_xor_si256(_mm256_xor_si256(c[1], key[0]), b_high),
            b_low,
            _mm256_xor_si256(_mm256_xor_si256(c[3], key[1]), a_high),
            a_low,
        ]
    }

    /// Ten rounds for eight counters, written out so that no number goes to memory.
    #[target_feature(enable = "avx2")]
    #[inline]
    fn rounds(c: [__m256i; 4], keys: &[[__m256i; 2]; 10]) -> [__m256i; 4] {
        let c = round(round(round(c, &keys[0]), &keys[1]), &keys[2]);
        let c = round(round(round(c, &keys[3]), &keys[4]), &keys[5]);
        round(round(round(round(c, &keys[6]), &keys[7]), &keys[8]), &keys[9])
    }

    #[target_feature(enable = "avx2")]
    #[inline]
    fn uniforms(words: __m256i) -> __m256 {
        let scale = _mm256_set1_ps(1.0 / 16_777_216.0);
        _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_srli_epi32::<8>(words)), scale)
    }

    /// Low and high words of the counters from `first`.
    #[target_feature(enable = "avx2")]
    #[inline]
    fn counters(first: u64) -> [__m256i; 2] {
        let steps = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
        let low = _mm256_add_epi32(_mm256_set1_epi32(first as i32), steps);
        if first as u32 <= u32::MAX - 7 {
            return [low, _mm256_set1_epi32((first >> 32) as i32)];
        }
        let mut high = [0_i32; 8];
        for (i, high) in high.iter_mut().enumerate() {
            *high = ((first + i as u64) >> 32) as i32;
        }
        let [a, b, c, d, e, f, g, h] = high;
        [low, _mm256_setr_epi32(a, b, c, d, e, f, g, h)]
    }

    /// The uniforms of the blocks from `block`.
    #[target_feature(enable = "avx2")]
    pub(super) fn fill(key: &Key, block: u64, chunks: &mut [[f32; 4 * LANES]]) {
        let stream =
            [_mm256_set1_epi32(key.stream[0] as i32), _mm256_set1_epi32(key.stream[1] as i32)];
        let keys = keys(key.key);
        for (chunk, first) in chunks.iter_mut().zip((block..).step_by(LANES)) {
            let [low, high] = counters(first);
            let [a, b, c, d] = rounds([low, high, stream[0], stream[1]], &keys);
            // Lane i holds block i's four words one under the other: turned, they lie in a row.
            let (ab_low, ab_high) = (_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
            let (cd_low, cd_high) = (_mm256_unpacklo_epi32(c, d), _mm256_unpackhi_epi32(c, d));
            let turned = [
                _mm256_unpacklo_epi64(ab_low, cd_low),
                _mm256_unpackhi_epi64(ab_low, cd_low),
                _mm256_unpacklo_epi64(ab_high, cd_high),
                _mm256_unpackhi_epi64(ab_high, cd_high),
            ];
            let [w, x, y, z] = turned;
            let turned = [
                _mm256_permute2x128_si256::<0x20>(w, x),
                _mm256_permute2x128_si256::<0x20>(y, z),
                _mm256_permute2x128_si256::<0x31>(w, x),
                _mm256_permute2x128_si256::<0x31>(y, z),
            ];
            let rows = chunk.as_chunks_mut::<8>().0;
            for (out, words) in rows.iter_mut().zip(turned) {
                // SAFETY: `out` has room for eight numbers; the store needs no alignment.
                unsafe { _mm256_storeu_ps(out.as_mut_ptr(), uniforms(words)) };
            }
        }
    }
}

/// Blocks that [`Key::fill`] makes at once.
const LANES: usize = 8;

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

/// Ten rounds for `N` counters at once.
#[inline(always)]
fn philox<const N: usize>(mut counter: [[u32; N]; 4], mut key: [u32; 2]) -> [[u32; N]; 4] {
    for _ in 0..10 {
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
        key = [key[0].wrapping_add(W[0]), key[1].wrapping_add(W[1])];
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
