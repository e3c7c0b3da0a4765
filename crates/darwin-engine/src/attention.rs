//! Gated softmax attention with partial rotary embedding and grouped key-value heads.

use crate::cache::Caches;
use crate::kernels::{
    Buffer, Matrix, PANEL, Panels, Values, gated, l2_norm, multiply, rms_norm, scratch, softmax,
};
use crate::mixer::Input;
use crate::weights::{Expected, Loader, centred};
use crate::{Config, Error};
use std::ops::Range;
use std::sync::Arc;

/// Queries that attend side by side, times the heads of a group.
const QUERY_BLOCK: usize = 16;

/// Weights of one layer; (out, in) before packing.
#[derive(Clone, Debug)]
pub(crate) struct Weights {
    /// (heads x [query ; gate], hidden)
    q_proj: Matrix,
    /// (kv heads x head dim, hidden)
    k_proj: Matrix,
    /// (kv heads x head dim, hidden)
    v_proj: Matrix,
    /// (hidden, heads x head dim)
    o_proj: Matrix,
    /// 1 + weight (head dim)
    q_norm: Arc<[f32]>,
    /// 1 + weight (head dim)
    k_norm: Arc<[f32]>,
}

/// Keys and values of a sequence so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cache {
    tokens: usize,
    heads: Vec<HeadCache>,
}

/// Keys and values of one key-value head.
#[derive(Clone, Debug, Default)]
struct HeadCache {
    /// Panels of 16 positions, each (head dim, 16): the right-hand side of `q k^T`.
    keys: Buffer,
    /// (tokens, head dim padded to 16): the right-hand side of `p v`.
    values: Buffer,
}

impl Cache {
    /// Back to before the first token.
    pub(crate) fn clear(&mut self) {
        self.tokens = 0;
        for head in &mut self.heads {
            head.keys.clear();
            head.values.clear();
        }
    }
}

/// Buffers.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    rope: Rope,
    projected: Buffer,
    keys: Buffer,
    values: Buffer,
    queries: Buffer,
    scores: Buffer,
    attended: Buffer,
    gated: Buffer,
}

/// Names and shapes of one layer's tensors.
pub(crate) fn expected(config: &Config, prefix: &str) -> Vec<Expected> {
    let (hidden, head_dim) = (config.hidden_size, config.head_dim);
    let heads = config.num_attention_heads * head_dim;
    let kv_heads = config.num_key_value_heads * head_dim;
    let shapes = [
        ("q_proj.weight", vec![2 * heads, hidden]),
        ("k_proj.weight", vec![kv_heads, hidden]),
        ("v_proj.weight", vec![kv_heads, hidden]),
        ("o_proj.weight", vec![hidden, heads]),
        ("q_norm.weight", vec![head_dim]),
        ("k_norm.weight", vec![head_dim]),
    ];
    Expected::list(&format!("{prefix}self_attn."), shapes)
}

impl Weights {
    pub(crate) fn load(
        loader: &Loader<'_>,
        prefix: &str,
        old: Option<&Self>,
    ) -> Result<Self, Error> {
        let name = |tensor: &str| format!("{prefix}self_attn.{tensor}.weight");
        Ok(Self {
            q_proj: loader.matrix(&name("q_proj"), old.map(|o| &o.q_proj))?,
            k_proj: loader.matrix(&name("k_proj"), old.map(|o| &o.k_proj))?,
            v_proj: loader.matrix(&name("v_proj"), old.map(|o| &o.v_proj))?,
            o_proj: loader.matrix(&name("o_proj"), old.map(|o| &o.o_proj))?,
            q_norm: loader.vector(&name("q_norm"), old.map(|o| &o.q_norm), centred)?,
            k_norm: loader.vector(&name("k_norm"), old.map(|o| &o.k_norm), centred)?,
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
        let (config, x) = (input.config, input.x);
        let (hidden, tokens) = (config.hidden_size, input.tokens());
        let heads = config.num_attention_heads * config.head_dim;
        let kv_heads = config.num_key_value_heads * config.head_dim;

        let projected = scratch(&mut buffers.projected, tokens * 2 * heads);
        multiply(tokens, x, hidden, self.q_proj.panels(), projected, 2 * heads);
        let keys = scratch(&mut buffers.keys, tokens * kv_heads);
        multiply(tokens, x, hidden, self.k_proj.panels(), keys, kv_heads);
        let values = scratch(&mut buffers.values, tokens * kv_heads);
        multiply(tokens, x, hidden, self.v_proj.panels(), values, kv_heads);
        scratch(&mut buffers.gated, tokens * heads);

        for piece in input.pieces {
            let cache = caches.full(input.layer, piece);
            self.sequence(config, piece.rows.clone(), cache, buffers);
        }
        let x = &buffers.gated[..tokens * heads];
        multiply(tokens, x, heads, self.o_proj.panels(), out, hidden);
    }

    /// One sequence's rows of the projections to its rows of `gated` (tokens, heads x head dim).
    fn sequence(
        &self,
        config: &Config,
        rows: Range<usize>,
        cache: &mut Cache,
        buffers: &mut Scratch,
    ) {
        let (dim, tokens, before) = (config.head_dim, rows.len(), cache.tokens);
        let group = config.num_attention_heads / config.num_key_value_heads;
        let heads = config.num_attention_heads * dim;
        buffers.rope.prepare(config, before + tokens);
        cache.heads.resize(config.num_key_value_heads, HeadCache::default());
        let normed = scratch(&mut buffers.queries, tokens * group * dim);
        for (kv_head, head) in cache.heads.iter_mut().enumerate() {
            for t in 0..tokens {
                let at = ((rows.start + t) * config.num_key_value_heads + kv_head) * dim;
                let key = scratch(&mut buffers.attended, dim);
                rms_norm(&buffers.keys[at..][..dim], &self.k_norm, config.rms_norm_eps as f32, key);
                buffers.rope.rotate(before + t, key);
                head.append(before + t, key, &buffers.values[at..][..dim]);
                for g in 0..group {
                    let from = (rows.start + t) * 2 * heads + (kv_head * group + g) * 2 * dim;
                    let query = &mut normed[(t * group + g) * dim..][..dim];
                    let projected = &buffers.projected[from..][..dim];
                    rms_norm(projected, &self.q_norm, config.rms_norm_eps as f32, query);
                    buffers.rope.rotate(before + t, query);
                }
            }
            let attended = scratch(&mut buffers.attended, tokens * group * dim);
            head.attend(before, group, dim, normed, &mut buffers.scores, attended);
            for (i, row) in attended.chunks_exact(dim).enumerate() {
                let (t, at) = (rows.start + i / group, kv_head * group + i % group);
                let gates = &buffers.projected[(t * 2 * heads) + (2 * at + 1) * dim..][..dim];
                gated(row, gates, &mut buffers.gated[t * heads + at * dim..][..dim]);
            }
        }
        cache.tokens += tokens;
    }

    /// The L2 norm of each head's slice through `o_proj` (tokens, heads), after `forward`.
    pub(crate) fn head_norms(&self, config: &Config, tokens: usize, buffers: &Scratch) -> Vec<f32> {
        let (heads, dim) = (config.num_attention_heads, config.head_dim);
        let mut norms = vec![0.0; tokens * heads];
        let mut out = vec![0.0; tokens * config.hidden_size];
        for head in 0..heads {
            let slice = self.o_proj.panels_of_depth(head * dim, dim);
            let x = &buffers.gated[head * dim..tokens * heads * dim];
            multiply(tokens, x, heads * dim, slice, &mut out, config.hidden_size);
            for (t, row) in out.chunks_exact(config.hidden_size).enumerate() {
                norms[t * heads + head] = l2_norm(row);
            }
        }
        norms
    }
}

impl HeadCache {
    /// Remembers key and value of a position.
    fn append(&mut self, position: usize, key: &[f32], value: &[f32]) {
        let (dim, padded) = (key.len(), key.len().next_multiple_of(PANEL));
        self.keys.resize((position / PANEL + 1) * dim * PANEL);
        let panel = &mut self.keys[position / PANEL * dim * PANEL..];
        for (i, k) in key.iter().enumerate() {
            panel[i * PANEL + position % PANEL] = *k;
        }
        self.values.resize((position + 1) * padded);
        self.values[position * padded..][..dim].copy_from_slice(value);
    }

    /// Causal attention of the last queries (tokens x group, dim), the first at position `before`.
    fn attend(
        &self,
        before: usize,
        group: usize,
        dim: usize,
        queries: &[f32],
        scores: &mut Buffer,
        out: &mut [f32],
    ) {
        let scale = 1.0 / (dim as f32).sqrt();
        let block = QUERY_BLOCK * group * dim;
        let blocks = queries.chunks(block).zip(out.chunks_mut(block));
        for (i, (queries, out)) in blocks.enumerate() {
            let first = before + i * QUERY_BLOCK;
            let rows = queries.len() / dim;
            let seen = first + rows / group; // positions that the last query sees
            let width = seen.next_multiple_of(PANEL);
            let scores = scratch(scores, rows * width);
            let keys = Panels {
                values: Values::F32(&self.keys),
                columns: width,
                depth: dim,
                row: PANEL,
                panel: dim * PANEL,
            };
            multiply(rows, queries, dim, keys, scores, width); // (tokens x group, positions)
            for (r, row) in scores.chunks_exact_mut(width).enumerate() {
                softmax(row, first + r / group + 1, scale);
            }
            let values = Panels {
                values: Values::F32(&self.values),
                columns: dim,
                depth: seen,
                row: dim.next_multiple_of(PANEL),
                panel: PANEL,
            };
            multiply(rows, scores, width, values, out, dim);
        }
    }
}

/// Rotary embedding of the first `rotary_dim` dimensions, half-split; for text the three mrope
/// rows are equal.
#[derive(Debug, Default)]
struct Rope {
    half: usize,
    positions: usize,
    /// (positions, [cos ; sin])
    table: Vec<f32>,
}

impl Rope {
    /// Extends the table to `positions`.
    fn prepare(&mut self, config: &Config, positions: usize) {
        self.half = config.rotary_dim / 2;
        if positions <= self.positions {
            return;
        }
        let frequency = |i: usize| {
            let exponent = (2 * i) as f32 / config.rotary_dim as f32;
            1.0 / (config.rope_theta as f32).powf(exponent)
        };
        let frequencies: Vec<f32> = (0..self.half).map(frequency).collect();
        for position in self.positions..positions {
            // float32 as in transformers: the angle of a late position is rounded there too
            let angles = frequencies.iter().map(|f| position as f32 * f);
            self.table.extend(angles.clone().map(f32::cos));
            self.table.extend(angles.map(f32::sin));
        }
        self.positions = positions;
    }

    fn rotate(&self, position: usize, head: &mut [f32]) {
        let row = &self.table[position * 2 * self.half..][..2 * self.half];
        let (cos, sin) = row.split_at(self.half);
        let (first, second) = head[..2 * self.half].split_at_mut(self.half);
        for (((a, b), cos), sin) in first.iter_mut().zip(second).zip(cos).zip(sin) {
            (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
        }
    }
}
