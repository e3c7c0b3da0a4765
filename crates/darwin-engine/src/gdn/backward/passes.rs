//! What a token does to some columns of the state and of its gradient, by vectors.

use super::{Backward, COLUMNS, LANES, SIDE, some_of};
use crate::kernels::Simd;
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{
    _MM_TRANSPOSE4_PS, _mm_add_ps, _mm_loadu_ps, _mm_setzero_ps, _mm_storeu_ps,
};
use std::ops::Range;

/// What columns have at a token.
pub(super) struct Token {
    pub(super) out_grad: [f32; COLUMNS],
    pub(super) delta: [f32; COLUMNS],
    pub(super) u: [f32; COLUMNS],
}

/// From the state before a token to the one after it, at the same place or another; what it held for
/// the token's keys.
///
/// # Safety
/// The instruction set of `V` is available, and `N` of its vectors have [`LANES`] values. `state` and
/// `next` have [`COLUMNS`] columns as long as the key, whose length is a multiple of [`LANES`].
#[inline(always)]
pub(super) unsafe fn forwards<V: Simd, const N: usize>(
    job: &Backward<'_>,
    t: usize,
    columns: &Range<usize>,
    key: &[f32],
    state: *const f32,
    next: *mut f32,
) -> [f32; COLUMNS] {
    let (padded, decay, beta) = (key.len(), job.decay[t], job.beta[t]);
    let mut recalled = [0.0; COLUMNS];
    // SAFETY: the caller has the instruction set; SIDE columns from `some` on lie in the state, for
    // there are COLUMNS, a multiple of it, and `at` stays below their length.
    unsafe {
        for some in (0..columns.len()).step_by(SIDE) {
            let mut sums = [[V::splat(0.0); N]; SIDE];
            let mut at = 0;
            while at < padded {
                for n in 0..N {
                    let k = V::load(key.as_ptr().add(at + n * V::LANES));
                    for (c, sums) in sums.iter_mut().enumerate() {
                        let s = V::load(state.add((some + c) * padded + at + n * V::LANES));
                        sums[n] = k.mul_add(s, sums[n]);
                    }
                }
                at += LANES;
            }
            recalled[some..some + SIDE].copy_from_slice(&add_up::<V, N>(&sums));
        }
        let values = some_of(job.values, t * job.row + columns.start, columns.len());
        let mut delta = [0.0; COLUMNS];
        for c in 0..COLUMNS {
            delta[c] = beta * (values[c] - decay * recalled[c]);
        }
        let factor = V::splat(decay);
        for c in 0..columns.len() {
            let (delta, mut at) = (V::splat(delta[c]), 0);
            while at < padded {
                let (k, place) = (V::load(key.as_ptr().add(at)), c * padded + at);
                let kept = factor.mul(V::load(state.add(place)));
                k.mul_add(delta, kept).store(next.add(place));
                at += V::LANES;
            }
        }
    }
    recalled
}

/// Adds `q out_grad^T` to the gradient of columns, and gives their sums with the keys.
///
/// # Safety
/// The instruction set of `V` is available, and `N` of its vectors have [`LANES`] values. `grad` has
/// [`COLUMNS`] columns, of which `columns` are used, as long as query and key, a multiple of
/// [`LANES`].
#[inline(always)]
pub(super) unsafe fn first_pass<V: Simd, const N: usize>(
    query: &[f32],
    key: &[f32],
    columns: usize,
    out_grad: &[f32; COLUMNS],
    grad: &mut [f32],
) -> [f32; COLUMNS] {
    let (padded, mut all) = (key.len(), [0.0; COLUMNS]);
    // SAFETY: the caller has the instruction set; SIDE columns from `some` on lie in `grad`, and `at`
    // stays below their length.
    unsafe {
        for some in (0..columns).step_by(SIDE) {
            let mut sums = [[V::splat(0.0); N]; SIDE];
            let mut at = 0;
            while at < padded {
                for n in 0..N {
                    let from = at + n * V::LANES;
                    let q = V::load(query.as_ptr().add(from));
                    let k = V::load(key.as_ptr().add(from));
                    for (c, sums) in sums.iter_mut().enumerate() {
                        let place = grad.as_mut_ptr().add((some + c) * padded + from);
                        let sum = q.mul_add(V::splat(out_grad[some + c]), V::load(place));
                        sum.store(place);
                        sums[n] = k.mul_add(sum, sums[n]);
                    }
                }
                at += LANES;
            }
            all[some..some + SIDE].copy_from_slice(&add_up::<V, N>(&sums));
        }
    }
    all
}

/// Adds what columns give to the gradients of queries and keys (and `overlap` times the key to that
/// of the query), makes the gradient of the state before the token out of that after it, and gives
/// their part of the decay's gradient.
///
/// # Safety
/// The instruction set of `V` is available, and `N` of its vectors have [`LANES`] values. `state` and
/// `grad` have [`COLUMNS`] columns, of which `columns` are used, as long as the key and the two
/// gradients, a multiple of [`LANES`].
#[inline(always)]
pub(super) unsafe fn second_pass<V: Simd, const N: usize>(
    (key, decay, overlap): (&[f32], f32, f32),
    columns: usize,
    of: &Token,
    state: &[f32],
    grad: &mut [f32],
    queries_grad: &mut [f32],
    keys_grad: &mut [f32],
) -> f32 {
    let padded = key.len();
    // SAFETY: the caller has the instruction set; SIDE columns from `some` on lie in state and
    // gradient, and `at` stays below their length.
    unsafe {
        let mut sums = [[V::splat(0.0); N]; SIDE];
        let factor = V::splat(decay);
        let mut at = 0;
        while at < padded {
            for n in 0..N {
                let from = at + n * V::LANES;
                let k = V::load(key.as_ptr().add(from));
                let to_query = queries_grad.as_mut_ptr().add(from);
                let to_key = keys_grad.as_mut_ptr().add(from);
                // what the state gives, times `decay`
                let (mut query, mut of_state) = (V::splat(0.0), V::splat(0.0));
                let mut key = V::load(to_key);
                for some in (0..columns).step_by(SIDE) {
                    for (c, sums) in sums.iter_mut().enumerate() {
                        let (c, at) = (some + c, (some + c) * padded + from);
                        let place = grad.as_mut_ptr().add(at);
                        let (s, g) = (V::load(state.as_ptr().add(at)), V::load(place));
                        let u = V::splat(of.u[c]);
                        query = V::splat(of.out_grad[c]).mul_add(s, query);
                        of_state = u.mul_add(s, of_state);
                        key = V::splat(of.delta[c]).mul_add(g, key);
                        sums[n] = g.mul_add(s, sums[n]);
                        factor.mul(k.mul_add(u, g)).store(place);
                    }
                }
                let query = factor.mul_add(query, V::load(to_query));
                k.mul_add(V::splat(overlap), query).store(to_query);
                factor.mul_add(of_state, key).store(to_key);
            }
            at += LANES;
        }
        let [a, b, c, d] = add_up::<V, N>(&sums);
        (a + b) + (c + d)
    }
}

/// The sums over the lanes of each column, in an order that is the same for every instruction set.
///
/// # Safety
/// The instruction set of `V` is available, and `N` of its vectors have [`LANES`] values.
#[inline(always)]
unsafe fn add_up<V: Simd, const N: usize>(sums: &[[V; N]; SIDE]) -> [f32; SIDE] {
    let mut lanes = [[0.0_f32; LANES]; SIDE];
    for (to, from) in lanes.iter_mut().zip(sums) {
        for (n, vector) in from.iter().enumerate() {
            // SAFETY: the caller has the instruction set; `N` vectors are the lanes.
            unsafe { vector.store(to.as_mut_ptr().add(n * V::LANES)) };
        }
    }
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86-64 processor has SSE; reads and writes stay in the arrays.
    unsafe {
        let mut quarters = [_mm_setzero_ps(); SIDE];
        for (to, from) in quarters.iter_mut().zip(&lanes) {
            let first = _mm_add_ps(_mm_loadu_ps(from.as_ptr()), _mm_loadu_ps(from.as_ptr().add(4)));
            let from = from.as_ptr().add(8);
            *to = _mm_add_ps(first, _mm_add_ps(_mm_loadu_ps(from), _mm_loadu_ps(from.add(4))));
        }
        let [mut a, mut b, mut c, mut d] = quarters;
        _MM_TRANSPOSE4_PS(&mut a, &mut b, &mut c, &mut d);
        let mut out = [0.0; SIDE];
        _mm_storeu_ps(out.as_mut_ptr(), _mm_add_ps(_mm_add_ps(a, c), _mm_add_ps(b, d)));
        out
    }
    #[cfg(not(target_arch = "x86_64"))]
    std::array::from_fn(|c| {
        let lane = |i: usize| {
            let at = |part: usize| lanes[c][4 * part + i];
            (at(0) + at(1)) + (at(2) + at(3))
        };
        (lane(0) + lane(2)) + (lane(1) + lane(3))
    })
}
