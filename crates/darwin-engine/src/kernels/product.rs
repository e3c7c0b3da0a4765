//! The matrix product.
//!
//! `out[m, n] = sum_k x[m, k] * w[n, k]`, each element one chain of fused multiply-adds over
//! rising k. Tiles of rows and columns, and who computes them, only decide what is done side by
//! side.

use super::matrix::{PANEL, Panels, Values};
#[cfg(target_arch = "x86_64")]
use super::simd::{Avx2, Avx512};
use super::simd::{Isa, Portable, Simd, isa};
use super::word::Word;
use crate::team::Team;
use std::mem::MaybeUninit;
use std::ops::Range;

/// Depth that is kept in the caches before the next columns are visited, where there are many
/// rows.
const DEPTH_BLOCK: usize = 256;

/// Columns that all rows visit before the next ones: as many as the widest tile has.
const COLUMN_BLOCK: usize = 4 * PANEL;

/// Rows that visit all columns before the next ones: with a block of depths they fill a part of the
/// second-level cache. A multiple of 6.
const ROW_BLOCK: usize = 144;

/// Rows from which on weights are widened once for all of them, and columns from which on inputs
/// are put side by side once for all of those.
const MANY_ROWS: usize = 18;
const MANY_COLUMNS: usize = 256;

/// How far ahead of the depth at hand weights are asked for.
const AHEAD: usize = 32;

/// Multiply-adds of a core in a nanosecond, and rows that cost no more than one does, for then
/// reading the weights is what takes the time: for sharing the work only.
const PER_NANOSECOND: f64 = 40.0;
const FREE_ROWS: usize = 8;

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
    team: Team<'_>,
    rows: usize,
    x: &[f32],
    x_row: usize,
    w: Panels<'_>,
    out: &mut [f32],
    out_row: usize,
) {
    multiply_rows(team, Rows::First(rows), x, x_row, w, out, out_row);
}

/// [`multiply`] of chosen rows of `x`, as many rows of `out`.
pub(crate) fn multiply_rows(
    team: Team<'_>,
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
    let job = Job {
        left: Left { rows, numbers, x: x.as_ptr(), x_row },
        columns: w.columns,
        depth: w.depth,
        out: out.as_mut_ptr(),
        out_row,
    };
    // SAFETY: the asserts here and above bound every access of the jobs.
    unsafe {
        match w.values {
            Values::F32(data) => {
                assert!(data.len() >= last(w.depth), "w has all its panels");
                job.share(team, Right { w: data.as_ptr(), row: w.row, panel: w.panel });
            }
            Values::Bf16(data) => {
                assert!(data.len() >= last(w.depth.div_ceil(2)), "w has all its panels");
                job.share(team, Right { w: data.as_ptr(), row: w.row, panel: w.panel });
            }
            Values::F16(data) => {
                assert!(data.len() >= last(w.depth), "w has all its panels");
                job.share(team, Right { w: data.as_ptr(), row: w.row, panel: w.panel });
            }
        }
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

impl Left {
    /// The inputs of `M` rows from a depth on.
    ///
    /// # Safety
    /// The rows and the depth lie within.
    #[inline(always)]
    unsafe fn rows_from<const M: usize>(&self, row: usize, depth: usize) -> [*const f32; M] {
        let Self { numbers, x, x_row, .. } = *self;
        std::array::from_fn(|m| {
            // SAFETY: the caller's.
            unsafe {
                let number =
                    if numbers.is_null() { row + m } else { *numbers.add(row + m) as usize };
                x.add(number * x_row + depth)
            }
        })
    }
}

/// The right-hand side from some depth and column on, as raw parts.
#[derive(Clone, Copy)]
struct Right<W> {
    w: *const W,
    row: usize,
    panel: usize,
}

impl<W: Word> Right<W> {
    /// From an even depth and a multiple of the vector's lanes on.
    ///
    /// # Safety
    /// Both lie within the matrix.
    #[inline(always)]
    unsafe fn from(self, depth: usize, column: usize) -> Self {
        let at = W::line(depth) * self.row + column / PANEL * self.panel + column % PANEL;
        // SAFETY: the caller's.
        Self { w: unsafe { self.w.add(at) }, ..self }
    }
}

/// The rest of a product as raw parts.
#[derive(Clone, Copy)]
struct Job {
    left: Left,
    columns: usize,
    depth: usize,
    out: *mut f32,
    out_row: usize,
}

/// What the members of a team are handed.
struct Shared<W>(Job, Right<W>);

// SAFETY: members read the inputs, and write columns of their own.
unsafe impl<W> Sync for Shared<W> {}

impl Job {
    /// Runs the job, its columns shared among a team.
    ///
    /// # Safety
    /// All rows, columns and depths can be read and written.
    unsafe fn share<W: Word>(self, team: Team<'_>, right: Right<W>) {
        let (rows, columns) = (self.left.rows, self.columns);
        if team.threads() == 1 {
            // SAFETY: the caller's.
            return unsafe { dispatch(&self, right) };
        }
        let unit = if rows == 1 { COLUMN_BLOCK } else { 2 * PANEL };
        let cost = (rows.max(FREE_ROWS) * self.depth) as f64 / PER_NANOSECOND;
        let shared = Shared(self, right);
        team.split(columns, unit, cost, |range, _| {
            let Shared(job, right) = &shared;
            // SAFETY: the ranges are parts of the columns, and no column is in two.
            unsafe {
                let out = job.out.add(range.start);
                let job = Job { columns: range.len(), out, ..*job };
                dispatch(&job, right.from(0, range.start));
            }
        });
    }
}

/// Runs a job on the best instruction set.
unsafe fn dispatch<W: Word>(job: &Job, right: Right<W>) {
    // SAFETY: the caller has bounded the job; the instruction set was detected.
    unsafe {
        match isa() {
            Isa::Portable => run::<Portable, W, 2, 2, 4, 8>(job, right),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => run_avx2(job, right),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => run_avx512(job, right),
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn run_avx2<W: Word>(job: &Job, right: Right<W>) {
    // SAFETY: handed on.
    unsafe { run::<Avx2, W, 2, 2, 4, 8>(job, right) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn run_avx512<W: Word>(job: &Job, right: Right<W>) {
    // SAFETY: handed on.
    unsafe { run::<Avx512, W, 1, 2, 2, 4>(job, right) }
}

/// The product. A panel is `V1` vectors wide; `V6`, `V2` and `V4` vectors of columns keep enough
/// sums in flight beside 4 to 6 rows, 2 or 3 rows and 1 row.
#[inline(always)]
unsafe fn run<V, W, const V1: usize, const V6: usize, const V2: usize, const V4: usize>(
    job: &Job,
    right: Right<W>,
) where
    V: Simd,
    W: Word,
{
    let wide_input = job.columns >= MANY_COLUMNS;
    // SAFETY: handed on.
    unsafe {
        if job.left.rows < MANY_ROWS || !(W::NARROW || wide_input) {
            few_rows::<V, W, V1, V6, V2, V4>(job, right);
        } else if wide_input {
            many_rows::<V, W, V1, V6, true>(job, right);
        } else {
            many_rows::<V, W, V1, V6, false>(job, right);
        }
    }
}

/// A part of the weights.
struct Block {
    /// From a multiple of [`PANEL`] on.
    columns: Range<usize>,
    /// From an even number on.
    depth: Range<usize>,
}

/// Weights come from memory once for each 64 columns, whatever the number of rows.
#[inline(always)]
unsafe fn few_rows<V, W, const V1: usize, const V6: usize, const V2: usize, const V4: usize>(
    job: &Job,
    right: Right<W>,
) where
    V: Simd,
    W: Word,
{
    let rows = job.left.rows;
    let whole = rows / 6 * 6;
    let block = if whole == 0 { job.depth } else { DEPTH_BLOCK };
    for first in (0..job.depth).step_by(block) {
        for column in (0..job.columns).step_by(COLUMN_BLOCK) {
            let at = Block {
                columns: column..job.columns.min(column + COLUMN_BLOCK),
                depth: first..job.depth.min(first + block),
            };
            // SAFETY: rows, columns and depth stay within the job's.
            unsafe {
                if whole > 0 {
                    pass::<V, W, 6, V6, V1>(job, right, 0..whole, &at);
                }
                match rows - whole {
                    1 => pass::<V, W, 1, V4, V1>(job, right, whole..rows, &at),
                    2 => pass::<V, W, 2, V2, V1>(job, right, whole..rows, &at),
                    3 => pass::<V, W, 3, V2, V1>(job, right, whole..rows, &at),
                    4 => pass::<V, W, 4, V6, V1>(job, right, whole..rows, &at),
                    5 => pass::<V, W, 5, V6, V1>(job, right, whole..rows, &at),
                    _ => {}
                }
            }
        }
    }
}

/// A block's columns for `M` rows at a time, `N` vectors of columns at a time (`N1` near the end).
#[inline(always)]
unsafe fn pass<V: Simd, W: Word, const M: usize, const N: usize, const N1: usize>(
    job: &Job,
    right: Right<W>,
    rows: Range<usize>,
    block: &Block,
) {
    let wide = N * V::LANES;
    let mut column = block.columns.start;
    while column < block.columns.end {
        let step = if column + wide <= job.columns { wide } else { PANEL };
        // SAFETY: `step` columns from a multiple of 16 can be read; writes are cut to
        // `job.columns`.
        unsafe {
            let right = right.from(block.depth.start, column);
            for row in rows.clone().step_by(M) {
                let x = job.left.rows_from(row, block.depth.start);
                if step == wide {
                    tile::<V, W, M, N, 1>(job, x, right, (row, column), &block.depth);
                } else {
                    tile::<V, W, M, N1, 1>(job, x, right, (row, column), &block.depth);
                }
            }
        }
        column += step;
    }
}

/// Memory that starts at a cache line.
#[repr(align(64))]
struct Aligned<T>(MaybeUninit<T>);

/// Blocks of rows by blocks of depths: the inputs are put side by side if `PACKED`, each panel of
/// weights is widened and meets all rows of the block.
#[inline(always)]
unsafe fn many_rows<V: Simd, W: Word, const V1: usize, const V6: usize, const PACKED: bool>(
    job: &Job,
    right: Right<W>,
) {
    let mut inputs = Aligned(MaybeUninit::<[f32; ROW_BLOCK * DEPTH_BLOCK]>::uninit());
    let mut weights = Aligned(MaybeUninit::<[f32; 2 * PANEL * DEPTH_BLOCK]>::uninit());
    let inputs = inputs.0.as_mut_ptr().cast::<f32>();
    let weights = weights.0.as_mut_ptr().cast::<f32>();
    let wide = V6 * V::LANES;
    for first in (0..job.left.rows).step_by(ROW_BLOCK) {
        let rows = first..job.left.rows.min(first + ROW_BLOCK);
        for start in (0..job.depth).step_by(DEPTH_BLOCK) {
            let depth = start..job.depth.min(start + DEPTH_BLOCK);
            // SAFETY: rows, columns and depth stay within the job's, and what is read of the
            // buffers was written. A step is at most two panels.
            unsafe {
                if PACKED {
                    pack(&job.left, &rows, &depth, inputs);
                }
                let mut column = 0;
                while column < job.columns {
                    let whole = column + wide <= job.columns;
                    let step = if whole { wide } else { PANEL };
                    let from = right.from(start, column);
                    for panel in 0..step / PANEL {
                        let to = weights.add(panel * depth.len() * PANEL);
                        widen::<V, W>(from.from(0, panel * PANEL), step / PANEL, depth.len(), to);
                    }
                    let panel = depth.len() * PANEL;
                    let widened = Right { w: weights.cast_const(), row: PANEL, panel };
                    let inputs = PACKED.then_some(inputs.cast_const());
                    let part = Part { rows: &rows, depth: &depth, column, inputs };
                    if whole {
                        panel_of_rows::<V, V6>(job, widened, &part);
                    } else {
                        panel_of_rows::<V, V1>(job, widened, &part);
                    }
                    column += step;
                }
            }
        }
    }
}

/// A part of a product.
struct Part<'a> {
    rows: &'a Range<usize>,
    depth: &'a Range<usize>,
    column: usize,
    /// The packed inputs, where there are such.
    inputs: Option<*const f32>,
}

/// `N` vectors of columns for all rows of a block.
#[inline(always)]
unsafe fn panel_of_rows<V: Simd, const N: usize>(job: &Job, right: Right<f32>, part: &Part<'_>) {
    let Part { rows, depth, column, inputs } = part;
    let rest = rows.len() % 6;
    let at = rows.end - rest;
    // SAFETY: the caller's rows, columns and depth lie within the job.
    unsafe {
        for row in (rows.start..at).step_by(6) {
            let at = (row, *column);
            if let Some(inputs) = inputs {
                let first = inputs.add((row - rows.start) * depth.len());
                let x = std::array::from_fn(|m| first.add(m));
                tile::<V, f32, 6, N, 6>(job, x, right, at, depth);
            } else {
                let x = job.left.rows_from(row, depth.start);
                tile::<V, f32, 6, N, 1>(job, x, right, at, depth);
            }
        }
        let left = &job.left;
        let (from, at) = (depth.start, (at, *column));
        match rest {
            1 => tile::<V, f32, 1, N, 1>(job, left.rows_from(at.0, from), right, at, depth),
            2 => tile::<V, f32, 2, N, 1>(job, left.rows_from(at.0, from), right, at, depth),
            3 => tile::<V, f32, 3, N, 1>(job, left.rows_from(at.0, from), right, at, depth),
            4 => tile::<V, f32, 4, N, 1>(job, left.rows_from(at.0, from), right, at, depth),
            5 => tile::<V, f32, 5, N, 1>(job, left.rows_from(at.0, from), right, at, depth),
            _ => {}
        }
    }
}

/// Six rows at a time, depth by depth: (rows / 6, depth, 6).
#[inline(always)]
unsafe fn pack(left: &Left, rows: &Range<usize>, depth: &Range<usize>, to: *mut f32) {
    for row in (rows.start..rows.end - rows.len() % 6).step_by(6) {
        // SAFETY: the caller's rows and depths, and room for all of them.
        unsafe {
            let x: [*const f32; 6] = left.rows_from(row, depth.start);
            let to = to.add((row - rows.start) * depth.len());
            for k in 0..depth.len() {
                for (m, x) in x.iter().enumerate() {
                    *to.add(6 * k + m) = *x.add(k);
                }
            }
        }
    }
}

/// A panel (depth, 16) in float32; the one that is needed `next` panels on is asked for.
#[inline(always)]
unsafe fn widen<V: Simd, W: Word>(from: Right<W>, next: usize, depth: usize, to: *mut f32) {
    // SAFETY: the caller's panel and its depth; asking is allowed at any address.
    unsafe {
        let coming = from.w.wrapping_add(next * from.panel);
        for k in (0..depth).step_by(2) {
            V::prefetch(W::at(coming, k, from.row));
            for lane in (0..PANEL).step_by(V::LANES) {
                let (w, to) = (from.w.add(lane), to.add(k * PANEL + lane));
                W::load::<V, false>(w, k, from.row).store(to);
                if k + 1 < depth {
                    W::load::<V, true>(w, k + 1, from.row).store(to.add(PANEL));
                }
            }
        }
    }
}

/// `M` rows by `N` vectors of the result from (row, column) on. The inputs of a row lie `STEP`
/// apart.
#[inline(always)]
unsafe fn tile<V: Simd, W: Word, const M: usize, const N: usize, const STEP: usize>(
    job: &Job,
    x: [*const f32; M],
    right: Right<W>,
    (row, column): (usize, usize),
    depth: &Range<usize>,
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
        let w: [*const W; N] = std::array::from_fn(|n| right.from(0, n * V::LANES).w);
        let mut k = 0;
        while k + 2 <= depth.len() {
            if W::NARROW {
                for w in w.iter().step_by(PANEL / V::LANES) {
                    V::prefetch(W::at(*w, k + AHEAD, right.row));
                }
            }
            let next = x.map(|x| x.add((k + 1) * STEP));
            add_outer::<V, W, M, N, false>(&mut acc, x.map(|x| x.add(k * STEP)), &w, k, right.row);
            add_outer::<V, W, M, N, true>(&mut acc, next, &w, k + 1, right.row);
            k += 2;
        }
        if k < depth.len() {
            add_outer::<V, W, M, N, false>(&mut acc, x.map(|x| x.add(k * STEP)), &w, k, right.row);
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

/// Adds the products of inputs and weights at depth `k`, odd or even; `x` points to the inputs.
#[inline(always)]
unsafe fn add_outer<V: Simd, W: Word, const M: usize, const N: usize, const ODD: bool>(
    acc: &mut [[V; N]; M],
    x: [*const f32; M],
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
        for (x, acc) in x.into_iter().zip(acc) {
            let x = V::splat(*x);
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

    /// One chain of fused multiply-adds, as documented.
    fn plain(x: &[f32], w: &[f32]) -> f32 {
        x.iter().zip(w).fold(0.0, |sum, (x, w)| x.mul_add(*w, sum))
    }

    /// Values that are kept as float32, as bfloat16 and as float16.
    fn forms(columns: usize, depth: usize) -> [Vec<f32>; 3] {
        let wide = values(columns * depth, "w");
        let bfloat16 = wide.iter().map(|v| f32::from_bits(v.to_bits() & 0xffff_0000)).collect();
        let float16 = wide.iter().map(|v| half::f16::from_f32(*v).to_f32()).collect();
        [wide, bfloat16, float16]
    }

    #[test]
    fn every_size_gives_the_same_bits_as_the_plain_chain() {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
        for (columns, depth) in [(1, 1), (16, 8), (17, 40), (48, 5), (97, 44), (130, 1101)] {
            let sizes = [1, 2, 3, 4, 5, 6, 7, 13, 23, 26];
            for (w, rows) in
                forms(columns, depth).iter().flat_map(|w| sizes.map(|rows| (w.clone(), rows)))
            {
                let matrix = Matrix::pack(&w, columns, depth);
                let x = values(rows * depth, "x");
                let mut out = vec![f32::NAN; rows * columns];
                multiply(Team::alone(), rows, &x, depth, matrix.panels(), &mut out, columns);
                for (i, value) in out.iter().enumerate() {
                    let (x, w) = (&x[i / columns * depth..], &w[i % columns * depth..]);
                    assert_eq!(*value, plain(&x[..depth], &w[..depth]), "{rows}x{columns}x{depth}");
                }
                let mut shared = vec![f32::NAN; rows * columns];
                pool.install(|| {
                    Team::gather(|team| {
                        multiply(team, rows, &x, depth, matrix.panels(), &mut shared, columns);
                    });
                });
                assert_eq!(out, shared);
            }
        }
    }

    #[test]
    fn chosen_rows_are_those_of_the_whole_product() {
        let (rows, columns, depth) = (9, 20, 12);
        let (w, x) = (values(columns * depth, "w"), values(rows * depth, "x"));
        let matrix = Matrix::pack(&w, columns, depth);
        let mut all = vec![0.0; rows * columns];
        multiply(Team::alone(), rows, &x, depth, matrix.panels(), &mut all, columns);
        let chosen = [8, 0, 3, 3, 5, 1, 7];
        let mut out = vec![0.0; chosen.len() * columns];
        let rows = Rows::Chosen(&chosen);
        multiply_rows(Team::alone(), rows, &x, depth, matrix.panels(), &mut out, columns);
        for (row, number) in out.chunks(columns).zip(chosen) {
            assert_eq!(row, &all[number as usize * columns..][..columns]);
        }
    }

    #[test]
    fn all_instruction_sets_agree() {
        let (rows, columns, depth) = (21, 41, 333);
        let x = values(rows * depth, "x");
        for w in forms(columns, depth) {
            let matrix = Matrix::pack(&w, columns, depth);
            let (mut best, mut portable) = (vec![0.0; rows * columns], vec![0.0; rows * columns]);
            let Panels { values, row, panel, .. } = matrix.panels();
            multiply(Team::alone(), rows, &x, depth, matrix.panels(), &mut best, columns);
            let left = Left { rows, numbers: std::ptr::null(), x: x.as_ptr(), x_row: depth };
            let out = portable.as_mut_ptr();
            let job = Job { left, columns, depth, out, out_row: columns };
            // SAFETY: the sizes are those of the buffers.
            unsafe {
                match values {
                    Values::F32(w) => {
                        run::<Portable, _, 2, 2, 4, 8>(&job, Right { w: w.as_ptr(), row, panel });
                    }
                    Values::Bf16(w) => {
                        run::<Portable, _, 2, 2, 4, 8>(&job, Right { w: w.as_ptr(), row, panel });
                    }
                    Values::F16(w) => {
                        run::<Portable, _, 2, 2, 4, 8>(&job, Right { w: w.as_ptr(), row, panel });
                    }
                }
            }
            assert_eq!(best, portable);
        }
    }
}
