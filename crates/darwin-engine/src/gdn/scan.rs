//! The delta rule, token by token, with the state in the first-level cache.
//!
//! For each token `S <- g S; d = beta (v - k^T S); S <- S + k d^T; out = q^T S`. Columns of the
//! state do not see each other, so it is cut into blocks of columns, and a block (key dim x 32
//! floats) stays close for the whole sequence.
//!
//! Why not chunks of C tokens: a token then costs about C (K + V) + 3 K V multiply-adds (C = 64)
//! where the recurrence costs 4 K V, which is less for key and value widths K = V below 128 and
//! the same at 128; and the chunked form rounds ten times worse (tools/oracle/taps.py).

#[cfg(target_arch = "x86_64")]
use crate::kernels::{Avx2, Avx512};
use crate::kernels::{Isa, Portable, Simd, isa};
use std::marker::PhantomData;
use std::ops::Range;

/// The recurrence of one head of one sequence; each slice starts at the head's first value.
pub(crate) struct Scan<'a> {
    pub(crate) tokens: usize,
    pub(crate) key_dim: usize,
    pub(crate) value_dim: usize,
    /// (tokens, key dim), rows `row` apart, scaled
    pub(crate) queries: &'a [f32],
    /// (tokens, key dim), rows `row` apart
    pub(crate) keys: &'a [f32],
    /// (tokens, value dim), rows `row` apart
    pub(crate) values: &'a [f32],
    pub(crate) row: usize,
    /// (tokens), as is `decay`
    pub(crate) beta: &'a [f32],
    pub(crate) decay: &'a [f32],
}

/// Some columns of a matrix (tokens, `row`), written by one head while others write the others.
#[derive(Clone, Copy)]
pub(crate) struct Columns<'a> {
    first: *mut f32,
    rows: usize,
    row: usize,
    width: usize,
    values: PhantomData<&'a mut [f32]>,
}

// SAFETY: a reference to it gives a pointer and no access; parts come from an unsafe function whose
// callers keep their columns apart, and f32 may be written by any thread.
unsafe impl Sync for Columns<'_> {}

impl<'a> Columns<'a> {
    /// All columns of rows of so many values.
    pub(crate) fn new(values: &'a mut [f32], row: usize) -> Self {
        let rows = values.len() / row;
        Self { first: values.as_mut_ptr(), rows, row, width: row, values: PhantomData }
    }

    /// Some of the columns.
    ///
    /// # Safety
    /// No two parts that are in use at a time share a column.
    ///
    /// # Panics
    /// If there are no such columns.
    pub(crate) unsafe fn part(&self, columns: Range<usize>) -> Self {
        assert!(columns.start <= columns.end && columns.end <= self.width, "columns lie inside");
        let first = self.first.wrapping_add(columns.start);
        Self { first, width: columns.len(), ..*self }
    }
}

/// Columns of a block of the state.
fn block_width(value_dim: usize) -> usize {
    if value_dim <= 16 { 16 } else { 32 }
}

/// Floats of one head's state: blocks of columns, each (key dim, block width), zero-padded.
pub(crate) fn state_len(key_dim: usize, value_dim: usize) -> usize {
    key_dim * value_dim.next_multiple_of(block_width(value_dim))
}

/// Runs a head, into `out` (tokens, value dim).
pub(crate) fn scan(job: &Scan<'_>, state: &mut [f32], out: Columns<'_>) {
    let Some(last) = job.tokens.checked_sub(1) else { return };
    assert!(job.queries.len() >= last * job.row + job.key_dim, "queries of all tokens");
    assert!(job.keys.len() >= last * job.row + job.key_dim, "keys of all tokens");
    assert!(job.values.len() >= last * job.row + job.value_dim, "values of all tokens");
    assert!(job.beta.len() > last && job.decay.len() > last, "gates of all tokens");
    assert!(out.rows >= job.tokens && out.width == job.value_dim, "out of all tokens");
    assert_eq!(state.len(), state_len(job.key_dim, job.value_dim), "a whole state");
    let width = block_width(job.value_dim);
    for (i, block) in state.chunks_exact_mut(job.key_dim * width).enumerate() {
        let columns = i * width..job.value_dim.min((i + 1) * width);
        // SAFETY: the asserts above bound all slices and `out`, and `block` is a block of the state,
        // a row of `width` for each key; `isa` has detected the instruction set.
        unsafe {
            match (isa(), width) {
                (Isa::Portable, 16) => run::<Portable, 2>(job, columns, block, out),
                (Isa::Portable, _) => run::<Portable, 4>(job, columns, block, out),
                #[cfg(target_arch = "x86_64")]
                (Isa::Avx2, 16) => run_avx2::<2>(job, columns, block, out),
                #[cfg(target_arch = "x86_64")]
                (Isa::Avx2, _) => run_avx2::<4>(job, columns, block, out),
                #[cfg(target_arch = "x86_64")]
                (Isa::Avx512, 16) => run_avx512::<1>(job, columns, block, out),
                #[cfg(target_arch = "x86_64")]
                (Isa::Avx512, _) => run_avx512::<2>(job, columns, block, out),
            }
        }
    }
}

/// # Safety
/// As for [`run`]; the processor has AVX2 and FMA.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn run_avx2<const N: usize>(
    job: &Scan<'_>,
    columns: Range<usize>,
    state: &mut [f32],
    out: Columns<'_>,
) {
    // SAFETY: the caller has bounded the job; this function is compiled for AVX2.
    unsafe { run::<Avx2, N>(job, columns, state, out) }
}

/// # Safety
/// As for [`run`]; the processor has AVX-512F.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn run_avx512<const N: usize>(
    job: &Scan<'_>,
    columns: Range<usize>,
    state: &mut [f32],
    out: Columns<'_>,
) {
    // SAFETY: the caller has bounded the job; this function is compiled for AVX-512F.
    unsafe { run::<Avx512, N>(job, columns, state, out) }
}

/// One block of `N` vectors of columns over all tokens.
///
/// # Safety
/// The instruction set of `V` is available. The job's slices have all tokens, as [`scan`] asserts;
/// `columns` are at most `N` vectors of the value's; `state` has a row of `N` vectors, 32 values at most,
/// for each key; `out` has a row for each token, and nobody else uses its columns meanwhile.
#[inline(always)]
unsafe fn run<V: Simd, const N: usize>(
    job: &Scan<'_>,
    columns: Range<usize>,
    state: &mut [f32],
    out: Columns<'_>,
) {
    let width = N * V::LANES;
    let mut edge = [0.0_f32; 32];
    let row = |values: &'_ [f32], t: usize| values.as_ptr().wrapping_add(t * job.row);
    // SAFETY: rows of all tokens lie in the slices and in `out`, as the caller says; columns of a block
    // that is not whole go through `edge`, which has room for `N` vectors.
    unsafe {
        let mut recalled = recall::<V, N>(state.as_ptr(), &job.keys[..job.key_dim]);
        for t in 0..job.tokens {
            let mut values = row(job.values, t).add(columns.start);
            let to = out.first.add(t * out.row + columns.start);
            let whole = columns.len() == width;
            if !whole {
                std::ptr::copy_nonoverlapping(values, edge.as_mut_ptr(), columns.len());
                values = edge.as_ptr();
            }
            // The last token recalls for itself what nobody reads.
            let next = (t + 1).min(job.tokens - 1);
            let token = Token {
                keys: row(job.keys, t),
                queries: row(job.queries, t),
                next_keys: row(job.keys, next),
                values,
                decay: job.decay[t],
                beta: job.beta[t],
            };
            let result = step::<V, N>(state.as_mut_ptr(), job.key_dim, &token, &mut recalled);
            let target = if whole { to } else { edge.as_mut_ptr() };
            for (n, value) in result.iter().enumerate() {
                value.store(target.add(n * V::LANES));
            }
            if !whole {
                std::ptr::copy_nonoverlapping(edge.as_ptr(), to, columns.len());
            }
        }
    }
}

/// `k^T S` in two chains of sums, over even and odd rows, for one would wait for itself.
type Recalled<V, const N: usize> = [[V; N]; 2];

/// What the state holds for keys.
///
/// # Safety
/// The instruction set of `V` is available; `state` has a row of `N` vectors for each key.
#[inline(always)]
unsafe fn recall<V: Simd, const N: usize>(state: *const f32, keys: &[f32]) -> Recalled<V, N> {
    // SAFETY: the caller has the instruction set and a row of the state for each key.
    unsafe {
        let mut sums = [[V::splat(0.0); N]; 2];
        for (i, k) in keys.iter().enumerate() {
            let (k, row) = (V::splat(*k), state.add(i * N * V::LANES));
            for (n, sum) in sums[i % 2].iter_mut().enumerate() {
                *sum = k.mul_add(V::load(row.add(n * V::LANES)), *sum);
            }
        }
        sums
    }
}

/// What a token brings, and the keys of the one after it.
struct Token {
    keys: *const f32,
    queries: *const f32,
    next_keys: *const f32,
    values: *const f32,
    decay: f32,
    beta: f32,
}

/// One token: updates the block of the state and returns the output. `recalled` is what the state
/// holds for its keys, then for the next token's: the state is read once.
///
/// # Safety
/// The instruction set of `V` is available; `state` has `key_dim` rows of `N` vectors; the token has
/// `key_dim` keys, queries and next keys, and `N` vectors of values.
#[inline(always)]
unsafe fn step<V: Simd, const N: usize>(
    state: *mut f32,
    key_dim: usize,
    token: &Token,
    recalled: &mut Recalled<V, N>,
) -> [V; N] {
    // SAFETY: the caller has the instruction set, `key_dim` rows of the state, as many keys and
    // queries, and `N` vectors of values.
    unsafe {
        let (decay, beta) = (V::splat(token.decay), V::splat(token.beta));
        let delta: [V; N] = std::array::from_fn(|n| {
            let recalled = recalled[0][n].add(recalled[1][n]).mul(decay);
            beta.mul(V::load(token.values.add(n * V::LANES)).sub(recalled))
        });
        let (mut out, mut sums) = ([V::splat(0.0); N], [[V::splat(0.0); N]; 2]);
        let mut i = 0;
        while i + 2 <= key_dim {
            update(state, i, token, decay, &delta, &mut out, &mut sums[0]);
            update(state, i + 1, token, decay, &delta, &mut out, &mut sums[1]);
            i += 2;
        }
        if i < key_dim {
            update(state, i, token, decay, &delta, &mut out, &mut sums[0]);
        }
        *recalled = sums;
        out
    }
}

/// One row of the state: decayed, the token's added, and what it gives to output and sums.
///
/// # Safety
/// The instruction set of `V` is available; `state` has a row `i` of `N` vectors, the token a key, query
/// and next key `i`.
#[inline(always)]
unsafe fn update<V: Simd, const N: usize>(
    state: *mut f32,
    i: usize,
    token: &Token,
    decay: V,
    delta: &[V; N],
    out: &mut [V; N],
    sums: &mut [V; N],
) {
    // SAFETY: the caller has the instruction set, row `i` of the state, and key and queries `i`.
    unsafe {
        let row = state.add(i * N * V::LANES);
        let k = V::splat(*token.keys.add(i));
        let q = V::splat(*token.queries.add(i));
        let next = V::splat(*token.next_keys.add(i));
        for n in 0..N {
            let at = row.add(n * V::LANES);
            let updated = k.mul_add(delta[n], decay.mul(V::load(at)));
            updated.store(at);
            out[n] = q.mul_add(updated, out[n]);
            sums[n] = next.mul_add(updated, sums[n]);
        }
    }
}
