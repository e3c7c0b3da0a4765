//! What the buffers of a forward pass weigh, from the config alone: the sizes that `layer.rs`,
//! `attention.rs`, `mla.rs`, `gdn`, `mlp.rs` and `moe.rs` ask for.

use crate::kernels::{PANEL, own_bytes};
use crate::kv_head::QUERY_BLOCK;
use crate::layers::group_tokens_of;
use crate::mixer::BLOCK_TOKENS;
use crate::{AttentionForm, Config, LatentForm, LayerKind, MlpKind};

/// The buffers of all threads that take batches through layers.
pub(crate) struct Buffers<'a> {
    config: &'a Config,
    /// Tokens of a group, of a block of it, and of the longest sequence.
    group: u64,
    block: u64,
    longest: u64,
    /// Groups that are on their way at a time.
    groups: u64,
    threads: u64,
}

impl<'a> Buffers<'a> {
    /// Batches of up to so many tokens, or one sequence where that is longer.
    pub(crate) fn new(config: &'a Config, batch: usize, longest: usize, threads: u64) -> Self {
        let batch = batch.max(longest).max(1);
        let enough = group_tokens_of(batch, threads as usize);
        // A group ends with the sequence that makes it full.
        let group = batch.min(enough.saturating_add(longest.saturating_sub(1)));
        let groups = threads.min(batch.div_ceil(enough) as u64);
        Self {
            config,
            group: group as u64,
            block: group.min(BLOCK_TOKENS) as u64,
            longest: longest as u64,
            groups,
            threads,
        }
    }

    /// Workers of which each takes up to so many tokens together, whatever their number.
    pub(crate) fn together(
        config: &'a Config,
        tokens: usize,
        longest: usize,
        workers: u64,
        threads: u64,
    ) -> Self {
        let block = tokens.min(BLOCK_TOKENS) as u64;
        let (group, longest) = (tokens as u64, longest as u64);
        Self { config, group, block, longest, groups: workers, threads }
    }

    /// All of them.
    pub(crate) fn bytes(&self) -> u64 {
        self.groups * (4 * self.of_group() + cached_bytes(self.config, self.longest, true))
            + 4 * self.scores()
            + self.threads * own_bytes()
    }

    /// Values of the buffers of a group. They are kept from layer to layer, so every kind of layer
    /// that the model has counts.
    fn of_group(&self) -> u64 {
        let c = self.config;
        let (hidden, slots) = (width(c.hidden_size), self.group * width(c.num_experts_per_tok));
        // normed, routed_out, shared_out; mixed
        let mut values = 3 * self.group * hidden + self.block * hidden;
        let sparse = c.mlp_types.contains(&MlpKind::Sparse);
        if sparse {
            let inner = width(c.moe_intermediate_size);
            // experts, gates, norms, and the order of both; router logits, gates of shared experts
            values += 5 * slots + self.block * (width(c.num_experts) + 1);
            // gate_up, activated, result: all tokens may choose the same expert
            values += self.group * (3 * inner + hidden);
        }
        let dense = c.mlp_types.contains(&MlpKind::Dense);
        let of_dense = if dense { c.intermediate_size } else { 0 };
        let of_shared = if sparse { c.shared_expert_intermediate_size } else { 0 };
        values += 3 * self.block * width(of_dense.max(of_shared));
        values + self.block * self.of_mixers()
    }

    /// Values for each token of a block.
    fn of_mixers(&self) -> u64 {
        let c = self.config;
        let linear = c.layer_types.contains(&LayerKind::LinearAttention);
        let full = c.layer_types.iter().any(|kind| *kind != LayerKind::LinearAttention);
        let mut values = 0;
        if linear {
            // qkv, conv; z, mixed; ba, beta, decay
            values += 2 * width(c.linear_conv_dim() + c.linear_value_dim());
            values += 4 * width(c.linear_num_value_heads);
        }
        if full {
            values += match &c.latent {
                Some(form) => of_latent(form, width(c.num_attention_heads)),
                None => of_attention(c),
            };
        }
        values
    }

    /// Values of attention scores: a thread takes a block of queries to all positions.
    fn scores(&self) -> u64 {
        let c = self.config;
        if c.layer_types.iter().all(|kind| *kind == LayerKind::LinearAttention) {
            return 0;
        }
        let group = match c.latent {
            Some(_) => 1,
            None => c.num_attention_heads / c.num_key_value_heads.max(1),
        };
        let queries = self.longest.min(QUERY_BLOCK as u64) * width(group.max(1));
        self.threads * queries * self.longest.next_multiple_of(PANEL as u64)
    }
}

/// projected, keys, values, queries, attended, gated
fn of_attention(c: &Config) -> u64 {
    let heads = width(c.num_attention_heads * c.head_dim);
    let AttentionForm { gated, .. } = c.attention;
    let projected = if gated { 2 * heads } else { heads };
    projected + 2 * width(c.num_key_value_heads * c.head_dim) + 3 * heads
}

/// latent, normed, queries, compressed, expanded, of_head, attended, joined
fn of_latent(form: &LatentForm, heads: u64) -> u64 {
    let rank = width(form.q_lora_rank.unwrap_or(0));
    let (query, value) = (width(form.qk_head_dim()), width(form.v_head_dim));
    rank + rank.max(width(form.kv_lora_rank))
        + heads * query
        + width(form.kv_lora_rank + form.qk_rope_head_dim)
        + heads * (width(form.qk_nope_head_dim) + value)
        + query
        + value
        + heads * value
}

/// Bytes of what sequences with so many tokens leave behind in one layer of each kind (`one`), or
/// in all layers.
fn cached_bytes(config: &Config, tokens: u64, one: bool) -> u64 {
    let linear = |kind: &&LayerKind| **kind == LayerKind::LinearAttention;
    let count = |n: usize| if one { n.min(1) as u64 } else { n as u64 };
    let linears = count(config.layer_types.iter().filter(linear).count());
    let full = count(config.layer_types.iter().filter(|kind| !linear(kind)).count());
    let padded = tokens.next_multiple_of(PANEL as u64);
    full.saturating_mul(4 * of_token(config)).saturating_mul(padded)
        + linears * of_recurrence(config)
}

/// Bytes for each token of a batch in a layer of what a tap sees: five sites of the residual
/// stream's width, one of which it keeps, router logits, norms of heads, chosen experts.
pub(crate) fn record_bytes(c: &Config) -> u64 {
    let seen = 6 * c.hidden_size + c.num_experts + c.num_attention_heads;
    4 * width(seen + 4 * c.num_experts_per_tok)
}

/// Bytes of the caches of `sequences` sequences of `tokens` tokens each.
pub(crate) fn caches(config: &Config, sequences: u64, tokens: u64) -> u64 {
    sequences.saturating_mul(cached_bytes(config, tokens, false))
}

/// Values of keys and values of a token in a layer.
fn of_token(c: &Config) -> u64 {
    match &c.latent {
        Some(form) => {
            let values = form.v_head_dim.next_multiple_of(PANEL);
            width(c.num_attention_heads * (form.qk_head_dim() + values))
        }
        None => width(c.num_key_value_heads * (c.head_dim + c.head_dim.next_multiple_of(PANEL))),
    }
}

/// Bytes of the state of a layer's recurrence, and of the window of its convolution.
fn of_recurrence(c: &Config) -> u64 {
    let values = c.linear_value_head_dim.next_multiple_of(PANEL);
    let state = c.linear_num_value_heads * c.linear_key_head_dim * values;
    let window = c.linear_conv_kernel_dim.saturating_sub(1) * c.linear_conv_dim();
    4 * width(state + window)
}

fn width(n: usize) -> u64 {
    n as u64
}
