//! Softmax attention with rotary embedding and grouped key-value heads, in the forms that
//! [`AttentionForm`] lists.

use crate::cache::Caches;
use crate::config::{AttentionForm, QkNorm};
use crate::kernels::{Buffer, gated, rms_norm, scratch};
use crate::kv_head::{HeadCache, QUERY_BLOCK, Shape};
use crate::mixer::Input;
use crate::projection::Projection;
use crate::rope::RopeTable;
use crate::team::{Disjoint, PER_VALUE, Team};
use crate::weights::{Expected, Loader};
use crate::{Config, Error};
use std::ops::Range;
use std::sync::Arc;

/// Weights of one layer; (out, in) before packing.
#[derive(Clone, Debug)]
pub(crate) struct Weights {
    /// (heads x [query ; gate], hidden), the gate where the form has one
    pub(crate) q_proj: Projection,
    /// (kv heads x head dim, hidden)
    pub(crate) k_proj: Projection,
    /// (kv heads x head dim, hidden)
    pub(crate) v_proj: Projection,
    /// (hidden, heads x head dim)
    pub(crate) o_proj: Projection,
    /// Scales of queries and keys, (head dim) or (heads x head dim); empty without norms
    pub(crate) q_norm: Arc<[f32]>,
    pub(crate) k_norm: Arc<[f32]>,
}

/// Keys and values of a sequence so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cache {
    pub(crate) tokens: usize,
    pub(crate) heads: Vec<HeadCache>,
}

impl Cache {
    /// Back to before the first token.
    pub(crate) fn clear(&mut self) {
        self.tokens = 0;
        self.heads.iter_mut().for_each(HeadCache::clear);
    }
}

/// Buffers.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    rope: RopeTable,
    projected: Buffer,
    keys: Buffer,
    values: Buffer,
    /// (kv heads, tokens, heads of a group, head dim)
    queries: Buffer,
    /// Of each member of the team
    scores: Vec<Buffer>,
    /// As the queries
    attended: Buffer,
    gated: Buffer,
}

/// Names and shapes of one layer's tensors.
pub(crate) fn expected(config: &Config, prefix: &str) -> Vec<Expected> {
    let (hidden, head_dim, form) = (config.hidden_size, config.head_dim, config.attention);
    let heads = config.num_attention_heads * head_dim;
    let kv_heads = config.num_key_value_heads * head_dim;
    let queries = if form.gated { 2 * heads } else { heads };
    let mut shapes = vec![
        ("q_proj.weight", vec![queries, hidden]),
        ("k_proj.weight", vec![kv_heads, hidden]),
        ("v_proj.weight", vec![kv_heads, hidden]),
        ("o_proj.weight", vec![hidden, heads]),
    ];
    if form.qkv_bias {
        shapes.extend([
            ("q_proj.bias", vec![queries]),
            ("k_proj.bias", vec![kv_heads]),
            ("v_proj.bias", vec![kv_heads]),
        ]);
    }
    if form.o_bias {
        shapes.push(("o_proj.bias", vec![hidden]));
    }
    match form.qk_norm {
        QkNorm::None => {}
        QkNorm::Head => {
            shapes.extend([("q_norm.weight", vec![head_dim]), ("k_norm.weight", vec![head_dim])]);
        }
        QkNorm::Whole => {
            shapes.extend([("q_norm.weight", vec![heads]), ("k_norm.weight", vec![kv_heads])]);
        }
    }
    Expected::list(&format!("{prefix}self_attn."), shapes)
}

impl Weights {
    pub(crate) fn load(loader: &Loader<'_>, config: &Config, prefix: &str) -> Result<Self, Error> {
        let AttentionForm { qkv_bias, o_bias, qk_norm, .. } = config.attention;
        let name = |tensor: &str| format!("{prefix}self_attn.{tensor}");
        let norm = |tensor: &str| match qk_norm {
            QkNorm::None => Ok(Arc::default()),
            QkNorm::Head | QkNorm::Whole => loader.norm(config, &name(tensor)),
        };
        Ok(Self {
            q_proj: Projection::load(loader, &name("q_proj"), qkv_bias)?,
            k_proj: Projection::load(loader, &name("k_proj"), qkv_bias)?,
            v_proj: Projection::load(loader, &name("v_proj"), qkv_bias)?,
            o_proj: Projection::load(loader, &name("o_proj"), o_bias)?,
            q_norm: norm("q_norm")?,
            k_norm: norm("k_norm")?,
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
        let (config, x, tokens) = (input.config, input.x, input.tokens());
        let team = input.team;
        let heads = config.num_attention_heads * config.head_dim;
        let kv_heads = config.num_key_value_heads * config.head_dim;

        let projected = scratch(&mut buffers.projected, tokens * self.q_proj.columns());
        self.q_proj.forward(team, tokens, x, projected, self.q_proj.columns());
        let keys = scratch(&mut buffers.keys, tokens * kv_heads);
        self.k_proj.forward(team, tokens, x, keys, kv_heads);
        let values = scratch(&mut buffers.values, tokens * kv_heads);
        self.v_proj.forward(team, tokens, x, values, kv_heads);
        if config.attention.qk_norm == QkNorm::Whole {
            let eps = config.rms_norm_eps as f32;
            for (rows, norm) in [(&mut *projected, &self.q_norm), (&mut *keys, &self.k_norm)] {
                let normed = scratch(&mut buffers.queries, rows.len());
                rms_norm(rows, norm, eps, normed);
                rows.copy_from_slice(normed);
            }
        }
        if let Some(limit) = config.attention.clip_qkv {
            for rows in [projected, keys, values] {
                rows.iter_mut().for_each(|v| *v = v.clamp(-limit, limit));
            }
        }
        scratch(&mut buffers.gated, tokens * heads);

        for piece in input.pieces {
            let cache = caches.full(input.layer, piece);
            self.sequence(input, piece.rows.clone(), cache, buffers);
        }
        self.o_proj.forward(
            team,
            tokens,
            &buffers.gated[..tokens * heads],
            out,
            config.hidden_size,
        );
    }

    /// One sequence's rows of the projections to its rows of `gated` (tokens, heads x head dim).
    fn sequence(
        &self,
        input: &Input<'_>,
        rows: Range<usize>,
        cache: &mut Cache,
        buffers: &mut Scratch,
    ) {
        let (config, team) = (input.config, input.team);
        let (dim, tokens, before) = (config.head_dim, rows.len(), cache.tokens);
        let kv_heads = config.num_key_value_heads;
        let group = config.num_attention_heads / kv_heads;
        buffers.rope.prepare(&config.rope, before + tokens);
        cache.heads.resize(kv_heads, HeadCache::default());
        self.remember(input, rows.clone(), cache, buffers);

        let Scratch { queries, scores, attended, .. } = buffers;
        let all = kv_heads * tokens * group * dim;
        let (queries, attended) = (&queries[..all], Disjoint::new(scratch(attended, all)));
        scores.resize(team.threads().max(scores.len()), Buffer::default());
        let (scores, heads) = (Disjoint::new(scores), &cache.heads);
        let blocks = tokens.div_ceil(QUERY_BLOCK);
        team.each(kv_heads * blocks, |part, member| {
            let (head, first) = (part / blocks, part % blocks * QUERY_BLOCK);
            let row = group * dim;
            let end = tokens.min(first + QUERY_BLOCK);
            let range = (head * tokens + first) * row..(head * tokens + end) * row;
            let window = config.window(input.layer);
            let (before, scale) = (before + first, 1.0 / (dim as f32).sqrt());
            let shape = Shape { before, group, dim, value_dim: dim, scale, window };
            // SAFETY: a member runs one part at a time, so nobody else has its scores; parts are
            // different heads or blocks of queries, so nobody else has this range of outputs.
            let (scores, out) = unsafe { (scores.at(member), attended.range(range.clone())) };
            heads[head].attend(&shape, &queries[range], scores, out);
        });
        self.gate(config, team, rows, buffers);
        cache.tokens += tokens;
    }

    /// Keys and values of a sequence's rows to its cache, rotated; its queries, rotated.
    fn remember(
        &self,
        input: &Input<'_>,
        rows: Range<usize>,
        cache: &mut Cache,
        buffers: &mut Scratch,
    ) {
        let (config, before) = (input.config, cache.tokens);
        let (dim, tokens, kv_heads) = (config.head_dim, rows.len(), config.num_key_value_heads);
        let group = config.num_attention_heads / kv_heads;
        let heads = config.num_attention_heads * dim;
        let parts = if config.attention.gated { 2 } else { 1 }; // query, or query and gate
        let Scratch { rope, projected, keys, values, queries, .. } = buffers;
        let of_head = tokens * group * dim;
        let queries = Disjoint::new(scratch(queries, kv_heads * of_head));
        let caches = Disjoint::new(&mut cache.heads);
        let cost = PER_VALUE * (tokens * (group + 2) * dim) as f64;
        input.team.split(kv_heads, 1, cost, |range, _| {
            for kv_head in range {
                // SAFETY: a head is in one range of the split alone, and so are its cache and the
                // queries of its group.
                let (head, queries) = unsafe {
                    let all = kv_head * of_head..(kv_head + 1) * of_head;
                    (caches.at(kv_head), queries.range(all))
                };
                for t in 0..tokens {
                    let queries = &mut queries[t * group * dim..(t + 1) * group * dim];
                    let at = ((rows.start + t) * kv_heads + kv_head) * dim;
                    let key = &mut queries[..dim]; // until the query comes
                    self.head(config, &self.k_norm, &keys[at..][..dim], key);
                    rope.rotate(before + t, key);
                    head.append(before + t, key, &values[at..][..dim]);
                    for (g, query) in queries.chunks_exact_mut(dim).enumerate() {
                        let from =
                            (rows.start + t) * parts * heads + (kv_head * group + g) * parts * dim;
                        self.head(config, &self.q_norm, &projected[from..][..dim], query);
                        rope.rotate(before + t, query);
                    }
                }
            }
        });
    }

    /// From `attended` to the rows of `gated`.
    fn gate(&self, config: &Config, team: Team<'_>, rows: Range<usize>, buffers: &mut Scratch) {
        let (dim, tokens) = (config.head_dim, rows.len());
        let group = config.num_attention_heads / config.num_key_value_heads;
        let heads = config.num_attention_heads * dim;
        let Scratch { projected, attended, gated: out, .. } = buffers;
        let out = &mut out[rows.start * heads..rows.end * heads];
        team.rows(out, heads, PER_VALUE * heads as f64, |some, out| {
            for (t, out) in some.zip(out.chunks_exact_mut(heads)) {
                for (head, out) in out.chunks_exact_mut(dim).enumerate() {
                    let (kv_head, g) = (head / group, head % group);
                    let row = &attended[((kv_head * tokens + t) * group + g) * dim..][..dim];
                    if config.attention.gated {
                        let at = (rows.start + t) * 2 * heads + (2 * head + 1) * dim;
                        gated(row, &projected[at..][..dim], out);
                    } else {
                        out.copy_from_slice(row);
                    }
                }
            }
        });
    }

    /// One head's query or key as it is rotated.
    pub(crate) fn head(&self, config: &Config, norm: &[f32], projected: &[f32], out: &mut [f32]) {
        match config.attention.qk_norm {
            QkNorm::Head => rms_norm(projected, norm, config.rms_norm_eps as f32, out),
            QkNorm::None | QkNorm::Whole => out.copy_from_slice(projected),
        }
    }

    /// The L2 norm of each head's slice through `o_proj` (tokens, heads), after `forward`.
    pub(crate) fn head_norms(&self, config: &Config, tokens: usize, buffers: &Scratch) -> Vec<f32> {
        let heads = config.num_attention_heads;
        self.o_proj.slice_norms(heads, &buffers.gated[..tokens * heads * config.head_dim])
    }
}
