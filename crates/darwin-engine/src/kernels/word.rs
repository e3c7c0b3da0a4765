//! How the elements of a packed matrix are stored.

use super::simd::Simd;

/// An element, or two that share a word.
pub(super) trait Word: Copy + Send + Sync {
    /// Whether it takes less room than float32.
    const NARROW: bool;

    /// Whether a word holds two bfloat16 inputs, and is a `u32`.
    const PAIRS: bool = false;

    /// Reads a vector of columns at depth `k`, odd or even.
    ///
    /// # Safety
    /// The instruction set of `V` is available. `w` points to some columns at depth 0 of a panel
    /// whose lines are `row` elements apart, and the line of depth `k` has `V::LANES` elements from
    /// there on. `ODD` says whether `k` is odd.
    unsafe fn load<V: Simd, const ODD: bool>(w: *const Self, k: usize, row: usize) -> V;

    /// The line of a panel that holds depth `k`.
    fn line(k: usize) -> usize;

    /// The address of depth `k`, in bounds or not.
    #[inline(always)]
    fn at(w: *const Self, k: usize, row: usize) -> *const f32 {
        w.wrapping_add(Self::line(k) * row).cast()
    }
}

/// float32.
impl Word for f32 {
    const NARROW: bool = false;

    #[inline(always)]
    unsafe fn load<V: Simd, const ODD: bool>(w: *const Self, k: usize, row: usize) -> V {
        // SAFETY: line `k` begins `k * row` elements on, with `V::LANES` readable values; the caller
        // has the instruction set.
        unsafe { V::load(w.add(k * row)) }
    }

    #[inline(always)]
    fn line(k: usize) -> usize {
        k
    }
}

/// Two inputs in bfloat16.
impl Word for u32 {
    const NARROW: bool = true;
    const PAIRS: bool = true;

    #[inline(always)]
    unsafe fn load<V: Simd, const ODD: bool>(w: *const Self, k: usize, row: usize) -> V {
        // SAFETY: a line holds two depths, so that of `k` begins `k / 2 * row` words on, with
        // `V::LANES` readable ones; the caller has the instruction set.
        unsafe {
            let w = w.add(k / 2 * row);
            if ODD { V::load_high(w) } else { V::load_low(w) }
        }
    }

    #[inline(always)]
    fn line(k: usize) -> usize {
        k / 2
    }
}

/// float16.
impl Word for u16 {
    const NARROW: bool = true;

    #[inline(always)]
    unsafe fn load<V: Simd, const ODD: bool>(w: *const Self, k: usize, row: usize) -> V {
        // SAFETY: line `k` begins `k * row` numbers on, with `V::LANES` readable ones; the caller has
        // the instruction set.
        unsafe { V::load_half(w.add(k * row)) }
    }

    #[inline(always)]
    fn line(k: usize) -> usize {
        k
    }
}
