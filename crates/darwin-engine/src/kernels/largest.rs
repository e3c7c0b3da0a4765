//! The largest values of a row.

use super::rows::{LANES, max_lanes};
#[cfg(target_arch = "x86_64")]
use super::simd::{Avx2, Avx512};
use super::simd::{Isa, Portable, Simd, isa};
use darwin_core::vectorised;

/// Widest rows that stay in registers.
const IN_REGISTERS: usize = 64;

/// The `k` largest values of each row of `width`, falling, and where they are, the first of equals
/// first. The rows are used up. Where a value is not finite, its place is any below the width.
pub(crate) fn largest(
    rows: &mut [f32],
    width: usize,
    values: &mut [f32],
    at: &mut [u32],
    k: usize,
) {
    if width > IN_REGISTERS {
        return largest_of_wide(rows, width, values, at, k);
    }
    let job = Job { rows, width, values, at, k };
    // SAFETY: `isa` has detected the instruction set of the function that is called.
    unsafe {
        match isa() {
            Isa::Portable => job.run_portable(),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => job.run_avx2(),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => job.run_avx512(),
        }
    }
}

/// What [`largest`] is asked for rows of at most [`IN_REGISTERS`].
struct Job<'a> {
    rows: &'a [f32],
    width: usize,
    values: &'a mut [f32],
    at: &'a mut [u32],
    k: usize,
}

impl Job<'_> {
    fn run_portable(self) {
        // SAFETY: `Portable` needs no instruction set; `largest` gives no wider rows.
        unsafe { self.run::<Portable, 1, 2, 4, 8>() }
    }

    /// # Safety
    /// The processor has AVX2, FMA and F16C.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma,f16c")]
    fn run_avx2(self) {
        // SAFETY: this function is compiled for the instruction set of `Avx2`.
        unsafe { self.run::<Avx2, 1, 2, 4, 8>() }
    }

    /// # Safety
    /// The processor has AVX-512F.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f")]
    fn run_avx512(self) {
        // SAFETY: this function is compiled for the instruction set of `Avx512`.
        unsafe { self.run::<Avx512, 1, 1, 2, 4>() }
    }

    /// In as many vectors as a row of 8, 16, 32 or 64 has.
    ///
    /// # Safety
    /// The instruction set of `V` is available.
    #[inline(always)]
    unsafe fn run<
        V: Simd,
        const N8: usize,
        const N16: usize,
        const N32: usize,
        const N64: usize,
    >(
        self,
    ) {
        // SAFETY: the caller has the instruction set.
        unsafe {
            match self.width {
                0..=8 => self.each::<V, N8>(),
                9..=16 => self.each::<V, N16>(),
                17..=32 => self.each::<V, N32>(),
                _ => self.each::<V, N64>(),
            }
        }
    }

    /// Rows in `N` vectors.
    ///
    /// # Safety
    /// The instruction set of `V` is available.
    #[inline(always)]
    unsafe fn each<V: Simd, const N: usize>(self) {
        let Self { rows, width, values, at, k } = self;
        assert!(0 < width && width <= N * V::LANES && N * V::LANES <= IN_REGISTERS);
        let chosen = values.chunks_exact_mut(k).zip(at.chunks_exact_mut(k));
        let mut edge = [f32::NEG_INFINITY; IN_REGISTERS];
        for (row, (values, at)) in rows.chunks_exact(width).zip(chosen) {
            // SAFETY: the caller has the instruction set. `from` has `N * V::LANES` readable values:
            // the row's own where it has so many, else those of `edge`, which has IN_REGISTERS.
            unsafe {
                let mut from = row.as_ptr();
                if width < N * V::LANES {
                    edge[..width].copy_from_slice(row);
                    from = edge.as_ptr();
                }
                let lowest = V::splat(f32::NEG_INFINITY);
                let mut left = [lowest; N];
                for (n, left) in left.iter_mut().enumerate() {
                    *left = V::load(from.add(n * V::LANES));
                }
                for (value, at) in values.iter_mut().zip(at) {
                    // Of a NaN and a number the larger one is the number.
                    let largest = left.iter().fold(lowest, |most, some| some.max(most));
                    *value = largest.largest_lane();
                    let wanted = V::splat(*value);
                    let mut equal = 0;
                    for (n, left) in left.iter().enumerate() {
                        equal |= u64::from(left.equal(wanted)) << (n * V::LANES);
                    }
                    // Lanes beyond the row and values that were taken are negative infinity, too.
                    *at = equal.trailing_zeros().min(width as u32 - 1);
                    let taken = equal & equal.wrapping_neg();
                    for (n, left) in left.iter_mut().enumerate() {
                        *left = left.select(lowest, (taken >> (n * V::LANES)) as u32);
                    }
                }
            }
        }
    }
}

/// Where a value stands first; 0 where it does not.
#[inline(always)]
fn first_lanes(row: &[f32], value: f32) -> u32 {
    let mut lanes = [u32::MAX; LANES];
    let (chunks, rest) = row.as_chunks::<LANES>();
    for (c, chunk) in chunks.iter().enumerate().rev() {
        for i in 0..LANES {
            let at = (c * LANES + i) as u32;
            lanes[i] = if chunk[i] == value { at } else { lanes[i] };
        }
    }
    let first = lanes.iter().fold(u32::MAX, |first, at| first.min(*at));
    if first < u32::MAX {
        return first;
    }
    let rest = rest.iter().position(|v| *v == value).map(|i| chunks.len() * LANES + i);
    rest.unwrap_or(0) as u32
}

vectorised! {
    /// [`largest`] of rows of any width.
    fn largest_of_wide(
        rows: &mut [f32],
        width: usize,
        values: &mut [f32],
        at: &mut [u32],
        k: usize,
    ) {
        let chosen = values.chunks_exact_mut(k).zip(at.chunks_exact_mut(k));
        for (row, (values, at)) in rows.chunks_exact_mut(width).zip(chosen) {
            for (value, at) in values.iter_mut().zip(at) {
                *value = max_lanes(row);
                *at = first_lanes(row, *value);
                if let Some(taken) = row.get_mut(*at as usize) {
                    *taken = f32::NEG_INFINITY;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use darwin_core::keyed::{Key, Rng};

    #[test]
    fn rows_of_every_width_and_instruction_set_give_what_sorting_does() {
        for width in [1, 3, 8, 13, 16, 32, 40, 64, 65, 256] {
            let mut rng = Rng::new(Key::new(1, &["largest"]), 0);
            // few values, so that many are equal; some cannot be chosen
            let value = |_| match rng.below(9) {
                0 => f32::NEG_INFINITY,
                1 => -0.0,
                some => some as f32 - 4.0,
            };
            let rows: Vec<f32> = (0..20 * width).map(value).collect();
            let k = width.min(5);
            let (mut want, mut want_at) = (Vec::new(), Vec::new());
            for row in rows.chunks(width) {
                let mut order: Vec<u32> = (0..width as u32).collect();
                order.sort_by(|a, b| row[*b as usize].partial_cmp(&row[*a as usize]).unwrap());
                let chosen = order[..k].iter().copied();
                // one that cannot be chosen stands for all of them
                let chosen = chosen.map(|i| (row[i as usize], i));
                for (value, i) in chosen {
                    want.push(value);
                    want_at.push(if value == f32::NEG_INFINITY { None } else { Some(i) });
                }
            }
            type Run = fn(&mut [f32], usize, &mut [f32], &mut [u32], usize);
            let portable: Run = |rows, width, values, at, k| {
                Job { rows, width, values, at, k }.run_portable();
            };
            let mut ways: Vec<Run> = vec![largest, largest_of_wide];
            ways.extend((width <= IN_REGISTERS).then_some(portable));
            for way in ways {
                let (mut values, mut at) = (vec![0.0; want.len()], vec![0; want.len()]);
                way(&mut rows.clone(), width, &mut values, &mut at, k);
                assert_eq!(values, want, "{width}");
                let known =
                    at.iter().zip(&want_at).filter_map(|(at, want)| Some((at, want.as_ref()?)));
                assert!(known.into_iter().all(|(at, want)| at == want), "{width}");
                assert!(at.iter().all(|at| (*at as usize) < width));
            }
        }
    }

    #[test]
    fn places_are_inside_the_row_whatever_it_holds() {
        for odd in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for width in [1, 4, 5, 8, 12, 31, 60, 64, 65, 100] {
                let k = width.min(4);
                let (mut values, mut at) = (vec![0.0; k], vec![u32::MAX; k]);
                largest(&mut vec![odd; width], width, &mut values, &mut at, k);
                assert!(at.iter().all(|at| (*at as usize) < width), "{odd} {width}");
                assert!(values.iter().all(|value| !value.is_finite()), "{odd} {width}");
            }
        }
    }

    #[test]
    fn numbers_come_before_nan() {
        let rows = [f32::NAN, 1.0, f32::NAN, 2.0, f32::NAN, f32::NAN, f32::NAN, f32::NAN];
        let (mut values, mut at) = ([0.0; 4], [9; 4]);
        largest(&mut rows.clone(), 8, &mut values, &mut at, 4);
        assert_eq!((&values[..2], &at[..2]), (&[2.0, 1.0][..], &[3, 1][..]));
        assert!(at.iter().all(|at| *at < 8));
    }
}
