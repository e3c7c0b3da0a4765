//! Gradients of the delta rule.
//!
//! For each token `S' = g S + k d^T; d = beta (v - g S^T k); out = S'^T q`. With `G` the gradient of
//! `S'`, what comes from later tokens and `q out_grad^T`:
//!
//! ```text
//! d_grad = G^T k             v_grad    = beta d_grad         u = -beta d_grad
//! q_grad = S' out_grad       beta_grad = d_grad . (v - g S^T k)
//! k_grad = G d + g S u       g_grad    = <G, S> + u . S^T k
//! and the gradient of S is g (G + k u^T)
//! ```
//!
//! Columns of the state do not see each other. A block of columns goes through the sequence forwards,
//! its state is kept every [`CHUNK`] tokens, and then backwards, the states of a chunk made again
//! from the one that was kept. A column's values lie behind each other, so that sums over the keys'
//! dimensions are the only ones across a vector.

mod passes;

#[cfg(target_arch = "x86_64")]
use crate::kernels::{Avx2, Avx512};
use crate::kernels::{Buffer, Isa, Portable, Simd, isa};
use passes::{Token, first_pass, forwards, second_pass};
use std::ops::Range;

/// Tokens between states that are kept.
const CHUNK: usize = 32;

/// Columns that go through the sequence together.
const COLUMNS: usize = 16;

/// Columns whose values are worked on side by side.
const SIDE: usize = 4;

/// Values of a vector; keys are padded to it with zeros.
const LANES: usize = 16;

/// The recurrence of one head of one sequence from an empty state; each slice starts at the head's
/// first value.
pub(crate) struct Backward<'a> {
    pub(crate) tokens: usize,
    pub(crate) key_dim: usize,
    pub(crate) value_dim: usize,
    /// (tokens, key dim), rows `row` apart, as they were put in; likewise `keys` and `values`
    pub(crate) queries: &'a [f32],
    pub(crate) keys: &'a [f32],
    pub(crate) values: &'a [f32],
    pub(crate) row: usize,
    /// (tokens), as is `decay`
    pub(crate) beta: &'a [f32],
    pub(crate) decay: &'a [f32],
    /// The gradient of the output (tokens, value dim), rows `grad_row` apart
    pub(crate) grad: &'a [f32],
    pub(crate) grad_row: usize,
}

/// Gradients of a head's inputs.
#[derive(Debug)]
pub(crate) struct Gradients<'a> {
    /// (tokens, key dim), as is `keys`
    pub(crate) queries: &'a mut [f32],
    pub(crate) keys: &'a mut [f32],
    /// (tokens, value dim)
    pub(crate) values: &'a mut [f32],
    /// (tokens), as is `decay`
    pub(crate) beta: &'a mut [f32],
    pub(crate) decay: &'a mut [f32],
}

/// Buffers of one thread.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    /// (tokens, padded key dim), as are the three that follow
    queries: Buffer,
    keys: Buffer,
    queries_grad: Buffer,
    keys_grad: Buffer,
    /// (chunks, columns, padded key dim)
    kept: Buffer,
    /// The state before each token of a chunk, and after the last: (tokens, columns, padded key dim)
    states: Buffer,
    /// (columns, padded key dim)
    grad: Buffer,
    /// `S^T k` of each token of a chunk: (tokens, columns)
    recalled: Buffer,
}

impl Backward<'_> {
    /// The gradients of all inputs.
    pub(crate) fn run(&self, scratch: &mut Scratch, out: &mut Gradients<'_>) {
        if self.tokens == 0 {
            return;
        }
        let padded = self.key_dim.next_multiple_of(LANES);
        for (to, from) in [(&mut scratch.queries, self.queries), (&mut scratch.keys, self.keys)] {
            let to = to.first(self.tokens * padded);
            for (to, from) in to.chunks_exact_mut(padded).zip(from.chunks(self.row)) {
                to[..self.key_dim].copy_from_slice(&from[..self.key_dim]);
                to[self.key_dim..].fill(0.0);
            }
        }
        scratch.queries_grad.first(self.tokens * padded).fill(0.0);
        scratch.keys_grad.first(self.tokens * padded).fill(0.0);
        scratch.kept.first(self.tokens.div_ceil(CHUNK) * COLUMNS * padded);
        scratch.states.first((CHUNK + 1) * COLUMNS * padded);
        scratch.grad.first(COLUMNS * padded);
        scratch.recalled.first(CHUNK * COLUMNS);
        out.beta[..self.tokens].fill(0.0);
        out.decay[..self.tokens].fill(0.0);
        for first in (0..self.value_dim).step_by(COLUMNS) {
            let columns = COLUMNS.min(self.value_dim - first);
            dispatch(self, first..first + columns, padded, scratch, out);
        }
        let grads =
            [(&scratch.queries_grad, &mut *out.queries), (&scratch.keys_grad, &mut *out.keys)];
        for (from, to) in grads {
            let rows = to.chunks_exact_mut(self.key_dim).zip(from.chunks_exact(padded));
            rows.take(self.tokens).for_each(|(to, from)| to.copy_from_slice(&from[..self.key_dim]));
        }
    }
}

/// [`block`] on the best instruction set.
fn dispatch(
    job: &Backward<'_>,
    columns: Range<usize>,
    padded: usize,
    scratch: &mut Scratch,
    out: &mut Gradients<'_>,
) {
    // SAFETY: `isa` has detected the instruction set; `Backward::run` has sized the buffers.
    unsafe {
        match isa() {
            Isa::Portable => block::<Portable, 2>(job, columns, padded, scratch, out),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => block_avx2(job, columns, padded, scratch, out),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => block_avx512(job, columns, padded, scratch, out),
        }
    }
}

/// # Safety
/// As for [`block`]; the processor has AVX2 and FMA.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn block_avx2(
    job: &Backward<'_>,
    columns: Range<usize>,
    padded: usize,
    scratch: &mut Scratch,
    out: &mut Gradients<'_>,
) {
    // SAFETY: the caller has sized the buffers; this function is compiled for AVX2.
    unsafe { block::<Avx2, 2>(job, columns, padded, scratch, out) }
}

/// # Safety
/// As for [`block`]; the processor has AVX-512F.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn block_avx512(
    job: &Backward<'_>,
    columns: Range<usize>,
    padded: usize,
    scratch: &mut Scratch,
    out: &mut Gradients<'_>,
) {
    // SAFETY: the caller has sized the buffers; this function is compiled for AVX-512F.
    unsafe { block::<Avx512, 1>(job, columns, padded, scratch, out) }
}

/// Some columns of the state over the whole sequence and back.
///
/// # Safety
/// The instruction set of `V` is available, and `N` of its vectors have [`LANES`] values. The buffers
/// have the sizes that [`Backward::run`] gives them for `padded`, a multiple of [`LANES`].
#[inline(always)]
unsafe fn block<V: Simd, const N: usize>(
    job: &Backward<'_>,
    columns: Range<usize>,
    padded: usize,
    scratch: &mut Scratch,
    out: &mut Gradients<'_>,
) {
    let Scratch { queries, keys, queries_grad, keys_grad, kept, states, grad, recalled } = scratch;
    let (size, first) = (COLUMNS * padded, columns.start);
    let states = &mut states[..(CHUNK + 1) * size];
    let grad = &mut grad[..size];
    // where there are fewer columns, the others stay 0 in all states
    let zeros = if columns.len() < COLUMNS { states.len() } else { size };
    states[..zeros].fill(0.0);
    grad.fill(0.0);
    // up to the state before the last chunk
    let chunks = job.tokens.div_ceil(CHUNK);
    for t in 0..=(chunks - 1) * CHUNK {
        if t % CHUNK == 0 {
            kept[t / CHUNK * size..][..size].copy_from_slice(&states[..size]);
        }
        if t == (chunks - 1) * CHUNK {
            break;
        }
        // SAFETY: the caller has the instruction set and has sized the buffers.
        unsafe {
            let state = states.as_mut_ptr();
            forwards::<V, N>(job, t, &columns, row(keys, t, padded), state, state);
        }
    }
    for chunk in (0..chunks).rev() {
        let tokens = chunk * CHUNK..job.tokens.min((chunk + 1) * CHUNK);
        states[..size].copy_from_slice(&kept[chunk * size..][..size]);
        for (i, t) in tokens.clone().enumerate() {
            let (now, next) = states[i * size..].split_at_mut(size);
            let (now, next) = (now.as_ptr(), next[..size].as_mut_ptr());
            // SAFETY: the caller has the instruction set and has sized the buffers.
            let held =
                unsafe { forwards::<V, N>(job, t, &columns, row(keys, t, padded), now, next) };
            recalled[i * COLUMNS..(i + 1) * COLUMNS].copy_from_slice(&held);
        }
        for (i, t) in tokens.enumerate().rev() {
            let keys_grad = &mut keys_grad[t * padded..(t + 1) * padded];
            let queries_grad = &mut queries_grad[t * padded..(t + 1) * padded];
            let (query, key) = (row(queries, t, padded), row(keys, t, padded));
            let recalled = &recalled[i * COLUMNS..(i + 1) * COLUMNS];
            let state = &states[i * size..(i + 1) * size];
            let (beta, decay) = (job.beta[t], job.decay[t]);
            let out_grad = some_of(job.grad, job.grad_row * t + first, columns.len());
            let values = some_of(job.values, job.row * t + first, columns.len());
            // SAFETY: the caller has the instruction set; `grad` has COLUMNS columns as long as
            // query and key.
            let sums = unsafe { first_pass::<V, N>(query, key, columns.len(), &out_grad, grad) };
            let mut of = Token { out_grad, delta: [0.0; COLUMNS], u: [0.0; COLUMNS] };
            let (mut left, mut held, mut overlap) = ([0.0; COLUMNS], of.u, of.u);
            for c in 0..COLUMNS {
                left[c] = values[c] - decay * recalled[c];
                of.delta[c] = beta * left[c];
                of.u[c] = -beta * sums[c];
                left[c] *= sums[c];
                held[c] = of.u[c] * recalled[c];
                overlap[c] = of.delta[c] * out_grad[c];
            }
            let values_grad = &mut out.values[t * job.value_dim + first..][..columns.len()];
            values_grad.iter_mut().zip(&sums).for_each(|(to, sum)| *to = beta * sum);
            out.beta[t] += sum(&left);
            let overlap = sum(&overlap);
            // SAFETY: the caller has the instruction set; state and gradient have COLUMNS columns as
            // long as the key and the gradients of query and key.
            let of_decay = unsafe {
                let keys = (key, decay, overlap);
                second_pass::<V, N>(keys, columns.len(), &of, state, grad, queries_grad, keys_grad)
            };
            out.decay[t] += sum(&held) + of_decay;
        }
    }
}

/// Values of some columns, and zeros.
#[inline(always)]
fn some_of(values: &[f32], at: usize, n: usize) -> [f32; COLUMNS] {
    let mut some = [0.0; COLUMNS];
    some[..n].copy_from_slice(&values[at..at + n]);
    some
}

/// The sum, by halves.
#[inline(always)]
fn sum(values: &[f32; COLUMNS]) -> f32 {
    let mut half = [0.0; COLUMNS / 2];
    for i in 0..COLUMNS / 2 {
        half[i] = values[i] + values[i + COLUMNS / 2];
    }
    ((half[0] + half[4]) + (half[2] + half[6])) + ((half[1] + half[5]) + (half[3] + half[7]))
}

/// The row of a token.
#[inline(always)]
fn row(rows: &[f32], t: usize, padded: usize) -> &[f32] {
    &rows[t * padded..(t + 1) * padded]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The loss `sum of weight * out` in float64.
    fn loss(job: &Backward<'_>, inputs: &[Vec<f64>; 5], weight: &[f32]) -> f64 {
        let [queries, keys, values, beta, decay] = inputs;
        let (key, value) = (job.key_dim, job.value_dim);
        let mut state = vec![0.0; key * value];
        let mut loss = 0.0;
        for t in 0..job.tokens {
            for c in 0..value {
                let mut held = 0.0;
                for i in 0..key {
                    state[i * value + c] *= decay[t];
                    held += state[i * value + c] * keys[t * key + i];
                }
                let delta = beta[t] * (values[t * value + c] - held);
                let mut out = 0.0;
                for i in 0..key {
                    state[i * value + c] += keys[t * key + i] * delta;
                    out += state[i * value + c] * queries[t * key + i];
                }
                loss += out * f64::from(weight[t * value + c]);
            }
        }
        loss
    }

    #[test]
    fn gradients_equal_central_differences() {
        for (tokens, key, value) in [(1, 4, 3), (5, 6, 5), (37, 20, 24), (40, 16, 33)] {
            let values = |n: usize, of: usize, low: f32, high: f32| -> Vec<f32> {
                let at = |i: usize| ((i * 37 + of * 101) * 2_654_435_761 % 1009) as f32 / 1009.0;
                (0..n).map(|i| low + (high - low) * at(i)).collect()
            };
            let width = 2 * key + value;
            let mut joined = values(tokens * width, 1, -1.0, 1.0);
            for row in joined.chunks_mut(width) {
                let (q, rest) = row.split_at_mut(key);
                let norm = |x: &[f32]| x.iter().map(|v| v * v).sum::<f32>().sqrt();
                let (a, b) = (norm(q), norm(&rest[..key]));
                q.iter_mut().for_each(|v| *v /= a);
                rest[..key].iter_mut().for_each(|v| *v /= b);
            }
            let (beta, decay) = (values(tokens, 2, 0.1, 0.9), values(tokens, 3, 0.5, 1.0));
            let weight = values(tokens * value, 4, -1.0, 1.0);
            let job = Backward {
                tokens,
                key_dim: key,
                value_dim: value,
                queries: &joined,
                keys: &joined[key..],
                values: &joined[2 * key..],
                row: width,
                beta: &beta,
                decay: &decay,
                grad: &weight,
                grad_row: value,
            };
            let mut buffers =
                [tokens * key, tokens * key, tokens * value, tokens, tokens].map(|n| vec![0.0; n]);
            let [q, k, v, b, d] = &mut buffers;
            let mut out = Gradients { queries: q, keys: k, values: v, beta: b, decay: d };
            job.run(&mut Scratch::default(), &mut out);

            let part = |from: usize, n: usize| -> Vec<f64> {
                joined
                    .chunks(width)
                    .flat_map(|r| r[from..from + n].iter().map(|v| f64::from(*v)))
                    .collect()
            };
            let wide = |x: &[f32]| x.iter().map(|v| f64::from(*v)).collect::<Vec<f64>>();
            let inputs =
                [part(0, key), part(key, key), part(2 * key, value), wide(&beta), wide(&decay)];
            for (which, got) in buffers.iter().enumerate() {
                let largest = got.iter().fold(0.0_f32, |a, b| a.max(b.abs()));
                for i in (0..got.len()).step_by(1 + got.len() / 40) {
                    let at = |step: f64| {
                        let mut moved = inputs.clone();
                        moved[which][i] += step;
                        loss(&job, &moved, &weight)
                    };
                    let want = (at(1e-5) - at(-1e-5)) / 2e-5;
                    let off = (f64::from(got[i]) - want).abs();
                    assert!(off <= 2e-5 * f64::from(largest), "{which} {i}: {} {want}", got[i]);
                }
            }
        }
    }
}
