//! Multi-head latent attention (arXiv 2405.04434, 2.1): keys and values of all heads are expanded
//! from one latent vector a token, and cached expanded.

use crate::attention::Cache;
use crate::cache::Caches;
use crate::config::LatentForm;
use crate::kernels::{Buffer, rms_norm, scratch};
use crate::kv_head::{HeadCache, Shape};
use crate::mixer::Input;
use crate::projection::Projection;
use crate::rope::RopeTable;
use crate::team::Team;
use crate::weights::{Expected, Loader};
use crate::{Config, Error};
use std::ops::Range;
use std::sync::Arc;

/// Epsilon of the norms of latents, whatever `rms_norm_eps` says.
const LATENT_EPS: f32 = 1e-6;

/// Weights of one layer; (out, in) before packing.
#[derive(Clone, Debug)]
pub(crate) struct Weights {
    queries: Queries,
    /// (kv rank + rotated, hidden)
    kv_a_proj_with_mqa: Projection,
    /// (kv rank)
    kv_a_layernorm: Arc<[f32]>,
    /// (heads x [key ; value], kv rank)
    kv_b_proj: Projection,
    /// (hidden, heads x value dim)
    o_proj: Projection,
}

/// From hidden states to queries (heads x [plain ; rotated]).
#[derive(Clone, Debug)]
enum Queries {
    Direct { q_proj: Projection },
    Latent { q_a_proj: Projection, q_a_layernorm: Arc<[f32]>, q_b_proj: Projection },
}

/// Buffers.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    rope: RopeTable,
    /// (tokens, rank), before and after its norm
    latent: Buffer,
    normed: Buffer,
    /// (tokens, heads x query dim)
    queries: Buffer,
    /// (tokens, kv rank + rotated)
    compressed: Buffer,
    /// (tokens, heads x [key ; value])
    expanded: Buffer,
    key: Buffer,
    of_head: Buffer,
    /// Of each member of the team
    scores: Vec<Buffer>,
    attended: Buffer,
    /// (tokens, heads x value dim)
    joined: Buffer,
}

/// Names and shapes of one layer's tensors.
pub(crate) fn expected(config: &Config, form: &LatentForm, prefix: &str) -> Vec<Expected> {
    let (hidden, heads) = (config.hidden_size, config.num_attention_heads);
    let (rank, rotated) = (form.kv_lora_rank, form.qk_rope_head_dim);
    let queries = heads * form.qk_head_dim();
    let expanded = heads * (form.qk_nope_head_dim + form.v_head_dim);
    let mut shapes = vec![
        ("kv_a_proj_with_mqa.weight", vec![rank + rotated, hidden]),
        ("kv_a_layernorm.weight", vec![rank]),
        ("kv_b_proj.weight", vec![expanded, rank]),
        ("o_proj.weight", vec![hidden, heads * form.v_head_dim]),
    ];
    match form.q_lora_rank {
        None => shapes.push(("q_proj.weight", vec![queries, hidden])),
        Some(rank) => shapes.extend([
            ("q_a_proj.weight", vec![rank, hidden]),
            ("q_a_layernorm.weight", vec![rank]),
            ("q_b_proj.weight", vec![queries, rank]),
        ]),
    }
    if form.attention_bias {
        shapes.push(("kv_a_proj_with_mqa.bias", vec![rank + rotated]));
        shapes.push(("o_proj.bias", vec![hidden]));
        shapes.extend(form.q_lora_rank.map(|rank| ("q_a_proj.bias", vec![rank])));
    }
    Expected::list(&format!("{prefix}self_attn."), shapes)
}

impl Weights {
    pub(crate) fn load(
        loader: &Loader<'_>,
        config: &Config,
        form: &LatentForm,
        prefix: &str,
    ) -> Result<Self, Error> {
        let biased = form.attention_bias;
        let name = |tensor: &str| format!("{prefix}self_attn.{tensor}");
        let load = |tensor: &str, biased| Projection::load(loader, &name(tensor), biased);
        Ok(Self {
            queries: Queries::load(loader, config, form, prefix)?,
            kv_a_proj_with_mqa: load("kv_a_proj_with_mqa", biased)?,
            kv_a_layernorm: loader.norm(config, &name("kv_a_layernorm"))?,
            kv_b_proj: load("kv_b_proj", false)?,
            o_proj: load("o_proj", biased)?,
        })
    }

    /// The mixer over a block, into `out` (tokens, hidden).
    pub(crate) fn forward(
        &self,
        form: &LatentForm,
        input: &Input<'_>,
        caches: &mut Caches<'_>,
        buffers: &mut Scratch,
        out: &mut [f32],
    ) {
        let (config, x, tokens) = (input.config, input.x, input.tokens());
        let team = input.team;
        let rank = form.kv_lora_rank;
        self.queries.forward(team, tokens, x, buffers);

        let compressed = self.kv_a_proj_with_mqa.columns();
        let values = scratch(&mut buffers.compressed, tokens * compressed);
        self.kv_a_proj_with_mqa.forward(team, tokens, x, values, compressed);
        let normed = scratch(&mut buffers.normed, tokens * rank);
        for (row, normed) in values.chunks_exact(compressed).zip(normed.chunks_exact_mut(rank)) {
            rms_norm(&row[..rank], &self.kv_a_layernorm, LATENT_EPS, normed);
        }
        let expanded = self.kv_b_proj.columns();
        let values = scratch(&mut buffers.expanded, tokens * expanded);
        self.kv_b_proj.forward(team, tokens, normed, values, expanded);
        let joined = config.num_attention_heads * form.v_head_dim;
        scratch(&mut buffers.joined, tokens * joined);

        for piece in input.pieces {
            let cache = caches.full(input.layer, piece);
            sequence(form, input, piece.rows.clone(), cache, buffers);
        }
        let joined = &buffers.joined[..tokens * joined];
        self.o_proj.forward(team, tokens, joined, out, config.hidden_size);
    }

    /// The L2 norm of each head's slice through `o_proj` (tokens, heads), after `forward`.
    pub(crate) fn head_norms(
        &self,
        form: &LatentForm,
        config: &Config,
        tokens: usize,
        buffers: &Scratch,
    ) -> Vec<f32> {
        let heads = config.num_attention_heads;
        self.o_proj.slice_norms(heads, &buffers.joined[..tokens * heads * form.v_head_dim])
    }
}

impl Queries {
    fn load(
        loader: &Loader<'_>,
        config: &Config,
        form: &LatentForm,
        prefix: &str,
    ) -> Result<Self, Error> {
        let name = |tensor: &str| format!("{prefix}self_attn.{tensor}");
        let load = |tensor: &str, biased| Projection::load(loader, &name(tensor), biased);
        if form.q_lora_rank.is_none() {
            return Ok(Self::Direct { q_proj: load("q_proj", false)? });
        }
        Ok(Self::Latent {
            q_a_proj: load("q_a_proj", form.attention_bias)?,
            q_a_layernorm: loader.norm(config, &name("q_a_layernorm"))?,
            q_b_proj: load("q_b_proj", false)?,
        })
    }

    /// Into `buffers.queries` (tokens, heads x query dim).
    fn forward(&self, team: Team<'_>, tokens: usize, x: &[f32], buffers: &mut Scratch) {
        match self {
            Self::Direct { q_proj } => {
                let columns = q_proj.columns();
                let queries = scratch(&mut buffers.queries, tokens * columns);
                q_proj.forward(team, tokens, x, queries, columns);
            }
            Self::Latent { q_a_proj, q_a_layernorm, q_b_proj } => {
                let (rank, columns) = (q_a_proj.columns(), q_b_proj.columns());
                let latent = scratch(&mut buffers.latent, tokens * rank);
                q_a_proj.forward(team, tokens, x, latent, rank);
                let normed = scratch(&mut buffers.normed, tokens * rank);
                rms_norm(latent, q_a_layernorm, LATENT_EPS, normed);
                let queries = scratch(&mut buffers.queries, tokens * columns);
                q_b_proj.forward(team, tokens, normed, queries, columns);
            }
        }
    }
}

/// One sequence's rows of queries, keys and values to its rows of `joined`.
fn sequence(
    form: &LatentForm,
    input: &Input<'_>,
    rows: Range<usize>,
    cache: &mut Cache,
    buffers: &mut Scratch,
) {
    let heads = input.config.num_attention_heads;
    let (plain, rotated, value_dim) =
        (form.qk_nope_head_dim, form.qk_rope_head_dim, form.v_head_dim);
    let (rank, dim) = (form.kv_lora_rank, form.qk_head_dim());
    let (tokens, before) = (rows.len(), cache.tokens);
    let Scratch {
        rope, queries, compressed, expanded, key, of_head, scores, attended, joined, ..
    } = buffers;
    rope.prepare(&input.config.rope, before + tokens);
    let rotate = |position: usize, values: &mut [f32]| match form.rope_interleave {
        true => rope.rotate_pairs(position, values),
        false => rope.rotate(position, values),
    };
    for (t, row) in rows.clone().enumerate() {
        rotate(before + t, &mut compressed[row * (rank + rotated) + rank..][..rotated]);
    }
    cache.heads.resize(heads, HeadCache::default());
    let of_head = scratch(of_head, tokens * dim);
    let attended = scratch(attended, tokens * value_dim);
    let key = scratch(key, dim);
    for (h, head) in cache.heads.iter_mut().enumerate() {
        for (t, row) in rows.clone().enumerate() {
            let from = &expanded[(row * heads + h) * (plain + value_dim)..][..plain + value_dim];
            key[..plain].copy_from_slice(&from[..plain]);
            key[plain..].copy_from_slice(&compressed[row * (rank + rotated) + rank..][..rotated]);
            head.append(before + t, key, &from[plain..]);
            let query = &mut of_head[t * dim..][..dim];
            query.copy_from_slice(&queries[(row * heads + h) * dim..][..dim]);
            rotate(before + t, &mut query[plain..]);
        }
        let shape =
            Shape { before, group: 1, dim, value_dim, scale: form.scale, window: usize::MAX };
        head.attend_all(input.team, &shape, of_head, scores, attended);
        for (row, values) in rows.clone().zip(attended.chunks_exact(value_dim)) {
            joined[(row * heads + h) * value_dim..][..value_dim].copy_from_slice(values);
        }
    }
    cache.tokens += tokens;
}
