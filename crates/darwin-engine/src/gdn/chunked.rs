//! The chunked form of the delta rule (arXiv 2412.06464, section 3.3): a second opinion on the
//! recurrence, in f64. The engine does not run it; `scan` says why.

use super::scan::{Columns, Scan, scan, state_len};
use darwin_core::keyed::{Key, Rng};

/// One head over all tokens from a zero state; returns (tokens, value dim).
fn chunked(job: &Scan<'_>, chunk: usize) -> Vec<f64> {
    let (dk, dv) = (job.key_dim, job.value_dim);
    let mut state = vec![0.0_f64; dk * dv];
    let mut out = Vec::new();
    for first in (0..job.tokens).step_by(chunk) {
        let n = chunk.min(job.tokens - first);
        let row = |x: &[f32], i: usize, width: usize| -> Vec<f64> {
            x[(first + i) * job.row..][..width].iter().map(|v| f64::from(*v)).collect()
        };
        let q: Vec<_> = (0..n).map(|i| row(job.queries, i, dk)).collect();
        let k: Vec<_> = (0..n).map(|i| row(job.keys, i, dk)).collect();
        let v: Vec<_> = (0..n).map(|i| row(job.values, i, dv)).collect();
        let beta = |i: usize| f64::from(job.beta[first + i]);
        // cumulated decay from the chunk's start to each token, that token's own included
        let gamma: Vec<f64> = (0..n)
            .scan(1.0, |product, i| {
                *product *= f64::from(job.decay[first + i]);
                Some(*product)
            })
            .collect();
        // (I + A) d = beta (v - gamma k^T S), A strictly lower triangular: forward substitution
        let mut delta: Vec<Vec<f64>> = Vec::new();
        for i in 0..n {
            let mut d: Vec<f64> = (0..dv)
                .map(|c| {
                    v[i][c] - gamma[i] * (0..dk).map(|r| k[i][r] * state[r * dv + c]).sum::<f64>()
                })
                .collect();
            for (j, earlier) in delta.iter().enumerate() {
                let overlap = inner(&k[i], &k[j]) * gamma[i] / gamma[j];
                d.iter_mut().zip(earlier).for_each(|(d, e)| *d -= overlap * e);
            }
            d.iter_mut().for_each(|d| *d *= beta(i));
            delta.push(d);
        }
        for i in 0..n {
            let mut o: Vec<f64> = (0..dv)
                .map(|c| gamma[i] * (0..dk).map(|r| q[i][r] * state[r * dv + c]).sum::<f64>())
                .collect();
            for (j, d) in delta.iter().enumerate().take(i + 1) {
                let weight = inner(&q[i], &k[j]) * gamma[i] / gamma[j];
                o.iter_mut().zip(d).for_each(|(o, d)| *o += weight * d);
            }
            out.extend(o);
        }
        for s in &mut state {
            *s *= gamma[n - 1];
        }
        for (j, d) in delta.iter().enumerate() {
            for r in 0..dk {
                for c in 0..dv {
                    state[r * dv + c] += gamma[n - 1] / gamma[j] * k[j][r] * d[c];
                }
            }
        }
    }
    out
}

fn inner(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[test]
fn the_chunked_form_is_the_same_function() {
    for (tokens, key_dim, value_dim) in [(1, 8, 8), (130, 32, 32), (70, 24, 20), (66, 5, 40)] {
        let mut rng = Rng::new(Key::new(3, &["chunked"]), 0);
        let mut unit = |n: usize| {
            let x: Vec<f32> = (0..n).map(|_| rng.normal() as f32).collect();
            let norm = x.iter().map(|v| v * v).sum::<f32>().sqrt();
            x.into_iter().map(move |v| v / norm).collect::<Vec<_>>()
        };
        let queries: Vec<f32> = (0..tokens).flat_map(|_| unit(key_dim)).collect();
        let keys: Vec<f32> = (0..tokens).flat_map(|_| unit(key_dim)).collect();
        let values: Vec<f32> = (0..tokens).flat_map(|_| unit(value_dim)).collect();
        let beta: Vec<f32> = (0..tokens).map(|_| rng.uniform() as f32).collect();
        let decay: Vec<f32> = (0..tokens).map(|_| 1.0 - 0.3 * rng.uniform() as f32).collect();
        let row = key_dim.max(value_dim);
        let spread = |x: &[f32], width: usize| -> Vec<f32> {
            let pad = |r: &[f32]| [r, &vec![0.0; row - width]].concat();
            x.chunks(width).flat_map(pad).collect()
        };
        let (queries, keys) = (spread(&queries, key_dim), spread(&keys, key_dim));
        let values = spread(&values, value_dim);
        let job = Scan {
            tokens,
            key_dim,
            value_dim,
            queries: &queries,
            keys: &keys,
            values: &values,
            row,
            beta: &beta,
            decay: &decay,
        };
        let mut state = vec![0.0; state_len(key_dim, value_dim)];
        let mut out = vec![0.0; tokens * value_dim];
        scan(&job, &mut state, Columns::new(&mut out, value_dim));
        for chunk in [16, 64] {
            let want = chunked(&job, chunk);
            let rms = (want.iter().map(|x| x * x).sum::<f64>() / want.len() as f64).sqrt();
            for (got, want) in out.iter().zip(&want) {
                assert!((f64::from(*got) - want).abs() < 1e-5 * rms, "{got} {want}");
            }
        }
    }
}
