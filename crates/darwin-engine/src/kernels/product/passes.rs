//! The order in which rows, columns and depths of a product are visited.

use super::super::matrix::PANEL;
use super::super::simd::Simd;
use super::super::word::Word;
use super::tile::tile;
use super::{COLUMN_BLOCK, Job, Left, Right};
use std::mem::MaybeUninit;
use std::ops::Range;

/// Depth that is kept in the caches before the next columns are visited, where there are many
/// rows.
const DEPTH_BLOCK: usize = 256;

/// Weights that are widened at once.
const WIDENED: usize = 4 * PANEL * 128;

/// Rows that visit all columns before the next ones: with a block of depths they fill a part of the
/// second-level cache. A multiple of 6.
const ROW_BLOCK: usize = 144;

/// A part of the weights.
struct Block {
    /// From a multiple of [`PANEL`] on.
    columns: Range<usize>,
    /// From an even number on.
    depth: Range<usize>,
}

/// Weights come from memory once for each 64 columns, whatever the number of rows.
///
/// # Safety
/// As for [`Job::share`]; the instruction set of `V` is available. `V1` vectors are a panel.
#[inline(always)]
pub(super) unsafe fn few_rows<
    V,
    W,
    const V1: usize,
    const V6: usize,
    const V2: usize,
    const V4: usize,
>(
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
            // SAFETY: rows, columns and depth are parts of the job's, which the caller has bounded;
            // the block begins at a multiple of PANEL and at an even depth.
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
///
/// # Safety
/// As for [`Job::share`]; the instruction set of `V` is available. `N1` vectors are a panel. Rows, a
/// multiple of `M`, and the block are parts of the job's.
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
        // SAFETY: `step` columns from a multiple of PANEL on can be read, for weights are packed in
        // whole panels; writes are cut to `job.columns` by `tile`; rows and depth are the caller's.
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
///
/// # Safety
/// As for [`Job::share`]; the instruction set of `V` is available. `V1` vectors are a panel.
#[inline(always)]
pub(super) unsafe fn many_rows<
    V: Simd,
    W: Word,
    const V1: usize,
    const V6: usize,
    const WIDE: usize,
    const DEPTH: usize,
    const PACKED: bool,
>(
    job: &Job,
    right: Right<W>,
) {
    const { assert!(DEPTH <= DEPTH_BLOCK && WIDE * V::LANES * DEPTH <= WIDENED) };
    let mut inputs = Aligned(MaybeUninit::<[f32; ROW_BLOCK * DEPTH_BLOCK]>::uninit());
    let mut weights = Aligned(MaybeUninit::<[f32; WIDENED]>::uninit());
    let inputs = inputs.0.as_mut_ptr().cast::<f32>();
    let weights = weights.0.as_mut_ptr().cast::<f32>();
    let (wide, middle) = (WIDE * V::LANES, V6 * V::LANES);
    for first in (0..job.left.rows).step_by(ROW_BLOCK) {
        let rows = first..job.left.rows.min(first + ROW_BLOCK);
        for start in (0..job.depth).step_by(DEPTH) {
            let depth = start..job.depth.min(start + DEPTH);
            // SAFETY: rows, columns and depth are parts of the job's, which the caller has bounded.
            // `inputs` has room for ROW_BLOCK rows of DEPTH_BLOCK inputs, `weights` for `WIDE` vectors
            // of `DEPTH` (asserted above) and so for fewer; `pack` and `widen` write all that
            // `panel_of_rows` reads of them.
            unsafe {
                if PACKED {
                    pack(&job.left, &rows, &depth, inputs);
                }
                let mut column = 0;
                while column < job.columns {
                    let left = job.columns - column;
                    let step = [wide, middle].into_iter().find(|step| *step <= left);
                    let step = step.unwrap_or(PANEL);
                    let from = right.from(start, column);
                    for panel in 0..step / PANEL {
                        let to = weights.add(panel * depth.len() * PANEL);
                        widen::<V, W>(from.from(0, panel * PANEL), depth.len(), to);
                    }
                    let panel = depth.len() * PANEL;
                    let widened = Right { w: weights.cast_const(), row: PANEL, panel };
                    let inputs = PACKED.then_some(inputs.cast_const());
                    let part = Part { rows: &rows, depth: &depth, column, inputs };
                    if step == wide {
                        panel_of_rows::<V, W, WIDE>(job, widened, from, &part);
                    } else if step == middle {
                        panel_of_rows::<V, W, V6>(job, widened, from, &part);
                    } else {
                        panel_of_rows::<V, W, V1>(job, widened, from, &part);
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

/// `N` vectors of columns for all rows of a block. `from` is what `right` was widened from: as much
/// of what lies behind it is asked for, a part before each tile, so that memory never has to bring
/// a panel at once.
///
/// # Safety
/// The instruction set of `V` is available. Rows, depth and column of `part` lie within the job;
/// `right` holds `depth.len()` lines of `N` vectors from its column on, packed in panels; the packed
/// inputs, where there are such, are those of `pack` for these rows and depths.
#[inline(always)]
unsafe fn panel_of_rows<V: Simd, W: Word, const N: usize>(
    job: &Job,
    right: Right<f32>,
    from: Right<W>,
    part: &Part<'_>,
) {
    let Part { rows, depth, column, inputs } = part;
    let (whole, rest) = heights(rows.len());
    let panels = (N * V::LANES).div_ceil(PANEL);
    let share = depth.len().div_ceil((whole / 6).max(1)).next_multiple_of(2);
    // SAFETY: rows, columns and depth lie within the job, weights and packed inputs hold them, as the
    // caller says; hints may name any address, and `wrapping_add` makes them.
    unsafe {
        for (i, row) in (rows.start..rows.start + whole).step_by(6).enumerate() {
            let asked = (i * share).min(depth.len())..((i + 1) * share).min(depth.len());
            for panel in panels..2 * panels {
                let coming = from.w.wrapping_add(panel * from.panel);
                for k in asked.clone().step_by(2) {
                    V::prefetch(W::at(coming, k, from.row));
                }
            }
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
        let (left, from, mut row) = (&job.left, depth.start, rows.start + whole);
        for height in rest {
            let at = (row, *column);
            match height {
                1 => tile::<V, f32, 1, N, 1>(job, left.rows_from(row, from), right, at, depth),
                2 => tile::<V, f32, 2, N, 1>(job, left.rows_from(row, from), right, at, depth),
                3 => tile::<V, f32, 3, N, 1>(job, left.rows_from(row, from), right, at, depth),
                4 => tile::<V, f32, 4, N, 1>(job, left.rows_from(row, from), right, at, depth),
                5 => tile::<V, f32, 5, N, 1>(job, left.rows_from(row, from), right, at, depth),
                _ => {}
            }
            row += height;
        }
    }
}

/// How many rows go six at a time, and how the rest is cut: fewer than four rows have too few sums
/// in flight, and take as long as four.
fn heights(rows: usize) -> (usize, &'static [usize]) {
    let rest: &[usize] = match (rows % 6, rows) {
        (0, _) => &[],
        (1, 13..) => &[5, 4, 4],
        (1, 7..) => &[4, 3],
        (1, _) => &[1],
        (2, 8..) => &[4, 4],
        (2, _) => &[2],
        (3, 9..) => &[5, 4],
        (3, _) => &[3],
        (4, _) => &[4],
        _ => &[5],
    };
    (rows - rest.iter().sum::<usize>(), rest)
}

/// Six rows at a time, depth by depth: (rows / 6, depth, 6).
///
/// # Safety
/// `left` has the rows and depths, `to` room for `rows.len() * depth.len()` values.
#[inline(always)]
unsafe fn pack(left: &Left, rows: &Range<usize>, depth: &Range<usize>, to: *mut f32) {
    for row in (rows.start..rows.end - rows.len() % 6).step_by(6) {
        // SAFETY: rows and depths are some of `left`'s; groups of six rows begin
        // `6 * depth.len()` values apart, inside the room that the caller has.
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

/// A panel (depth, 16) in float32.
///
/// # Safety
/// The instruction set of `V` is available; `from` points to a panel of `depth` lines, from an even
/// depth on, and `to` to room for `depth * PANEL` values.
#[inline(always)]
unsafe fn widen<V: Simd, W: Word>(from: Right<W>, depth: usize, to: *mut f32) {
    // SAFETY: the caller has the instruction set, the panel's lines and room for as many of PANEL
    // values.
    unsafe {
        for k in (0..depth).step_by(2) {
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
