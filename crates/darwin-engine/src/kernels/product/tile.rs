//! Sums that are kept in registers.

use super::super::matrix::PANEL;
use super::super::simd::Simd;
use super::super::word::Word;
use super::{Job, Right};
use std::ops::Range;

/// How far ahead of the depth at hand weights are asked for.
const AHEAD: usize = 32;

/// `M` rows by `N` vectors of the result from (row, column) on. The inputs of a row lie `STEP`
/// apart.
///
/// # Safety
/// The instruction set of `V` is available. The job has rows `row..row + M`, and writable columns from
/// `column` on: `N` vectors, or fewer than a panel where the job ends (then `N` vectors are a panel).
/// `right` points to `column` at `depth.start`, with `depth.len()` lines of `N` vectors. Each of `x`
/// points to `depth.len()` inputs, `STEP` apart. `depth` begins at an even number.
#[inline(always)]
pub(super) unsafe fn tile<V: Simd, W: Word, const M: usize, const N: usize, const STEP: usize>(
    job: &Job,
    x: [*const f32; M],
    right: Right<W>,
    (row, column): (usize, usize),
    depth: &Range<usize>,
) {
    // SAFETY: rows and columns lie within the job, the lines within the weights, the inputs within
    // `x`, as the caller says; columns beyond the job's go through `edge`, which holds a panel; hints
    // may name any address.
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
///
/// # Safety
/// The instruction set of `V` is available; each of `x` points to an input, each of `w` to a vector of
/// columns whose line of depth `k` can be read.
#[inline(always)]
unsafe fn add_outer<V: Simd, W: Word, const M: usize, const N: usize, const ODD: bool>(
    acc: &mut [[V; N]; M],
    x: [*const f32; M],
    w: &[*const W; N],
    k: usize,
    w_row: usize,
) {
    // SAFETY: the caller has the instruction set, an input behind each of `x` and the line of `k`
    // behind each of `w`.
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
