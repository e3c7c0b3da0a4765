//! Thinning out task vectors (mergekit 0.1.5, `sparsify.py`).

use super::Sparsifier;

/// What happens to one task vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Thin {
    /// Every element stays.
    All,
    /// None does.
    Nothing,
    /// Elements stay by chance, or by a mask that was handed over.
    Random,
    /// The largest magnitudes stay.
    Magnitude,
    /// The largest magnitudes stay, but for outliers.
    Outliers,
    /// Elements stay by chance, the larger in their row the likelier.
    Ranked,
}

impl Thin {
    /// Whether some elements stay and some do not.
    pub(crate) fn in_part(self) -> bool {
        !matches!(self, Self::All | Self::Nothing)
    }
}

/// What a sparsifier does at a density; `masked` where masks were handed over.
pub(crate) fn thin(sparsifier: Sparsifier, density: f64, masked: bool) -> Thin {
    match sparsifier {
        Sparsifier::None => Thin::All,
        _ if density >= 1.0 => Thin::All,
        _ if density <= 0.0 => Thin::Nothing,
        Sparsifier::Magnitude if !masked => Thin::Magnitude,
        Sparsifier::Outliers if !masked => Thin::Outliers,
        Sparsifier::Ranked if !masked => Thin::Ranked,
        _ => Thin::Random,
    }
}

/// A magnitude (its bits) and a flat index in the unit: larger elements lie above this edge, and
/// those of this magnitude before the index.
pub(crate) type Edge = (u32, u64);

/// No element lies above.
pub(crate) const ABOVE_ALL: Edge = (u32::MAX, 0);

/// All elements do.
pub(crate) const BELOW_ALL: Edge = (0, u64::MAX);

/// The edges between which elements stay.
pub(crate) type Cut = [Edge; 2];

/// How many of `n` elements lie above each edge of magnitude trimming without its outliers: the
/// share `gamma` is dropped as too large, fewer where the density wants more elements
/// (arXiv 2312.06795; mergekit 0.1.5, `sparsify.py`).
pub(crate) fn band(density: f64, gamma: f64, n: usize) -> [u64; 2] {
    let wanted = (density * n as f64) as u64;
    let outliers = ((gamma * n as f64) as u64).min(n as u64 - wanted);
    [wanted + outliers, outliers]
}

/// How many of `n` elements magnitude trimming keeps.
pub(crate) fn kept(density: f64, n: usize) -> u64 {
    ((density * n as f64) as u64).max(1)
}

/// The factor that gives a thinned vector the L1 norm that it had.
pub(crate) fn rescale(before: f64, after: f64) -> f64 {
    if before < 1e-7 || after < 1e-7 { 1.0 } else { before / after }
}

/// The number of the magnitude bits' high half; the low half has the other 15.
pub(crate) const BUCKETS: usize = 1 << 16;

/// High bits of a magnitude: its bucket in the first pass.
pub(crate) fn high(value: f32) -> usize {
    ((value.to_bits() & 0x7fff_ffff) >> 15) as usize
}

/// Low bits of a magnitude: its bucket in the second pass.
pub(crate) fn low(value: f32) -> usize {
    (value.to_bits() & 0x7fff) as usize
}

/// The bucket that holds the `wanted`-th largest element (from 1), and how many of this bucket's
/// elements are wanted.
pub(crate) fn bucket(counts: &[u64], wanted: u64) -> (usize, u64) {
    let mut left = wanted;
    for (bucket, count) in counts.iter().enumerate().rev() {
        if left <= *count {
            return (bucket, left);
        }
        left -= count;
    }
    (0, counts.first().copied().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outliers_give_way_to_the_density() {
        assert_eq!(band(0.5, 0.1, 100), [60, 10]);
        assert_eq!(band(0.95, 0.1, 100), [100, 5]);
        assert_eq!(band(0.5, 0.01, 10), [5, 0]);
        assert_eq!(band(0.05, 0.01, 10), [0, 0]);
    }
}
