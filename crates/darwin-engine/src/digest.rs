//! Fingerprints layers while they are read, to detect identical ones.

use darwin_checkpoint::{Tapped, TensorSource};
use std::sync::{Mutex, PoisonError};

/// Odd constants (the golden ratio's fraction, and a prime of xxHash).
const FACTORS: [u64; 2] = [0x9e37_79b9_7f4a_7c15, 0xc2b2_ae3d_27d4_eb4f];

/// Adds up a digest of 128 bits of the tiles that are read of each layer of a source: equal where
/// the same tiles hold the same bits, whatever the order of reading, and else almost surely
/// different.
pub(crate) struct Digests<'a> {
    source: &'a dyn TensorSource,
    /// By layer.
    sums: Vec<Mutex<[u64; 2]>>,
}

impl<'a> Digests<'a> {
    pub(crate) fn new(source: &'a dyn TensorSource) -> Self {
        let layers = source.manifest().tensors().iter().filter_map(|t| t.layer);
        let count = layers.map(|layer| layer.0 + 1).max().unwrap_or(0);
        Self { source, sums: (0..count).map(|_| Mutex::default()).collect() }
    }

    /// The source, to be read by whoever needs it.
    pub(crate) fn source(&self) -> impl TensorSource {
        Tapped::new(self.source, |plan, rows, read| {
            let layer = self.source.manifest().get(plan.id).layer;
            if let (Ok(values), Some(layer)) = (read, layer) {
                let own = digest([plan.id.index(), rows.start], values);
                let mut sum = self.sums[layer.0].lock().unwrap_or_else(PoisonError::into_inner);
                sum.iter_mut().zip(own).for_each(|(sum, own)| *sum = sum.wrapping_add(own));
            }
        })
    }

    /// What the tiles of a layer add up to, from now on nothing.
    pub(crate) fn take(&self, layer: usize) -> [u64; 2] {
        let mut sum = self.sums[layer].lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut sum)
    }
}

/// A digest of values that begin at some place.
pub(crate) fn digest(place: [usize; 2], values: &[f32]) -> [u64; 2] {
    let mut state = FACTORS.map(|f| (place[0] as u64).wrapping_mul(f) ^ place[1] as u64);
    let mut step = |word: u64| {
        for (state, factor) in state.iter_mut().zip(FACTORS) {
            *state = (state.rotate_left(29) ^ word).wrapping_mul(factor);
        }
    };
    let (pairs, rest) = values.as_chunks::<2>();
    for [a, b] in pairs {
        step(u64::from(a.to_bits()) << 32 | u64::from(b.to_bits()));
    }
    rest.iter().for_each(|v| step(u64::from(v.to_bits())));
    step(values.len() as u64);
    state.map(|s| s ^ s >> 32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_bit_or_place_changes_the_digest() {
        let values: Vec<f32> = (0..1001).map(|i| i as f32 * 0.37).collect();
        let whole = digest([3, 0], &values);
        assert_eq!(digest([3, 0], &values), whole);
        assert_ne!(digest([3, 1], &values), whole);
        assert_ne!(digest([2, 0], &values), whole);
        assert_ne!(digest([3, 0], &values[..1000]), whole);
        for i in [0, 1, 500, 1000] {
            let mut other = values.clone();
            other[i] = f32::from_bits(other[i].to_bits() ^ 1);
            assert!(digest([3, 0], &other).iter().zip(whole).all(|(a, b)| *a != b), "{i}");
        }
    }
}
