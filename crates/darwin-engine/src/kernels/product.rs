//! The matrix product.
//!
//! `out[m, n] = sum_k x[m, k] * w[n, k]`, each element one chain of fused multiply-adds over
//! rising k. Tiles of rows and columns only decide what is computed side by side.

use super::matrix::{PANEL, Panels, Values};
#[cfg(target_arch = "x86_64")]
use super::simd::{Avx2, Avx512};
use super::simd::{Isa, Portable, Simd, isa};
use std::ops::Range;

/// Depth that is kept in the caches before the next columns are visited.
const DEPTH_BLOCK: usize = 512;

/// Which rows of the left-hand side enter a product.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Rows<'a> {
    /// The first ones.
    First(usize),
    /// Those of these numbers.
    Chosen(&'a [u32]),
}

/// `out[m, n] = sum_k x[m, k] w[k, n]` for `rows` rows of `x` (stride `x_row`) and of `out`
/// (stride `out_row`).
pub(crate) fn multiply(
    rows: usize,
    x: &[f32],
    x_row: usize,
    w: Panels<'_>,
    out: &mut [f32],
    out_row: usize,
) {
    multiply_rows(Rows::First(rows), x, x_row, w, out, out_row);
}

/// [`multiply`] of chosen rows of `x`, as many rows of `out`.
pub(crate) fn multiply_rows(
    chosen: Rows<'_>,
    x: &[f32],
    x_row: usize,
    w: Panels<'_>,
    out: &mut [f32],
    out_row: usize,
) {
    #[cfg(feature = "accelerator")]
    if let Some(weight) = w.elsewhere {
        let done = match chosen {
            Rows::First(rows) => weight.multiply(0..rows, x, x_row, out, out_row),
            Rows::Chosen(numbers) => {
                weight.multiply(numbers.iter().map(|n| *n as usize), x, x_row, out, out_row)
            }
        };
        if done {
            return;
        }
    }
    let (rows, last_row, numbers) = match chosen {
        Rows::First(rows) => (rows, rows.saturating_sub(1), std::ptr::null()),
        Rows::Chosen(numbers) => {
            let last = numbers.iter().max().map_or(0, |n| *n as usize);
            (numbers.len(), last, numbers.as_ptr())
        }
    };
    if rows == 0 || w.columns == 0 {
        return;
    }
    if w.depth == 0 {
        for row in out.chunks_mut(out_row).take(rows) {
            row[..w.columns].fill(0.0);
        }
        return;
    }
    assert!(x.len() >= last_row * x_row + w.depth, "x has all its rows");
    assert!(out.len() >= (rows - 1) * out_row + w.columns, "out has all its rows");
    assert!(out_row >= w.columns, "rows of out do not overlap");
    let last = |depth: usize| (w.columns - 1) / PANEL * w.panel + (depth - 1) * w.row + PANEL;
    let left = Left { rows, numbers, x: x.as_ptr(), x_row };
    let (out, columns, depth) = (out.as_mut_ptr(), w.columns, w.depth);
    let (w_row, w_panel) = (w.row, w.panel);
    // SAFETY: the asserts here and above bound every access of the jobs.
    unsafe {
        match w.values {
            Values::F32(data) => {
                assert!(data.len() >= last(w.depth), "w has all its panels");
                let w = data.as_ptr();
                dispatch(&Job { left, w, w_row, w_panel, columns, depth, out, out_row });
            }
            Values::Bf16(data) => {
                assert!(data.len() >= last(w.depth.div_ceil(2)), "w has all its panels");
                let w = data.as_ptr();
                dispatch(&Job { left, w, w_row, w_panel, columns, depth, out, out_row });
            }
        }
    }
}

/// How the elements of the right-hand side are stored.
trait Word: Copy {
    /// Reads a vector of columns at depth `k`, odd or even.
    ///
    /// # Safety
    /// As for [`Simd::load`]; `w` points to depth 0.
    unsafe fn load<V: Simd, const ODD: bool>(w: *const Self, k: usize, row: usize) -> V;

    /// The address of depth `k`, in bounds or not.
    fn at(w: *const Self, k: usize, row: usize) -> *const f32;
}

impl Word for f32 {
    #[inline(always)]
    unsafe fn load<V: Simd, const ODD: bool>(w: *const Self, k: usize, row: usize) -> V {
        // SAFETY: handed on.
        unsafe { V::load(w.add(k * row)) }
    }

    #[inline(always)]
    fn at(w: *const Self, k: usize, row: usize) -> *const f32 {
        w.wrapping_add(k * row)
    }
}

impl Word for u32 {
    #[inline(always)]
    unsafe fn load<V: Simd, const ODD: bool>(w: *const Self, k: usize, row: usize) -> V {
        // SAFETY: handed on.
        unsafe {
            let w = w.add(k / 2 * row);
            if ODD { V::load_high(w) } else { V::load_low(w) }
        }
    }

    #[inline(always)]
    fn at(w: *const Self, k: usize, row: usize) -> *const f32 {
        w.wrapping_add(k / 2 * row).cast()
    }
}

/// The left-hand side as raw parts.
#[derive(Clone, Copy)]
struct Left {
    rows: usize,
    /// Numbers of the rows of `x`; null where they are the first ones.
    numbers: *const u32,
    x: *const f32,
    x_row: usize,
}

/// A product as raw parts.
struct Job<W> {
    left: Left,
    w: *const W,
    w_row: usize,
    w_panel: usize,
    columns: usize,
    depth: usize,
    out: *mut f32,
    out_row: usize,
}

/// Runs a job on the best instruction set.
unsafe fn dispatch<W: Word>(job: &Job<W>) {
    // SAFETY: the caller has bounded the job; the instruction set was detected.
    unsafe {
        match isa() {
            Isa::Portable => run::<Portable, W, 2, 2, 4, 8>(job),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => run_avx2(job),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => run_avx512(job),
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn run_avx2<W: Word>(job: &Job<W>) {
    // SAFETY: handed on.
    unsafe { run::<Avx2, W, 2, 2, 4, 8>(job) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn run_avx512<W: Word>(job: &Job<W>) {
    // SAFETY: handed on.
    unsafe { run::<Avx512, W, 1, 2, 2, 4>(job) }
}

/// The product. A panel is `V1` vectors wide; `V6`, `V2` and `V4` vectors of columns keep enough
/// sums in flight beside 4 to 6 rows, 2 or 3 rows and 1 row.
#[inline(always)]
unsafe fn run<V, W, const V1: usize, const V6: usize, const V2: usize, const V4: usize>(
    job: &Job<W>,
) where
    V: Simd,
    W: Word,
{
    let rows = job.left.rows;
    let mut first = 0;
    while first < job.depth {
        let depth = first..job.depth.min(first + DEPTH_BLOCK);
        let whole = rows / 6 * 6;
        // SAFETY: rows, columns and depth stay within the job's.
        unsafe {
            if whole > 0 {
                pass::<V, W, 6, V6, V1>(job, 0, whole, depth.clone());
            }
            match rows - whole {
                1 => pass::<V, W, 1, V4, V1>(job, whole, rows, depth.clone()),
                2 => pass::<V, W, 2, V2, V1>(job, whole, rows, depth.clone()),
                3 => pass::<V, W, 3, V2, V1>(job, whole, rows, depth.clone()),
                4 => pass::<V, W, 4, V6, V1>(job, whole, rows, depth.clone()),
                5 => pass::<V, W, 5, V6, V1>(job, whole, rows, depth.clone()),
                _ => {}
            }
        }
        first = depth.end;
    }
}

/// All columns for `M` rows at a time, `N` vectors of columns at a time (`N1` near the end).
#[inline(always)]
unsafe fn pass<V: Simd, W: Word, const M: usize, const N: usize, const N1: usize>(
    job: &Job<W>,
    first_row: usize,
    end_row: usize,
    depth: Range<usize>,
) {
    let wide = N * V::LANES;
    let mut column = 0;
    while column < job.columns {
        let step = if column + wide <= job.columns { wide } else { PANEL };
        let mut row = first_row;
        while row < end_row {
            // SAFETY: `step` columns from a multiple of 16 can be read; writes are cut to
            // `job.columns`.
            unsafe {
                if step == wide {
                    tile::<V, W, M, N>(job, row, column, depth.clone());
                } else {
                    tile::<V, W, M, N1>(job, row, column, depth.clone());
                }
            }
            row += M;
        }
        column += step;
    }
}

/// `M` rows by `N` vectors of the result.
#[inline(always)]
unsafe fn tile<V: Simd, W: Word, const M: usize, const N: usize>(
    job: &Job<W>,
    row: usize,
    column: usize,
    depth: Range<usize>,
) {
    // SAFETY: the caller's rows, columns and depth lie within the job.
    unsafe {
        let width = N * V::LANES;
        let whole = column + width <= job.columns;
        let out = job.out.add(row * job.out_row + column);
        let mut acc = [[V::splat(0.0); N]; M];
        let mut edge = [0.0_f32; PANEL];
        if depth.start > 0 {
            for (m, acc) in acc.iter_mut().enumerate() {
                let mut from = out.add(m * job.out_row).cast_const();
                if !whole {
                    let valid = job.columns - column;
                    std::ptr::copy_nonoverlapping(from, edge.as_mut_ptr(), valid);
                    from = edge.as_ptr();
                }
                for (n, acc) in acc.iter_mut().enumerate() {
                    *acc = V::load(from.add(n * V::LANES));
                }
            }
        }
        let Left { numbers, x, x_row, .. } = job.left;
        let x: [*const f32; M] = std::array::from_fn(|m| {
            let number = if numbers.is_null() { row + m } else { *numbers.add(row + m) as usize };
            x.add(number * x_row)
        });
        let w: [*const W; N] = std::array::from_fn(|n| {
            let at = column + n * V::LANES;
            job.w.add(at / PANEL * job.w_panel + at % PANEL)
        });
        let next = w[0].wrapping_add(job.w_panel);
        let mut k = depth.start; // even, as is the step
        while k + 2 <= depth.end {
            V::prefetch(W::at(next, k, job.w_row));
            add_outer::<V, W, M, N, false>(&mut acc, &x, &w, k, job.w_row);
            add_outer::<V, W, M, N, true>(&mut acc, &x, &w, k + 1, job.w_row);
            k += 2;
        }
        if k < depth.end {
            add_outer::<V, W, M, N, false>(&mut acc, &x, &w, k, job.w_row);
        }
        for (m, acc) in acc.iter().enumerate() {
            let row = out.add(m * job.out_row);
            let to = if whole { row } else { edge.as_mut_ptr() };
            for (n, acc) in acc.iter().enumerate() {
                acc.store(to.add(n * V::LANES));
            }
            if !whole {
                std::ptr::copy_nonoverlapping(edge.as_ptr(), row, job.columns - column);
            }
        }
    }
}

/// Adds the products of inputs and weights at depth `k`, odd or even.
#[inline(always)]
unsafe fn add_outer<V: Simd, W: Word, const M: usize, const N: usize, const ODD: bool>(
    acc: &mut [[V; N]; M],
    x: &[*const f32; M],
    w: &[*const W; N],
    k: usize,
    w_row: usize,
) {
    // SAFETY: the depth lies within the job's, as `tile` holds it.
    unsafe {
        let mut values = [V::splat(0.0); N];
        for (value, w) in values.iter_mut().zip(w) {
            *value = W::load::<V, ODD>(*w, k, w_row);
        }
        for (x, acc) in x.iter().zip(acc) {
            let x = V::splat(*x.add(k));
            for (acc, w) in acc.iter_mut().zip(values) {
                *acc = x.mul_add(w, *acc);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::Matrix;
    use darwin_core::keyed::{Key, Rng};

    fn values(n: usize, name: &str) -> Vec<f32> {
        let mut rng = Rng::new(Key::new(1, &[name]), 0);
        (0..n).map(|_| rng.normal() as f32).collect()
    }

    fn bfloat16(value: f32) -> f32 {
        f32::from_bits(value.to_bits() & 0xffff_0000)
    }

    /// One chain of fused multiply-adds, as documented.
    fn plain(x: &[f32], w: &[f32]) -> f32 {
        x.iter().zip(w).fold(0.0, |sum, (x, w)| x.mul_add(*w, sum))
    }

    #[test]
    fn every_size_gives_the_same_bits_as_the_plain_chain() {
        for (columns, depth) in [(1, 1), (16, 8), (17, 40), (48, 5), (97, 44), (130, 1100)] {
            let wide = values(columns * depth, "w");
            let narrow: Vec<f32> = wide.iter().map(|v| bfloat16(*v)).collect();
            let sizes = [1, 2, 3, 4, 5, 6, 7, 13];
            for (rows, w) in sizes.iter().flat_map(|rows| [(*rows, &wide), (*rows, &narrow)]) {
                let matrix = Matrix::pack(w, columns, depth);
                let x = values(rows * depth, "x");
                let mut out = vec![f32::NAN; rows * columns];
                multiply(rows, &x, depth, matrix.panels(), &mut out, columns);
                for (i, value) in out.iter().enumerate() {
                    let (x, w) = (&x[i / columns * depth..], &w[i % columns * depth..]);
                    assert_eq!(*value, plain(&x[..depth], &w[..depth]), "{rows}x{columns}x{depth}");
                }
            }
        }
    }

    #[test]
    fn chosen_rows_are_those_of_the_whole_product() {
        let (rows, columns, depth) = (9, 20, 12);
        let (w, x) = (values(columns * depth, "w"), values(rows * depth, "x"));
        let matrix = Matrix::pack(&w, columns, depth);
        let mut all = vec![0.0; rows * columns];
        multiply(rows, &x, depth, matrix.panels(), &mut all, columns);
        let chosen = [8, 0, 3, 3, 5, 1, 7];
        let mut out = vec![0.0; chosen.len() * columns];
        multiply_rows(Rows::Chosen(&chosen), &x, depth, matrix.panels(), &mut out, columns);
        for (row, number) in out.chunks(columns).zip(chosen) {
            assert_eq!(row, &all[number as usize * columns..][..columns]);
        }
    }

    #[test]
    fn all_instruction_sets_agree() {
        let (rows, columns, depth) = (9, 41, 33);
        let (w, x) = (values(columns * depth, "w"), values(rows * depth, "x"));
        let matrix = Matrix::pack(&w, columns, depth);
        let narrow: Vec<f32> = w.iter().map(|v| bfloat16(*v)).collect();
        let narrow = Matrix::pack(&narrow, columns, depth);
        for matrix in [matrix, narrow] {
            let (mut best, mut portable) = (vec![0.0; rows * columns], vec![0.0; rows * columns]);
            let panels = matrix.panels();
            multiply(rows, &x, depth, panels, &mut best, columns);
            let left = Left { rows, numbers: std::ptr::null(), x: x.as_ptr(), x_row: depth };
            let (w_row, w_panel, out, out_row) =
                (panels.row, panels.panel, portable.as_mut_ptr(), columns);
            // SAFETY: the sizes are those of the buffers.
            unsafe {
                match panels.values {
                    Values::F32(w) => {
                        let w = w.as_ptr();
                        let job = Job { left, w, w_row, w_panel, columns, depth, out, out_row };
                        run::<Portable, _, 2, 2, 4, 8>(&job);
                    }
                    Values::Bf16(w) => {
                        let w = w.as_ptr();
                        let job = Job { left, w, w_row, w_panel, columns, depth, out, out_row };
                        run::<Portable, _, 2, 2, 4, 8>(&job);
                    }
                }
            }
            assert_eq!(best, portable);
        }
    }
}
