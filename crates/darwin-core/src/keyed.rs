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
        philox([counter as u32, (counter >> 32) as u32, self.stream[0], self.stream[1]], self.key)
    }

    /// The uniform number in [0, 1) of an element, 24 bits.
    #[must_use]
    pub fn uniform(&self, element: u64) -> f32 {
        let word = self.block(element / 4)[(element % 4) as usize];
        (word >> 8) as f32 / 16_777_216.0
    }

    /// Fills `out` with the uniforms of the elements `first..first + out.len()`.
    pub fn fill(&self, first: u64, out: &mut [f32]) {
        let mut block = [0; 4];
        let mut current = u64::MAX;
        for (i, value) in out.iter_mut().enumerate() {
            let element = first + i as u64;
            if element / 4 != current {
                current = element / 4;
                block = self.block(current);
            }
            *value = (block[(element % 4) as usize] >> 8) as f32 / 16_777_216.0;
        }
    }
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

fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    const M: [u64; 2] = [0xD251_1F53, 0xCD9E_8D57];
    const W: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
    for _ in 0..10 {
        let a = M[0] * u64::from(counter[0]);
        let b = M[1] * u64::from(counter[2]);
        counter = [
            (b >> 32) as u32 ^ counter[1] ^ key[0],
            b as u32,
            (a >> 32) as u32 ^ counter[3] ^ key[1],
            a as u32,
        ];
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
        assert_eq!(philox([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(
            philox([u32::MAX; 4], [u32::MAX; 2]),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
    }

    #[test]
    fn fill_equals_uniform() {
        let key = Key::new(42, &["a", "b"]);
        let mut out = [0.0; 11];
        key.fill(3, &mut out);
        for (i, v) in out.iter().enumerate() {
            assert_eq!(*v, key.uniform(3 + i as u64));
        }
        assert_ne!(Key::new(42, &["ab", ""]), key);
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
