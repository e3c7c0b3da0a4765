//! The matrix product.
//!
//! `out[m, n] = sum_k x[m, k] * w[n, k]`, each element one chain of fused multiply-adds over
//! rising k. Tiles of rows and columns, and who computes them, only decide what is done side by
//! side. With bfloat16 weights and matrix units the order of the sums is another ([`amx`]), the
//! same for every element.

#[cfg(target_arch = "x86_64")]
mod amx;
mod passes;
mod tile;

use super::matrix::{PANEL, Panels, Values};
#[cfg(target_arch = "x86_64")]
use super::simd::{Avx2, Avx512};
use super::simd::{Isa, Portable, Simd, isa};
use super::word::Word;
use crate::team::Team;
use passes::{few_rows, many_rows};

/// Columns that all rows visit before the next ones: as many as the widest tile has.
const COLUMN_BLOCK: usize = 4 * PANEL;

/// Rows from which on weights are widened once for all of them, and columns from which on inputs
/// are put side by side once for all of those.
const MANY_ROWS: usize = 18;
const MANY_COLUMNS: usize = 256;

/// Multiply-adds of a core in a nanosecond, and rows that cost no more than one does, for then
/// reading the weights is what takes the time: for sharing the work only.
const PER_NANOSECOND: f64 = 40.0;
const UNITS_PER_NANOSECOND: f64 = 160.0;
const FREE_ROWS: usize = 8;

/// Bytes that products take for themselves on each thread: matrix units cut a block of inputs into
/// tiles.
pub(crate) fn own_bytes() -> u64 {
    #[cfg(target_arch = "x86_64")]
    if amx::is_available() {
        return 1 << 20;
    }
    0
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
    // SAFETY: rows of `x` (up to `last_row`, the largest number) and of `out` lie inside their slices
    // by the asserts above, and rows of `out` do not overlap; the weights have all lines and panels
    // by the asserts here. `numbers` outlives the call.
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
    /// `row + M` is at most the number of rows, and `depth` at most that of the job.
    #[inline(always)]
    unsafe fn rows_from<const M: usize>(&self, row: usize, depth: usize) -> [*const f32; M] {
        let Self { numbers, x, x_row, .. } = *self;
        std::array::from_fn(|m| {
            // SAFETY: `row + m` is below the number of rows: it has a number where there are numbers,
            // and the depth lies in that row of `x`.
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
    /// Both lie within the matrix, or at its end.
    #[inline(always)]
    unsafe fn from(self, depth: usize, column: usize) -> Self {
        let at = W::line(depth) * self.row + column / PANEL * self.panel + column % PANEL;
        // SAFETY: the line of `depth` and the panel of `column` lie within the matrix or end it.
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

// SAFETY: inputs, numbers and weights are only read, by all members. `out` is a pointer, which each
// member offsets to columns that no other has (`share`).
unsafe impl<W> Sync for Shared<W> {}

impl Job {
    /// Runs the job, its columns shared among a team.
    ///
    /// # Safety
    /// `left` has all its rows of `depth` inputs and, where `numbers` is not null, a number for each;
    /// `right` has `depth` lines of all panels up to `columns`; `out` has `left.rows` rows of
    /// `columns` values, `out_row` apart, which nobody else uses meanwhile. The same for every
    /// function here that takes a job and weights.
    unsafe fn share<W: Word>(self, team: Team<'_>, right: Right<W>) {
        let (rows, columns) = (self.left.rows, self.columns);
        if team.threads() == 1 {
            // SAFETY: the whole job, of which the caller has bounded all accesses.
            return unsafe { dispatch(&self, right) };
        }
        let (unit, speed) = match rows {
            1 => (COLUMN_BLOCK, PER_NANOSECOND),
            // Inputs are cut anew for each part.
            _ if uses_units::<W>() => (4 * COLUMN_BLOCK, UNITS_PER_NANOSECOND),
            _ => (2 * PANEL, PER_NANOSECOND),
        };
        let cost = (rows.max(FREE_ROWS) * self.depth) as f64 / speed;
        let shared = Shared(self, right);
        team.split(columns, unit, cost, |range, _| {
            let Shared(job, right) = &shared;
            // SAFETY: a range is some of the job's columns, from a multiple of PANEL on, so that its
            // inputs, weights and results are some of those that the caller has bounded; no column
            // is in two ranges, and `split` ends before `x`, `w` and `out` are given back.
            unsafe {
                let out = job.out.add(range.start);
                let job = Job { columns: range.len(), out, ..*job };
                dispatch(&job, right.from(0, range.start));
            }
        });
    }
}

/// Whether products with such weights go to matrix units.
fn uses_units<W: Word>() -> bool {
    #[cfg(target_arch = "x86_64")]
    return W::PAIRS && amx::is_available();
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// Runs a job on the best instruction set.
///
/// # Safety
/// As for [`Job::share`].
unsafe fn dispatch<W: Word>(job: &Job, right: Right<W>) {
    #[cfg(target_arch = "x86_64")]
    if uses_units::<W>() {
        let Right { w, row, panel } = right;
        // SAFETY: the caller has bounded the job; `uses_units` has found the units, and that `W` is
        // `u32`, the one form of words in pairs.
        return unsafe { amx::run(job, Right { w: w.cast(), row, panel }) };
    }
    // SAFETY: the caller has bounded the job.
    unsafe { dispatch_vectors(job, right) }
}

/// Runs a job on the widest vectors.
///
/// # Safety
/// As for [`Job::share`].
unsafe fn dispatch_vectors<W: Word>(job: &Job, right: Right<W>) {
    // SAFETY: the caller has bounded the job; `isa` has detected the instruction set.
    unsafe {
        match isa() {
            Isa::Portable => run::<Portable, W, 2, 2, 4, 8, 2, 256>(job, right),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => run_avx2(job, right),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => run_avx512(job, right),
        }
    }
}

/// # Safety
/// As for [`Job::share`]; the processor has AVX2, FMA and F16C.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn run_avx2<W: Word>(job: &Job, right: Right<W>) {
    // SAFETY: the caller has bounded the job; this function is compiled for AVX2.
    unsafe { run::<Avx2, W, 2, 2, 4, 8, 2, 256>(job, right) }
}

/// # Safety
/// As for [`Job::share`]; the processor has AVX-512F.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn run_avx512<W: Word>(job: &Job, right: Right<W>) {
    // SAFETY: the caller has bounded the job; this function is compiled for AVX-512F.
    unsafe { run::<Avx512, W, 1, 2, 2, 4, 4, 128>(job, right) }
}

/// The product. A panel is `V1` vectors wide; `V6`, `V2` and `V4` vectors of columns keep enough
/// sums in flight beside 4 to 6 rows, 2 or 3 rows and 1 row. Of many rows, six meet `WIDE` vectors
/// of columns, as many as the registers hold, `DEPTH` deep, as much as the first-level cache does.
///
/// # Safety
/// As for [`Job::share`]; the instruction set of `V` is available. `V1` vectors are a panel.
#[inline(always)]
unsafe fn run<
    V,
    W,
    const V1: usize,
    const V6: usize,
    const V2: usize,
    const V4: usize,
    const WIDE: usize,
    const DEPTH: usize,
>(
    job: &Job,
    right: Right<W>,
) where
    V: Simd,
    W: Word,
{
    let wide_input = job.columns >= MANY_COLUMNS;
    // SAFETY: the caller has bounded the job and has the instruction set.
    unsafe {
        if job.left.rows < MANY_ROWS || !(W::NARROW || wide_input) {
            few_rows::<V, W, V1, V6, V2, V4>(job, right);
        } else if wide_input {
            many_rows::<V, W, V1, V6, WIDE, DEPTH, true>(job, right);
        } else {
            many_rows::<V, W, V1, V6, WIDE, DEPTH, false>(job, right);
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

    /// As a share of the sum of all terms' sizes.
    const TOLERANCE: f64 = 3e-7;

    /// What a sum may be off by where its order is not the plain chain's.
    fn tolerance(x: &[f32], w: &[f32]) -> f64 {
        x.iter().zip(w).map(|(x, w)| f64::from((x * w).abs())).sum::<f64>() * TOLERANCE
    }

    fn exact(x: &[f32], w: &[f32]) -> f64 {
        x.iter().zip(w).map(|(x, w)| f64::from(*x) * f64::from(*w)).sum()
    }

    /// Whether products with these weights go to matrix units.
    fn has_units(w: &Matrix) -> bool {
        matches!(w.panels().values, Values::Bf16(_)) && uses_units::<u32>()
    }

    #[test]
    fn every_size_gives_the_same_bits_as_the_plain_chain() {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
        for (columns, depth) in [(1, 1), (16, 8), (17, 40), (48, 5), (97, 44), (130, 1101)] {
            let sizes = [1, 2, 3, 4, 5, 6, 7, 13, 19, 21, 23, 26, 147];
            for (w, rows) in
                forms(columns, depth).iter().flat_map(|w| sizes.map(|rows| (w.clone(), rows)))
            {
                let matrix = Matrix::pack(&w, columns, depth);
                let x = values(rows * depth, "x");
                let mut out = vec![f32::NAN; rows * columns];
                multiply(Team::alone(), rows, &x, depth, matrix.panels(), &mut out, columns);
                for (i, value) in out.iter().enumerate() {
                    let (x, w) = (&x[i / columns * depth..], &w[i % columns * depth..]);
                    let (x, w) = (&x[..depth], &w[..depth]);
                    if has_units(&matrix) {
                        let off = (f64::from(*value) - exact(x, w)).abs();
                        assert!(off <= tolerance(x, w), "{rows}x{columns}x{depth}: {off}");
                    } else {
                        assert_eq!(*value, plain(x, w), "{rows}x{columns}x{depth}");
                    }
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
    fn a_row_does_not_depend_on_the_others() {
        for (rows, columns, depth) in [(150, 70, 96), (33, 40, 1200), (20, 33, 50)] {
            let x = values(rows * depth, "x");
            for w in forms(columns, depth) {
                let matrix = Matrix::pack(&w, columns, depth);
                let mut all = vec![0.0; rows * columns];
                multiply(Team::alone(), rows, &x, depth, matrix.panels(), &mut all, columns);
                for n in [1, 2, 7, 17] {
                    let mut some = vec![0.0; n * columns];
                    for first in (0..rows - n).step_by(n) {
                        let x = &x[first * depth..];
                        multiply(Team::alone(), n, x, depth, matrix.panels(), &mut some, columns);
                        assert_eq!(some, all[first * columns..][..some.len()], "{n} of {rows}");
                    }
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
        fn check<W: Word>(job: Job, w: *const W, row: usize, panel: usize, n: usize) {
            let right = Right { w, row, panel };
            let run_to = |run: &dyn Fn(&Job, Right<W>)| {
                let mut out = vec![0.0; n];
                run(&Job { out: out.as_mut_ptr(), ..job }, right);
                out
            };
            // SAFETY: the job's sizes are those of `x`, of the packed matrix and of `out`.
            let portable = run_to(&|job, right| unsafe {
                run::<Portable, _, 2, 2, 4, 8, 2, 256>(job, right);
            });
            // SAFETY: the job's sizes are those of `x`, of the packed matrix and of `out`.
            assert_eq!(run_to(&|job, right| unsafe { dispatch_vectors(job, right) }), portable);
            #[cfg(target_arch = "x86_64")]
            if isa() != Isa::Portable {
                // SAFETY: the job's sizes are those of its buffers; where the instruction set is not
                // the portable one, `isa` has found AVX2, FMA and F16C.
                assert_eq!(run_to(&|job, right| unsafe { run_avx2(job, right) }), portable);
            }
        }
        let (rows, columns, depth) = (21, 41, 333);
        let x = values(rows * depth, "x");
        for w in forms(columns, depth) {
            let matrix = Matrix::pack(&w, columns, depth);
            let Panels { values, row, panel, .. } = matrix.panels();
            let left = Left { rows, numbers: std::ptr::null(), x: x.as_ptr(), x_row: depth };
            let job = Job { left, columns, depth, out: std::ptr::null_mut(), out_row: columns };
            match values {
                Values::F32(w) => check(job, w.as_ptr(), row, panel, rows * columns),
                Values::Bf16(w) => check(job, w.as_ptr(), row, panel, rows * columns),
                Values::F16(w) => check(job, w.as_ptr(), row, panel, rows * columns),
            }
        }
    }

    /// Large and small inputs side by side, and no numbers where there are none.
    #[test]
    fn units_give_what_float32_does() {
        let (rows, columns, depth) = (40, 24, 160);
        let mut x = values(rows * depth, "x");
        for (i, x) in x.iter_mut().enumerate() {
            *x *= 10_f32.powi(i as i32 * 7 % 13 - 6);
        }
        x[3] = f32::NAN;
        x[depth + 5] = f32::INFINITY;
        let w = &forms(columns, depth)[1];
        let matrix = Matrix::pack(w, columns, depth);
        let mut out = vec![0.0; rows * columns];
        multiply(Team::alone(), rows, &x, depth, matrix.panels(), &mut out, columns);
        assert!(out[..2 * columns].iter().all(|value| !value.is_finite()));
        for (i, value) in out.iter().enumerate().skip(2 * columns) {
            let (x, w) = (&x[i / columns * depth..][..depth], &w[i % columns * depth..][..depth]);
            let off = (f64::from(*value) - exact(x, w)).abs();
            // without units it is the plain chain, which rounds once for each of its terms
            let chain = depth as f64 * f64::from(f32::EPSILON / 2.0) / TOLERANCE;
            let allowed = if has_units(&matrix) { 1.0 } else { chain } * tolerance(x, w);
            assert!(off <= allowed, "{i}: {off}");
        }
    }
}
