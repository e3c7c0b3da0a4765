//! The inner loops. Plain multiply and add in f32, sums in f64 over eight fixed lanes, so that the
//! bits are the same on every processor; AVX2 is used where there is one. Nothing is fused but
//! where `mul_add` says so.

use darwin_core::vectorised;

vectorised! {
    /// `values *= factor`.
    pub(crate) fn scale(values: &mut [f32], factor: f32) {
        for v in values {
            *v *= factor;
        }
    }
}

vectorised! {
    /// `sum += factor * x`.
    pub(crate) fn add_scaled(sum: &mut [f32], x: &[f32], factor: f32) {
        for (s, x) in sum.iter_mut().zip(x) {
            *s += factor * *x;
        }
    }
}

vectorised! {
    /// `a = wa * a + wb * b`.
    fn sum_of_two(a: &mut [f32], b: &[f32], wa: f32, wb: f32) {
        for (a, b) in a.iter_mut().zip(b) {
            *a = wa * *a + wb * *b;
        }
    }
}

vectorised! {
    /// `b = wa * a + wb * b`, where both are equal `a`. Written to `b`: to `a` it would be a masked
    /// store, which takes some processors ten times as long.
    fn blend_unequal(a: &[f32], b: &mut [f32], wa: f32, wb: f32) {
        for (a, b) in a.iter().zip(b) {
            let mixed = wa * *a + wb * *b;
            *b = if *a == *b { *a } else { mixed };
        }
    }
}

/// `a = wa * a + wb * b`; where `convex`, equal elements stay as they are. `b` is lost.
pub(crate) fn blend(a: &mut [f32], b: &mut [f32], wa: f32, wb: f32, convex: bool) {
    if convex {
        blend_unequal(a, b, wa, wb);
        a.copy_from_slice(b);
    } else {
        sum_of_two(a, b, wa, wb);
    }
}

vectorised! {
    /// `x = (x - base) * factor`.
    pub(crate) fn delta(x: &mut [f32], base: &[f32], factor: f32) {
        for (x, base) in x.iter_mut().zip(base) {
            *x = (*x - *base) * factor;
        }
    }
}

vectorised! {
    /// `x = (x - base) * factor` where the uniform number is below the density, else 0.
    pub(crate) fn random_delta(x: &mut [f32], base: &[f32], uniforms: &[f32], density: f32, factor: f32) {
        for ((x, base), u) in x.iter_mut().zip(base).zip(uniforms) {
            let value = (*x - *base) * factor;
            *x = if *u < density { value } else { 0.0 };
        }
    }
}

vectorised! {
    /// The same where the mask has a bit, `x` being as many elements as `words` have bits.
    pub(crate) fn masked_delta(x: &mut [f32], base: &[f32], words: &[u64], factor: f32) {
        let (x, base) = (x.as_chunks_mut::<64>().0, base.as_chunks::<64>().0);
        for ((x, base), word) in x.iter_mut().zip(base).zip(words) {
            let bytes = word.to_le_bytes();
            for i in 0..64 {
                let value = (x[i] - base[i]) * factor;
                let stays = u32::from(bytes[i / 8]) >> (i % 8) & 1 == 1;
                x[i] = if stays { value } else { 0.0 };
            }
        }
    }
}

vectorised! {
    /// Adds to the lanes of the sums of magnitudes of `x - base`, of all and of those for which the
    /// mask has a bit; `x` is as many elements as `words` have bits.
    pub(crate) fn masked_norms(x: &[f32], base: &[f32], words: &[u64], sums: &mut [[f64; LANES]; 2]) {
        let [mut before, mut after] = *sums;
        let inputs = x.as_chunks::<64>().0.iter().zip(base.as_chunks::<64>().0);
        for ((x, base), word) in inputs.zip(words) {
            let bytes = word.to_le_bytes();
            // Two loops, each of which the compiler makes vectors of.
            let (mut all, mut kept) = ([0.0; 64], [0.0; 64]);
            for i in 0..64 {
                let magnitude = (x[i] - base[i]).abs();
                let stays = u32::from(bytes[i / 8]) >> (i % 8) & 1 == 1;
                all[i] = magnitude;
                kept[i] = if stays { magnitude } else { 0.0 };
            }
            let groups = all.as_chunks::<LANES>().0.iter().zip(kept.as_chunks::<LANES>().0);
            for (all, kept) in groups {
                for i in 0..LANES {
                    before[i] += f64::from(all[i]);
                    after[i] += f64::from(kept[i]);
                }
            }
        }
        *sums = [before, after];
    }
}

vectorised! {
    /// `x = (x - base) * factor` where the magnitude lies above the threshold, else 0; elements at
    /// the threshold stay among the first `ties` ones of the slice.
    pub(crate) fn trimmed_delta(x: &mut [f32], base: &[f32], threshold: u32, ties: usize, factor: f32) {
        let (head, tail) = x.split_at_mut(ties.min(x.len()));
        let (head_base, tail_base) = base.split_at(head.len());
        for (x, base) in head.iter_mut().zip(head_base) {
            let d = *x - *base;
            *x = if d.to_bits() & 0x7fff_ffff >= threshold { d * factor } else { 0.0 };
        }
        for (x, base) in tail.iter_mut().zip(tail_base) {
            let d = *x - *base;
            *x = if d.to_bits() & 0x7fff_ffff > threshold { d * factor } else { 0.0 };
        }
    }
}

vectorised! {
    /// `sum = sum + factor * x`, rounded once: what torch's fused multiply-add gives.
    pub(crate) fn add_scaled_fused(sum: &mut [f32], x: &[f32], factor: f32) {
        for (s, x) in sum.iter_mut().zip(x) {
            *s = factor.mul_add(*x, *s);
        }
    }
}

vectorised! {
    /// `x * mask`, where the uniform number is below the density.
    pub(crate) fn keep_random(x: &mut [f32], uniforms: &[f32], density: f32) {
        for (x, u) in x.iter_mut().zip(uniforms) {
            *x *= f32::from(u8::from(*u < density));
        }
    }
}

vectorised! {
    /// `x * mask`, where the magnitude lies above the threshold, or at it among the first `ties`
    /// elements.
    pub(crate) fn keep_largest(x: &mut [f32], threshold: u32, ties: usize) {
        let (head, tail) = x.split_at_mut(ties.min(x.len()));
        for x in head {
            *x *= f32::from(u8::from(x.to_bits() & 0x7fff_ffff >= threshold));
        }
        for x in tail {
            *x *= f32::from(u8::from(x.to_bits() & 0x7fff_ffff > threshold));
        }
    }
}

vectorised! {
    /// `values / divisor`.
    pub(crate) fn divide_by(values: &mut [f32], divisor: f32) {
        for v in values {
            *v /= divisor;
        }
    }
}

vectorised! {
    /// `base + lambda * mixed`, the base itself where nothing is added.
    pub(crate) fn add_mixed(base: &mut [f32], mixed: &[f32], lambda: f32) {
        for (base, mixed) in base.iter_mut().zip(mixed) {
            let added = *mixed * lambda;
            // Nothing changes where -0 is added, not even a zero's sign.
            *base += if added == 0.0 { -0.0 } else { added };
        }
    }
}

vectorised! {
    /// Adds to `mixed` and `weights` where the vector has the elected sign; zeros never match.
    pub(crate) fn elect(mixed: &mut [f32], weights: &mut [f32], v: &[f32], sums: &[f32], weight: f32) {
        for (((mixed, weights), v), sum) in mixed.iter_mut().zip(weights).zip(v).zip(sums) {
            let elected = ((*sum >= 0.0) & (*v > 0.0)) | ((*sum < 0.0) & (*v < 0.0));
            *mixed += if elected { *v } else { 0.0 };
            *weights += if elected { weight } else { 0.0 };
        }
    }
}

vectorised! {
    /// `mixed / weights`, where the weights are 0 unchanged.
    pub(crate) fn divide(mixed: &mut [f32], weights: &[f32]) {
        for (mixed, weight) in mixed.iter_mut().zip(weights) {
            *mixed /= if *weight == 0.0 { 1.0 } else { *weight };
        }
    }
}

vectorised! {
    /// Adds to the lanes of `[a.a, b.b, a.b]`.
    pub(crate) fn dots(a: &[f32], b: &[f32], sums: &mut [[f64; LANES]; 3]) {
        let mut lanes = *sums;
        let (a_chunks, a_rest) = a.as_chunks::<LANES>();
        let (b_chunks, b_rest) = b.as_chunks::<LANES>();
        for (a, b) in a_chunks.iter().zip(b_chunks) {
            for i in 0..LANES {
                let (x, y) = (f64::from(a[i]), f64::from(b[i]));
                lanes[0][i] += x * x;
                lanes[1][i] += y * y;
                lanes[2][i] += x * y;
            }
        }
        for (i, (a, b)) in a_rest.iter().zip(b_rest).enumerate() {
            let (x, y) = (f64::from(*a), f64::from(*b));
            lanes[0][i] += x * x;
            lanes[1][i] += y * y;
            lanes[2][i] += x * y;
        }
        *sums = lanes;
    }
}

vectorised! {
    /// `a.b`.
    pub(crate) fn dot(a: &[f32], b: &[f32]) -> f64 {
        let mut lanes = [0.0_f64; 8];
        let (a_chunks, a_rest) = a.as_chunks::<8>();
        let (b_chunks, b_rest) = b.as_chunks::<8>();
        for (a, b) in a_chunks.iter().zip(b_chunks) {
            for i in 0..8 {
                lanes[i] += f64::from(a[i]) * f64::from(b[i]);
            }
        }
        for (i, (a, b)) in a_rest.iter().zip(b_rest).enumerate() {
            lanes[i] += f64::from(*a) * f64::from(*b);
        }
        lanes.iter().sum()
    }
}

vectorised! {
    /// `(a - base).(b - base)`.
    pub(crate) fn dot_deltas(a: &[f32], b: &[f32], base: &[f32]) -> f64 {
        let mut lanes = [0.0_f64; 8];
        let (a_chunks, a_rest) = a.as_chunks::<8>();
        let (b_chunks, b_rest) = b.as_chunks::<8>();
        let (base_chunks, base_rest) = base.as_chunks::<8>();
        for ((a, b), base) in a_chunks.iter().zip(b_chunks).zip(base_chunks) {
            for i in 0..8 {
                let base = f64::from(base[i]);
                lanes[i] += (f64::from(a[i]) - base) * (f64::from(b[i]) - base);
            }
        }
        for (i, ((a, b), base)) in a_rest.iter().zip(b_rest).zip(base_rest).enumerate() {
            let base = f64::from(*base);
            lanes[i] += (f64::from(*a) - base) * (f64::from(*b) - base);
        }
        lanes.iter().sum()
    }
}

vectorised! {
    /// `base + sum of coefficient * (model - base)`, without a base the sum of products; in f64,
    /// rounded once.
    pub(crate) fn combine(models: &[&[f32]], base: Option<&[f32]>, coefficients: &[f64], out: &mut [f32]) {
        let own = 1.0 - coefficients.iter().sum::<f64>();
        for (at, out) in out.iter_mut().enumerate() {
            let mut sum = base.map_or(0.0, |base| own * f64::from(base[at]));
            for (model, coefficient) in models.iter().zip(coefficients) {
                sum += coefficient * f64::from(model[at]);
            }
            *out = sum as f32;
        }
    }
}

vectorised! {
    /// `x * mask`, where the magnitude lies above the lower edge and not above the upper one;
    /// elements at an edge count as above it among the first ones of the slice, as many as the
    /// edge says.
    pub(crate) fn keep_band(x: &mut [f32], lower: (u32, usize), upper: (u32, usize)) {
        for (at, x) in x.iter_mut().enumerate() {
            let bits = x.to_bits() & 0x7fff_ffff;
            let stays = bits > lower.0 || (bits == lower.0 && at < lower.1);
            let goes = bits > upper.0 || (bits == upper.0 && at < upper.1);
            *x *= f32::from(u8::from(stays && !goes));
        }
    }
}

vectorised! {
    /// `x = (x - base) * factor` where the uniform number is below the element's own chance, else 0.
    pub(crate) fn ranked_delta(x: &mut [f32], base: &[f32], uniforms: &[f32], chances: &[f32], factor: f32) {
        let numbers = uniforms.iter().zip(chances);
        for ((x, base), (u, chance)) in x.iter_mut().zip(base).zip(numbers) {
            let value = (*x - *base) * factor;
            *x = if *u < *chance { value } else { 0.0 };
        }
    }
}

vectorised! {
    /// Adds to the lanes of the sum of magnitudes of `x - base`.
    pub(crate) fn l1_delta(x: &[f32], base: &[f32], sums: &mut [f64; LANES]) {
        let mut lanes = *sums;
        let (chunks, rest) = x.as_chunks::<LANES>();
        let (base_chunks, base_rest) = base.as_chunks::<LANES>();
        for (x, base) in chunks.iter().zip(base_chunks) {
            for i in 0..LANES {
                lanes[i] += f64::from((x[i] - base[i]).abs());
            }
        }
        for (i, (x, base)) in rest.iter().zip(base_rest).enumerate() {
            lanes[i] += f64::from((x - base).abs());
        }
        *sums = lanes;
    }
}

vectorised! {
    /// Adds to the lanes of the sum of magnitudes.
    pub(crate) fn l1(values: &[f32], sums: &mut [f64; LANES]) {
        let mut lanes = *sums;
        let (chunks, rest) = values.as_chunks::<LANES>();
        for chunk in chunks {
            for i in 0..LANES {
                lanes[i] += f64::from(chunk[i].abs());
            }
        }
        for (i, v) in rest.iter().enumerate() {
            lanes[i] += f64::from(v.abs());
        }
        *sums = lanes;
    }
}

/// Lanes of a sum that is added up piece by piece: element `i` of a tile goes to lane `i % LANES`.
pub(crate) const LANES: usize = 8;

/// The sum of all lanes.
pub(crate) fn sum(lanes: [f64; LANES]) -> f64 {
    lanes.iter().sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_elected_sign_of_an_exact_zero_is_plus() {
        let (mut mixed, mut weights) = ([0.0; 3], [0.0; 3]);
        let sums = [0.0, -1.0, 2.0];
        elect(&mut mixed, &mut weights, &[1.0, 1.0, 0.0], &sums, 0.5);
        elect(&mut mixed, &mut weights, &[-1.0, -2.0, 2.0], &sums, 0.25);
        assert_eq!(mixed, [1.0, -2.0, 2.0]);
        assert_eq!(weights, [0.5, 0.25, 0.25]);
    }

    #[test]
    fn ties_at_the_threshold_stay_lowest_index_first() {
        let mut x = [1.0, -2.0, 2.0, 3.0, 2.0];
        trimmed_delta(&mut x, &[0.0; 5], 2.0_f32.to_bits(), 2, 1.0);
        assert_eq!(x, [0.0, -2.0, 0.0, 3.0, 0.0]);
    }
}
