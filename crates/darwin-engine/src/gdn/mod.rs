//! Gated DeltaNet, the linear attention of Qwen3-Next and Qwen3.5 (arXiv 2412.06464).

pub(crate) mod backward;
#[cfg(test)]
mod chunked;
mod scan;

use crate::cache::Caches;
use crate::kernels::{
    Buffer, Matrix, convolve_silu, decays, gated_rms_norm, l2_normalize, multiply, scratch,
    sigmoids,
};
use crate::mixer::Input;
use crate::team::{Disjoint, PER_VALUE, Team};
use crate::weights::{Expected, Loader};
use crate::{Config, Error, LinearForm};
use scan::{Columns, Scan, scan, state_len};
use std::sync::Arc;

/// Multiply-adds of a core in a nanosecond, for sharing the work only.
const SCAN_PER_NANOSECOND: f64 = 15.0;

/// Weights of one layer; (out, in) before packing.
#[derive(Clone, Debug)]
pub(crate) struct Weights {
    /// (2 Kd + Vd, hidden)
    pub(crate) in_proj_qkv: Matrix,
    /// (Vd, hidden)
    pub(crate) in_proj_z: Matrix,
    /// `in_proj_b`, then `in_proj_a`: (2 x value heads, hidden)
    pub(crate) in_proj_ba: Matrix,
    /// (kernel, 2 Kd + Vd): the stored (2 Kd + Vd, 1, kernel) with the taps outermost
    pub(crate) conv1d: Arc<[f32]>,
    /// `-exp(A_log)` (value heads)
    pub(crate) decay_rate: Arc<[f32]>,
    /// (value heads)
    pub(crate) dt_bias: Arc<[f32]>,
    /// (value dim), not centred
    pub(crate) norm: Arc<[f32]>,
    /// (hidden, Vd)
    pub(crate) out_proj: Matrix,
}

/// What a sequence leaves behind: the last inputs of the convolution and the state.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cache {
    /// (kernel - 1, 2 Kd + Vd), oldest first; empty before the first token
    window: Vec<f32>,
    /// `scan`'s layout, value heads one after another; empty before the first token
    pub(crate) state: Buffer,
}

impl Cache {
    /// Back to before the first token.
    pub(crate) fn clear(&mut self) {
        self.window.clear();
        self.state.clear();
    }
}

/// Buffers.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    qkv: Buffer,
    conv: Buffer,
    z: Buffer,
    ba: Buffer,
    /// (value heads, tokens), as is `decay`
    beta: Buffer,
    decay: Buffer,
    mixed: Buffer,
}

/// Names and shapes of one layer's tensors.
pub(crate) fn expected(config: &Config, prefix: &str) -> Vec<Expected> {
    let (hidden, heads) = (config.hidden_size, config.linear_num_value_heads);
    let (conv, values) = (config.linear_conv_dim(), config.linear_value_dim());
    let mut shapes = match config.linear {
        LinearForm::Split => vec![
            ("in_proj_qkv.weight", vec![conv, hidden]),
            ("in_proj_z.weight", vec![values, hidden]),
            ("in_proj_b.weight", vec![heads, hidden]),
            ("in_proj_a.weight", vec![heads, hidden]),
        ],
        LinearForm::ByKeyHead => vec![
            ("in_proj_qkvz.weight", vec![conv + values, hidden]),
            ("in_proj_ba.weight", vec![2 * heads, hidden]),
        ],
    };
    shapes.extend([
        ("conv1d.weight", vec![conv, 1, config.linear_conv_kernel_dim]),
        ("A_log", vec![heads]),
        ("dt_bias", vec![heads]),
        ("norm.weight", vec![config.linear_value_head_dim]),
        ("out_proj.weight", vec![hidden, values]),
    ]);
    Expected::list(&format!("{prefix}linear_attn."), shapes)
}

/// Rows of projections in which those of a key head and its value heads lie together:
/// query, key, values, gates `z`; and `b`, `a`.
pub(crate) struct RowsByKeyHead {
    key_heads: usize,
    key: usize,
    /// Value rows of a key head.
    values: usize,
    /// Value heads of a key head.
    heads: usize,
}

impl RowsByKeyHead {
    pub(crate) fn new(config: &Config) -> Self {
        let heads = config.linear_num_value_heads / config.linear_num_key_heads;
        Self {
            key_heads: config.linear_num_key_heads,
            key: config.linear_key_head_dim,
            values: heads * config.linear_value_head_dim,
            heads,
        }
    }

    /// Rows `from..from + n` of every key head's `all`.
    fn part(&self, all: usize, from: usize, n: usize) -> impl Iterator<Item = usize> + use<> {
        (0..self.key_heads).flat_map(move |head| head * all + from..head * all + from + n)
    }

    fn qkvz(&self) -> usize {
        2 * (self.key + self.values)
    }

    pub(crate) fn qkv(&self) -> impl Iterator<Item = usize> + use<> {
        let (all, key) = (self.qkvz(), self.key);
        let queries_and_keys = self.part(all, 0, key).chain(self.part(all, key, key));
        queries_and_keys.chain(self.part(all, 2 * key, self.values))
    }

    pub(crate) fn z(&self) -> impl Iterator<Item = usize> + use<> {
        self.part(self.qkvz(), 2 * self.key + self.values, self.values)
    }

    pub(crate) fn ba(&self) -> impl Iterator<Item = usize> + use<> {
        let (all, n) = (2 * self.heads, self.heads);
        self.part(all, 0, n).chain(self.part(all, n, n))
    }
}

impl Weights {
    pub(crate) fn load(loader: &Loader<'_>, config: &Config, prefix: &str) -> Result<Self, Error> {
        let name = |tensor: &str| format!("{prefix}linear_attn.{tensor}");
        let taps_first = |w: Vec<f32>| {
            let (kernel, channels) = (config.linear_conv_kernel_dim, config.linear_conv_dim());
            (0..w.len()).map(|i| w[i % channels * kernel + i / channels]).collect()
        };
        let negative_exp = |w: Vec<f32>| w.into_iter().map(|a| -a.exp()).collect();
        let (in_proj_qkv, in_proj_z, in_proj_ba) = match config.linear {
            LinearForm::Split => (
                loader.matrix(&name("in_proj_qkv.weight"))?,
                loader.matrix(&name("in_proj_z.weight"))?,
                loader.stacked(&[&name("in_proj_b.weight"), &name("in_proj_a.weight")])?,
            ),
            LinearForm::ByKeyHead => {
                let (qkvz, ba) = (name("in_proj_qkvz.weight"), name("in_proj_ba.weight"));
                let rows = RowsByKeyHead::new(config);
                (
                    loader.rows(&qkvz, rows.qkv())?,
                    loader.rows(&qkvz, rows.z())?,
                    loader.rows(&ba, rows.ba())?,
                )
            }
        };
        Ok(Self {
            in_proj_qkv,
            in_proj_z,
            in_proj_ba,
            conv1d: loader.vector(&name("conv1d.weight"), taps_first)?,
            decay_rate: loader.vector(&name("A_log"), negative_exp)?,
            dt_bias: loader.vector(&name("dt_bias"), |w| w)?,
            norm: loader.vector(&name("norm.weight"), |w| w)?,
            out_proj: loader.matrix(&name("out_proj.weight"))?,
        })
    }

    /// The mixer over a block, into `out` (tokens, hidden).
    pub(crate) fn forward(
        &self,
        input: &Input<'_>,
        caches: &mut Caches<'_>,
        buffers: &mut Scratch,
        out: &mut [f32],
    ) {
        let (config, team, x) = (input.config, input.team, input.x);
        let (hidden, tokens) = (config.hidden_size, input.tokens());
        let (channels, values) = (config.linear_conv_dim(), config.linear_value_dim());
        let heads = config.linear_num_value_heads;

        let qkv = scratch(&mut buffers.qkv, tokens * channels);
        multiply(team, tokens, x, hidden, self.in_proj_qkv.panels(), qkv, channels);
        let z = scratch(&mut buffers.z, tokens * values);
        multiply(team, tokens, x, hidden, self.in_proj_z.panels(), z, values);
        let ba = scratch(&mut buffers.ba, tokens * 2 * heads);
        multiply(team, tokens, x, hidden, self.in_proj_ba.panels(), ba, 2 * heads);
        let beta = scratch(&mut buffers.beta, tokens * heads);
        let decay = scratch(&mut buffers.decay, tokens * heads);
        self.gates(ba, beta, decay);

        let conv = scratch(&mut buffers.conv, tokens * channels); // (tokens, q | k | v)
        let mixed = scratch(&mut buffers.mixed, tokens * values);
        for piece in input.pieces {
            let rows = piece.rows.start * channels..piece.rows.end * channels;
            let cache = caches.linear(input.layer, piece);
            self.convolve(input, &qkv[rows.clone()], cache, &mut conv[rows.clone()]);
            let (beta, decay) = (&beta[piece.rows.start..], &decay[piece.rows.start..]);
            let work = Recurrence { conv: &conv[rows], beta, decay, gates_row: tokens };
            let piece = piece.rows.start * values..piece.rows.end * values;
            work.run(config, team, &mut cache.state, &mut mixed[piece]);
        }
        self.gated_norm(config, team, z, mixed);
        multiply(team, tokens, mixed, values, self.out_proj.panels(), out, hidden);
    }

    /// From `b` and `a` of each token (tokens, 2 x value heads) to what is written to and what is
    /// kept of the states, both (value heads, tokens).
    pub(crate) fn gates(&self, ba: &[f32], beta: &mut [f32], decay: &mut [f32]) {
        let heads = self.dt_bias.len();
        let tokens = ba.len() / (2 * heads);
        for head in 0..heads {
            let of_head = head * tokens..(head + 1) * tokens;
            let (beta, decay) = (&mut beta[of_head.clone()], &mut decay[of_head]);
            for ((beta, decay), row) in
                beta.iter_mut().zip(&mut *decay).zip(ba.chunks_exact(2 * heads))
            {
                (*beta, *decay) = (row[head], row[heads + head]);
            }
            decays(decay, self.decay_rate[head], self.dt_bias[head]);
        }
        sigmoids(beta);
    }

    /// The causal convolution of one sequence (tokens, q | k | v), through silu, and queries and
    /// keys to unit length; remembers the last inputs.
    pub(crate) fn convolve(
        &self,
        input: &Input<'_>,
        qkv: &[f32],
        cache: &mut Cache,
        out: &mut [f32],
    ) {
        let channels = input.config.linear_conv_dim();
        let before = self.conv1d.len() / channels - 1;
        cache.window.resize(before * channels, 0.0);
        let cost = PER_VALUE * 2.0 * channels as f64;
        input.team.rows(out, channels, cost, |rows, out| {
            convolve_silu(&cache.window, qkv, &self.conv1d, channels, rows.start, out);
            normalize_queries_and_keys(input.config, out);
        });
        let tokens = qkv.len() / channels;
        let kept = before.saturating_sub(tokens);
        cache.window.copy_within((before - kept) * channels.., 0);
        let newest = &qkv[(tokens - (before - kept)) * channels..];
        cache.window[kept * channels..].copy_from_slice(newest);
    }

    /// Each head's output of (tokens, value heads, value dim) normed, and gated by `z`, in place.
    pub(crate) fn gated_norm(&self, config: &Config, team: Team<'_>, z: &[f32], mixed: &mut [f32]) {
        let values = config.linear_value_dim();
        team.rows(mixed, values, PER_VALUE * 3.0 * values as f64, |rows, mixed| {
            let z = &z[rows.start * values..rows.end * values];
            gated_rms_norm(mixed, z, &self.norm, config.rms_norm_eps as f32);
        });
    }
}

/// Queries and keys of (tokens, q | k | v) to unit length, queries over the root of their width.
fn normalize_queries_and_keys(config: &Config, conv: &mut [f32]) {
    let (dim, width) = (config.linear_key_dim(), config.linear_key_head_dim);
    let scale = 1.0 / (width as f32).sqrt();
    for row in conv.chunks_exact_mut(config.linear_conv_dim()) {
        l2_normalize(&mut row[..dim], width, scale);
        l2_normalize(&mut row[dim..2 * dim], width, 1.0);
    }
}

/// The inputs of the recurrence of one sequence.
pub(crate) struct Recurrence<'a> {
    /// (tokens, q | k | v)
    pub(crate) conv: &'a [f32],
    /// (value heads, tokens), rows `gates_row` apart, as are those of `decay`
    pub(crate) beta: &'a [f32],
    pub(crate) decay: &'a [f32],
    pub(crate) gates_row: usize,
}

impl Recurrence<'_> {
    /// Every value head over all tokens, into `out` (tokens, value heads, value dim).
    pub(crate) fn run(&self, config: &Config, team: Team<'_>, state: &mut Buffer, out: &mut [f32]) {
        if out.is_empty() {
            return;
        }
        let heads = config.linear_num_value_heads;
        let group = heads / config.linear_num_key_heads;
        let (key, value) = (config.linear_key_head_dim, config.linear_value_head_dim);
        let (len, tokens) = (state_len(key, value), self.conv.len() / config.linear_conv_dim());
        state.resize(heads * len);
        let (states, columns) =
            (Disjoint::new(state), Columns::new(out, config.linear_value_dim()));
        let cost = (4 * tokens * key * value) as f64 / SCAN_PER_NANOSECOND;
        team.split(heads, 1, cost, |range, _| {
            for head in range {
                let query_at = head / group * key;
                // SAFETY: a head is in one range of the split alone, and so are its state and its
                // columns of the output.
                let (state, out) = unsafe {
                    let state = states.range(head * len..(head + 1) * len);
                    (state, columns.part(head * value..(head + 1) * value))
                };
                let gates = head * self.gates_row..head * self.gates_row + tokens;
                let job = Scan {
                    tokens,
                    key_dim: key,
                    value_dim: value,
                    queries: &self.conv[query_at..],
                    keys: &self.conv[config.linear_key_dim() + query_at..],
                    values: &self.conv[2 * config.linear_key_dim() + head * value..],
                    row: config.linear_conv_dim(),
                    beta: &self.beta[gates.clone()],
                    decay: &self.decay[gates],
                };
                scan(&job, state, out);
            }
        });
    }
}
