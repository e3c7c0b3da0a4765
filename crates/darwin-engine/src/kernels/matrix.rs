//! Matrices packed once for many products, and the product.
//!
//! `out[m, n] = sum_k x[m, k] * w[n, k]`, each element one chain of fused multiply-adds over
//! rising k. Tiles of rows and columns only decide what is computed side by side.

#[cfg(target_arch = "x86_64")]
use super::simd::{Avx2, Avx512};
use super::simd::{Isa, Portable, Simd, isa};
use std::sync::Arc;

/// Columns of one panel.
pub(crate) const PANEL: usize = 16;

/// Depth that is kept in the caches before the next columns are visited.
const DEPTH_BLOCK: usize = 512;

/// Steps of depth between two tests of the loop.
const UNROLL: usize = 4;

/// A weight (out, in) as panels of 16 output columns, each panel (in, 16), zero-padded.
#[derive(Clone, Debug)]
pub(crate) struct Matrix {
    data: Arc<[f32]>,
    columns: usize,
    depth: usize,
}

impl Matrix {
    /// Packs a row-major (`columns`, `depth`) weight.
    pub(crate) fn pack(rows: &[f32], columns: usize, depth: usize) -> Self {
        assert_eq!(rows.len(), columns * depth, "a weight has (out, in) values");
        let mut data = vec![0.0; columns.next_multiple_of(PANEL) * depth];
        for (n, row) in rows.chunks_exact(depth).enumerate() {
            let panel = &mut data[n / PANEL * depth * PANEL..];
            for (k, value) in row.iter().enumerate() {
                panel[k * PANEL + n % PANEL] = *value;
            }
        }
        Self { data: data.into(), columns, depth }
    }

    /// Output width.
    pub(crate) fn columns(&self) -> usize {
        self.columns
    }

    /// Input width.
    pub(crate) fn depth(&self) -> usize {
        self.depth
    }

    /// The panels for a product.
    pub(crate) fn panels(&self) -> Panels<'_> {
        self.panels_of_depth(0, self.depth)
    }

    /// The panels restricted to inputs `first..first + depth`.
    pub(crate) fn panels_of_depth(&self, first: usize, depth: usize) -> Panels<'_> {
        Panels {
            data: &self.data[first * PANEL..],
            columns: self.columns,
            depth,
            row: PANEL,
            panel: self.depth * PANEL,
        }
    }
}

/// The right-hand side of a product: element (k, n) lies at
/// `k * row + n / 16 * panel + n % 16`, and all 16 columns of the last panel can be read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Panels<'a> {
    pub(crate) data: &'a [f32],
    pub(crate) columns: usize,
    pub(crate) depth: usize,
    pub(crate) row: usize,
    pub(crate) panel: usize,
}

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
    let last = (w.columns - 1) / PANEL * w.panel + (w.depth - 1) * w.row + PANEL;
    assert!(w.data.len() >= last, "w has all its panels");
    let job = Job {
        rows,
        numbers,
        x: x.as_ptr(),
        x_row,
        w: w.data.as_ptr(),
        w_row: w.row,
        w_panel: w.panel,
        columns: w.columns,
        depth: w.depth,
        out: out.as_mut_ptr(),
        out_row,
    };
    // SAFETY: the asserts above bound every access of the job; the instruction set was detected.
    unsafe {
        match isa() {
            Isa::Portable => run::<Portable, 2, 2, 4, 8>(&job),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => run_avx2(&job),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => run_avx512(&job),
        }
    }
}

/// A product as raw parts.
struct Job {
    rows: usize,
    /// Numbers of the rows of `x`; null where they are the first ones.
    numbers: *const u32,
    x: *const f32,
    x_row: usize,
    w: *const f32,
    w_row: usize,
    w_panel: usize,
    columns: usize,
    depth: usize,
    out: *mut f32,
    out_row: usize,
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn run_avx2(job: &Job) {
    // SAFETY: handed on.
    unsafe { run::<Avx2, 2, 2, 4, 8>(job) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn run_avx512(job: &Job) {
    // SAFETY: handed on.
    unsafe { run::<Avx512, 1, 2, 2, 4>(job) }
}

/// The product. A panel is `V1` vectors wide; `V6`, `V2` and `V4` vectors of columns keep enough
/// sums in flight beside 4 to 6 rows, 2 or 3 rows and 1 row.
#[inline(always)]
unsafe fn run<V: Simd, const V1: usize, const V6: usize, const V2: usize, const V4: usize>(
    job: &Job,
) {
    let mut first = 0;
    while first < job.depth {
        let depth = first..job.depth.min(first + DEPTH_BLOCK);
        let whole = job.rows / 6 * 6;
        // SAFETY: rows, columns and depth stay within the job's.
        unsafe {
            if whole > 0 {
                pass::<V, 6, V6, V1>(job, 0, whole, depth.clone());
            }
            match job.rows - whole {
                1 => pass::<V, 1, V4, V1>(job, whole, job.rows, depth.clone()),
                2 => pass::<V, 2, V2, V1>(job, whole, job.rows, depth.clone()),
                3 => pass::<V, 3, V2, V1>(job, whole, job.rows, depth.clone()),
                4 => pass::<V, 4, V6, V1>(job, whole, job.rows, depth.clone()),
                5 => pass::<V, 5, V6, V1>(job, whole, job.rows, depth.clone()),
                _ => {}
            }
        }
        first = depth.end;
    }
}

/// All columns for `M` rows at a time, `N` vectors of columns at a time (`N1` near the end).
#[inline(always)]
unsafe fn pass<V: Simd, const M: usize, const N: usize, const N1: usize>(
    job: &Job,
    first_row: usize,
    end_row: usize,
    depth: std::ops::Range<usize>,
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
                    tile::<V, M, N>(job, row, column, depth.clone());
                } else {
                    tile::<V, M, N1>(job, row, column, depth.clone());
                }
            }
            row += M;
        }
        column += step;
    }
}

/// `M` rows by `N` vectors of the result.
#[inline(always)]
unsafe fn tile<V: Simd, const M: usize, const N: usize>(
    job: &Job,
    row: usize,
    column: usize,
    depth: std::ops::Range<usize>,
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
        let x: [*const f32; M] = std::array::from_fn(|m| {
            let number =
                if job.numbers.is_null() { row + m } else { *job.numbers.add(row + m) as usize };
            job.x.add(number * job.x_row)
        });
        let w: [*const f32; N] = std::array::from_fn(|n| {
            let at = column + n * V::LANES;
            job.w.add(at / PANEL * job.w_panel + at % PANEL)
        });
        let mut k = depth.start;
        while k + UNROLL <= depth.end {
            for u in 0..UNROLL {
                V::prefetch(w[0].wrapping_add((k + u) * job.w_row + job.w_panel));
                add_outer::<V, M, N>(&mut acc, &x, &w, k + u, job.w_row);
            }
            k += UNROLL;
        }
        while k < depth.end {
            add_outer::<V, M, N>(&mut acc, &x, &w, k, job.w_row);
            k += 1;
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

/// Adds the products of inputs and weights at depth `k`.
#[inline(always)]
unsafe fn add_outer<V: Simd, const M: usize, const N: usize>(
    acc: &mut [[V; N]; M],
    x: &[*const f32; M],
    w: &[*const f32; N],
    k: usize,
    w_row: usize,
) {
    // SAFETY: `k` lies within the job's depth, as `tile` holds it.
    unsafe {
        let mut values = [V::splat(0.0); N];
        for (value, w) in values.iter_mut().zip(w) {
            *value = V::load(w.add(k * w_row));
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
    use darwin_core::keyed::{Key, Rng};

    fn values(n: usize, name: &str) -> Vec<f32> {
        let mut rng = Rng::new(Key::new(1, &[name]), 0);
        (0..n).map(|_| rng.normal() as f32).collect()
    }

    /// One chain of fused multiply-adds, as documented.
    fn plain(x: &[f32], w: &[f32]) -> f32 {
        x.iter().zip(w).fold(0.0, |sum, (x, w)| x.mul_add(*w, sum))
    }

    #[test]
    fn every_size_gives_the_same_bits_as_the_plain_chain() {
        for (columns, depth) in [(1, 1), (16, 8), (17, 40), (48, 5), (97, 44), (130, 1100)] {
            let w = values(columns * depth, "w");
            let matrix = Matrix::pack(&w, columns, depth);
            for rows in [1, 2, 3, 4, 5, 6, 7, 13] {
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
        let (mut best, mut portable) = (vec![0.0; rows * columns], vec![0.0; rows * columns]);
        multiply(rows, &x, depth, matrix.panels(), &mut best, columns);
        let job = Job {
            rows,
            numbers: std::ptr::null(),
            x: x.as_ptr(),
            x_row: depth,
            w: matrix.data.as_ptr(),
            w_row: PANEL,
            w_panel: depth * PANEL,
            columns,
            depth,
            out: portable.as_mut_ptr(),
            out_row: columns,
        };
        // SAFETY: the sizes are those of the buffers.
        unsafe { run::<Portable, 2, 2, 4, 8>(&job) };
        assert_eq!(best, portable);
    }
}
