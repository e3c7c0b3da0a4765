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
    /// (tokens), `heads` apart
    pub(crate) beta: &'a [f32],
    /// (tokens), `heads` apart
    pub(crate) decay: &'a [f32],
    pub(crate) heads: usize,
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
pub(crate) fn scan(job: &Scan<'_>, state: &mut [f32], out: &mut [f32]) {
    let Some(last) = job.tokens.checked_sub(1) else { return };
    let out_row = job.value_dim;
    assert!(job.queries.len() >= last * job.row + job.key_dim, "queries of all tokens");
    assert!(job.keys.len() >= last * job.row + job.key_dim, "keys of all tokens");
    assert!(job.values.len() >= last * job.row + job.value_dim, "values of all tokens");
    assert!(job.beta.len() > last * job.heads && job.decay.len() > last * job.heads, "gates");
    assert!(out.len() >= last * out_row + job.value_dim, "out of all tokens");
    assert_eq!(state.len(), state_len(job.key_dim, job.value_dim), "a whole state");
    let width = block_width(job.value_dim);
    for (i, block) in state.chunks_exact_mut(job.key_dim * width).enumerate() {
        let columns = i * width..job.value_dim.min((i + 1) * width);
        // SAFETY: the asserts above bound every access; the instruction set was detected.
        unsafe {
            match (isa(), width) {
                (Isa::Portable, 16) => run::<Portable, 2>(job, columns, block, out, out_row),
                (Isa::Portable, _) => run::<Portable, 4>(job, columns, block, out, out_row),
                #[cfg(target_arch = "x86_64")]
                (Isa::Avx2, 16) => run_avx2::<2>(job, columns, block, out, out_row),
                #[cfg(target_arch = "x86_64")]
                (Isa::Avx2, _) => run_avx2::<4>(job, columns, block, out, out_row),
                #[cfg(target_arch = "x86_64")]
                (Isa::Avx512, 16) => run_avx512::<1>(job, columns, block, out, out_row),
                #[cfg(target_arch = "x86_64")]
                (Isa::Avx512, _) => run_avx512::<2>(job, columns, block, out, out_row),
            }
        }
    }
}

type Columns = std::ops::Range<usize>;

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn run_avx2<const N: usize>(
    job: &Scan<'_>,
    columns: Columns,
    state: &mut [f32],
    out: &mut [f32],
    out_row: usize,
) {
    // SAFETY: handed on.
    unsafe { run::<Avx2, N>(job, columns, state, out, out_row) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn run_avx512<const N: usize>(
    job: &Scan<'_>,
    columns: Columns,
    state: &mut [f32],
    out: &mut [f32],
    out_row: usize,
) {
    // SAFETY: handed on.
    unsafe { run::<Avx512, N>(job, columns, state, out, out_row) }
}

/// One block of `N` vectors of columns over all tokens.
#[inline(always)]
unsafe fn run<V: Simd, const N: usize>(
    job: &Scan<'_>,
    columns: Columns,
    state: &mut [f32],
    out: &mut [f32],
    out_row: usize,
) {
    let width = N * V::LANES;
    let mut edge = [0.0_f32; 32];
    for t in 0..job.tokens {
        // SAFETY: `scan` has bounded all slices; a block that is not whole goes through `edge`.
        unsafe {
            let mut values = job.values.as_ptr().add(t * job.row + columns.start);
            let to = out.as_mut_ptr().add(t * out_row + columns.start);
            let whole = columns.len() == width;
            if !whole {
                std::ptr::copy_nonoverlapping(values, edge.as_mut_ptr(), columns.len());
                values = edge.as_ptr();
            }
            let result = step::<V, N>(
                state.as_mut_ptr(),
                &job.keys[t * job.row..][..job.key_dim],
                &job.queries[t * job.row..][..job.key_dim],
                values,
                job.decay[t * job.heads],
                job.beta[t * job.heads],
            );
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

/// One token: updates the block of the state and returns the output.
#[inline(always)]
unsafe fn step<V: Simd, const N: usize>(
    state: *mut f32,
    keys: &[f32],
    queries: &[f32],
    values: *const f32,
    decay: f32,
    beta: f32,
) -> [V; N] {
    let width = N * V::LANES;
    // SAFETY: the state holds a row of `width` for each key, and `values` one row.
    unsafe {
        let (decay, beta) = (V::splat(decay), V::splat(beta));
        // two chains of sums, for one would wait for itself
        let mut sums = [[V::splat(0.0); N]; 2];
        let (pairs, odd) = keys.as_chunks::<2>();
        let mut row = state.cast_const();
        for pair in pairs {
            for (k, sums) in pair.iter().zip(&mut sums) {
                let k = V::splat(*k);
                for (n, sum) in sums.iter_mut().enumerate() {
                    *sum = k.mul_add(V::load(row.add(n * V::LANES)), *sum);
                }
                row = row.add(width);
            }
        }
        for k in odd {
            let k = V::splat(*k);
            for (n, sum) in sums[0].iter_mut().enumerate() {
                *sum = k.mul_add(V::load(row.add(n * V::LANES)), *sum);
            }
        }
        let delta: [V; N] = std::array::from_fn(|n| {
            let recalled = sums[0][n].add(sums[1][n]).mul(decay);
            beta.mul(V::load(values.add(n * V::LANES)).sub(recalled))
        });
        let mut out = [V::splat(0.0); N];
        for (i, (k, q)) in keys.iter().zip(queries).enumerate() {
            let (k, q, row) = (V::splat(*k), V::splat(*q), state.add(i * width));
            for n in 0..N {
                let at = row.add(n * V::LANES);
                let updated = k.mul_add(delta[n], decay.mul(V::load(at)));
                updated.store(at);
                out[n] = q.mul_add(updated, out[n]);
            }
        }
        out
    }
}
