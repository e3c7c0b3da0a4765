//! Softmax attention, forwards and backwards.

use super::groups::Tally;
use super::maps::{self, Map, Output, Vector};
use super::step::{Pair, Tokens};
use crate::attention::Weights;
use crate::kernels::{
    Buffer, PANEL, Panels, Values, add_assign, gated, gated_back, multiply, norm_back, scratch,
    softmax_back,
};
use crate::kv_head::{HeadCache, QUERY_BLOCK, Shape};
use crate::rope::RopeTable;
use crate::team::{Disjoint, Team};
use crate::{Config, QkNorm};
use std::ops::Range;

/// Multiply-adds of a core in a nanosecond, for sharing the work only.
const PER_NANOSECOND: f64 = 20.0;

/// What going back needs.
#[derive(Debug, Default)]
pub(super) struct Kept {
    /// Outputs of the projections (tokens, out)
    projected: Buffer,
    keys: Buffer,
    values: Buffer,
    /// Rotated queries, and what they find: sequence after sequence (kv heads, tokens, heads of a
    /// group, head dim)
    queries: Buffer,
    attended: Buffer,
    /// What goes into `o_proj` (tokens, heads x head dim)
    pub(super) gated: Buffer,
    /// Of each sequence those of all key-value heads
    caches: Vec<HeadCache>,
}

#[derive(Debug, Default)]
pub(super) struct Work {
    rope: RopeTable,
    scores: Buffer,
    gated_grad: Buffer,
    /// As what is attended
    attended_grad: Buffer,
    /// (tokens, q | k | v)
    inputs_grad: Buffer,
    /// For each key-value head the gradients of a sequence's queries, keys and values
    heads: Buffer,
    /// Of each member of the team
    members: Vec<Member>,
    shares: Buffer,
    row: Buffer,
}

/// Buffers of one thread.
#[derive(Debug, Default)]
struct Member {
    /// Values in the place of keys, and keys in the place of values.
    swapped: HeadCache,
    /// (queries of a block, positions)
    scores: Buffer,
    scores_grad: Buffer,
    /// (positions, queries of a block)
    turned: Buffer,
    /// Rows of a block, padded
    block: Buffer,
    sums: Buffer,
}

/// Weights, transposed weights and directions.
pub(super) struct Of<'a> {
    pub(super) layer: usize,
    pub(super) mixer: &'a Weights,
    pub(super) back: &'a Pair,
    pub(super) inputs: &'a Map,
    pub(super) q_norm: Option<&'a Vector>,
    pub(super) k_norm: Option<&'a Vector>,
    pub(super) output: &'a Map,
}

/// Sizes that both ways need.
#[derive(Clone, Copy)]
struct Sizes {
    dim: usize,
    heads: usize,
    kv_heads: usize,
    group: usize,
    /// Query, or query and gate
    parts: usize,
}

impl Sizes {
    fn of(config: &Config) -> Self {
        let (heads, kv_heads) = (config.num_attention_heads, config.num_key_value_heads);
        let parts = if config.attention.gated { 2 } else { 1 };
        Self { dim: config.head_dim, heads, kv_heads, group: heads / kv_heads, parts }
    }

    /// Columns of `q_proj`.
    fn queries(self) -> usize {
        self.parts * self.heads * self.dim
    }

    /// Where a head's query, and its gate behind it, stands in the columns of `q_proj`.
    fn query(self, head: usize) -> usize {
        head * self.parts * self.dim
    }
}

fn shape(config: &Config, layer: usize, before: usize) -> Shape {
    let (dim, group) = (config.head_dim, config.num_attention_heads / config.num_key_value_heads);
    let (scale, window) = (1.0 / (dim as f32).sqrt(), config.window(layer));
    Shape { before, group, dim, value_dim: dim, scale, window }
}

/// Into `out` (tokens, hidden).
pub(super) fn forward(
    tokens: &Tokens<'_>,
    (layer, w): (usize, &Weights),
    x: &[f32],
    kept: &mut Kept,
    work: &mut Work,
    out: &mut [f32],
) {
    let (config, team, n) = (tokens.config, tokens.team, tokens.count());
    let sizes = Sizes::of(config);
    let Sizes { dim, heads, kv_heads, group, parts } = sizes;
    let (columns, kv) = (sizes.queries(), kv_heads * dim);
    let projected = scratch(&mut kept.projected, n * columns);
    w.q_proj.forward(team, n, x, projected, columns);
    let keys = scratch(&mut kept.keys, n * kv);
    w.k_proj.forward(team, n, x, keys, kv);
    let values = scratch(&mut kept.values, n * kv);
    w.v_proj.forward(team, n, x, values, kv);
    let longest = tokens.offsets.windows(2).map(|ends| ends[1] - ends[0]).max().unwrap_or(0);
    work.rope.prepare(&config.rope, longest);
    let queries = scratch(&mut kept.queries, n * heads * dim);
    let attended = scratch(&mut kept.attended, n * heads * dim);
    let gated_out = scratch(&mut kept.gated, n * heads * dim);
    kept.caches.resize_with(tokens.offsets.len() * kv_heads, HeadCache::default);
    let mut key = vec![0.0; dim];
    for (sequence, ends) in tokens.offsets.windows(2).enumerate() {
        let count = ends[1] - ends[0];
        for kv_head in 0..kv_heads {
            let cache = &mut kept.caches[sequence * kv_heads + kv_head];
            cache.clear();
            let first = (ends[0] * kv_heads + kv_head * count) * group * dim;
            let of_head = first..first + count * group * dim;
            let queries = &mut queries[of_head.clone()];
            for (t, rows) in queries.chunks_exact_mut(group * dim).enumerate() {
                let token = ends[0] + t;
                let at = (token * kv_heads + kv_head) * dim;
                w.head(config, &w.k_norm, &keys[at..][..dim], &mut key);
                work.rope.rotate(t, &mut key);
                cache.append(t, &key, &values[at..][..dim]);
                for (g, query) in rows.chunks_exact_mut(dim).enumerate() {
                    let from = token * columns + sizes.query(kv_head * group + g);
                    w.head(config, &w.q_norm, &projected[from..][..dim], query);
                    work.rope.rotate(t, query);
                }
            }
            let block = QUERY_BLOCK * group * dim;
            let blocks = queries.chunks(block).zip(attended[of_head].chunks_mut(block));
            for (i, (queries, attended)) in blocks.enumerate() {
                let shape = shape(config, layer, i * QUERY_BLOCK);
                cache.attend(&shape, queries, &mut work.scores, attended);
            }
        }
        for t in 0..count {
            for head in 0..heads {
                let at = ((ends[0] + t) * heads + head) * dim;
                let from = attended_at(sizes, ends[0], count, t, head);
                let (row, out) = (&attended[from..][..dim], &mut gated_out[at..][..dim]);
                if parts == 2 {
                    let gate = (ends[0] + t) * columns + sizes.query(head) + dim;
                    gated(row, &projected[gate..][..dim], out);
                } else {
                    out.copy_from_slice(row);
                }
            }
        }
    }
    w.o_proj.forward(team, n, gated_out, out, config.hidden_size);
}

/// Where a head of a token of a sequence lies in queries and what is attended.
fn attended_at(sizes: Sizes, first: usize, count: usize, t: usize, head: usize) -> usize {
    let Sizes { dim, kv_heads, group, .. } = sizes;
    let (kv_head, g) = (head / group, head % group);
    ((first * kv_heads + kv_head * count + t) * group + g) * dim
}

/// From the gradient of the mixer's output to that of its input, into `input_grad`.
#[expect(clippy::too_many_arguments, reason = "what is read, what is written, and where to work")]
pub(super) fn backward(
    tokens: &Tokens<'_>,
    of: &Of<'_>,
    x: &[f32],
    kept: &Kept,
    grad: &[f32],
    maps: &mut maps::Scratch,
    work: &mut Work,
    input_grad: &mut [f32],
    tally: &mut Tally<'_>,
) {
    let (config, team, n, hidden) =
        (tokens.config, tokens.team, tokens.count(), tokens.config.hidden_size);
    let sizes = Sizes::of(config);
    let Sizes { dim, heads, kv_heads, group, parts } = sizes;
    let (columns, kv, width) = (sizes.queries(), kv_heads * dim, heads * dim);
    let all = columns + 2 * kv;
    let gated_grad = scratch(&mut work.gated_grad, n * width);
    multiply(team, n, grad, hidden, of.back.output.panels(), gated_grad, width);
    let gated = &kept.gated[..n * width];
    of.output.shares(team, (gated, width), Output::all(grad, hidden), maps, tally);

    let inputs_grad = scratch(&mut work.inputs_grad, n * all);
    let attended_grad = scratch(&mut work.attended_grad, n * width);
    work.members.resize_with(team.threads().max(work.members.len()), Member::default);
    for (sequence, ends) in tokens.offsets.windows(2).enumerate() {
        let count = ends[1] - ends[0];
        for t in 0..count {
            for head in 0..heads {
                let at = attended_at(sizes, ends[0], count, t, head);
                let grad = &gated_grad[((ends[0] + t) * heads + head) * dim..][..dim];
                let to = &mut attended_grad[at..][..dim];
                if parts == 2 {
                    let gate = sizes.query(head) + dim;
                    let from = &kept.projected[(ends[0] + t) * columns + gate..][..dim];
                    let gate_grad = &mut inputs_grad[(ends[0] + t) * all + gate..][..dim];
                    gated_back(&kept.attended[at..][..dim], from, grad, to, gate_grad);
                } else {
                    to.copy_from_slice(grad);
                }
            }
        }
        let each = count * (group + 2) * dim;
        let out = Disjoint::new(scratch(&mut work.heads, kv_heads * each));
        let members = Disjoint::new(&mut work.members);
        let cost = (5 * count * count * group * dim) as f64 / PER_NANOSECOND;
        let attended_grad = &*attended_grad;
        team.split(kv_heads, 1, cost, |range, member| {
            for kv_head in range {
                // SAFETY: a head is in one range of the split alone, and so are its gradients; a
                // member runs one range at a time, so nobody else has its buffers.
                let (out, member) = unsafe {
                    (out.range(kv_head * each..(kv_head + 1) * each), members.at(member))
                };
                let first = (ends[0] * kv_heads + kv_head * count) * group * dim;
                let rows = first..first + count * group * dim;
                let (queries, rest) = out.split_at_mut(count * group * dim);
                let (keys, values) = rest.split_at_mut(count * dim);
                member.head(
                    &shape(config, of.layer, 0),
                    &kept.caches[sequence * kv_heads + kv_head],
                    (&kept.queries[rows.clone()], &attended_grad[rows]),
                    (queries, keys, values),
                );
            }
        });
        let gradients = &mut work.heads[..kv_heads * each];
        let rows = ends[0]..ends[1];
        let room = (&mut work.row, &mut work.shares);
        to_projections(tokens, of, kept, rows, &work.rope, gradients, inputs_grad, room, tally);
    }
    of.inputs.shares(team, (x, hidden), Output::all(inputs_grad, all), maps, tally);
    multiply(team, n, inputs_grad, all, of.back.inputs.panels(), input_grad, hidden);
}

/// Gradients of a sequence's rotated queries and keys and of its values, by head, to the outputs of
/// the projections; and the inner products of the norms.
#[expect(clippy::too_many_arguments, reason = "what is read, what is written, and where to work")]
fn to_projections(
    tokens: &Tokens<'_>,
    of: &Of<'_>,
    kept: &Kept,
    rows: Range<usize>,
    rope: &RopeTable,
    gradients: &mut [f32],
    inputs_grad: &mut [f32],
    (row, shares): (&mut Buffer, &mut Buffer),
    tally: &mut Tally<'_>,
) {
    let (config, eps) = (tokens.config, tokens.config.rms_norm_eps as f32);
    let sizes = Sizes::of(config);
    let Sizes { dim, kv_heads, group, .. } = sizes;
    let (columns, kv, count) = (sizes.queries(), kv_heads * dim, rows.len());
    let all = columns + 2 * kv;
    let (row, share) = (scratch(row, dim), scratch(shares, 1));
    let normed = config.attention.qk_norm == QkNorm::Head;
    // a head's gradient before its norm, in place
    let mut back = |t: usize, grad: &mut [f32], x: &[f32], scale: &[f32], to: Option<&Vector>| {
        rope.rotate_back(t, grad);
        let (Some(to), true) = (to, normed) else { return };
        row.fill(0.0);
        norm_back(x, scale, eps, grad, &to.values, share, row);
        grad.copy_from_slice(row);
        if !to.values.is_empty() {
            tally.add_one(to.group, rows.start + t, share[0]);
        }
    };
    for (kv_head, gradients) in gradients.chunks_exact_mut(count * (group + 2) * dim).enumerate() {
        let (queries, rest) = gradients.split_at_mut(count * group * dim);
        let (keys, values) = rest.split_at_mut(count * dim);
        for (t, queries) in queries.chunks_exact_mut(group * dim).enumerate() {
            let token = rows.start + t;
            for (g, grad) in queries.chunks_exact_mut(dim).enumerate() {
                let at = sizes.query(kv_head * group + g);
                let x = &kept.projected[token * columns + at..][..dim];
                back(t, grad, x, &of.mixer.q_norm, of.q_norm);
                inputs_grad[token * all + at..][..dim].copy_from_slice(grad);
            }
            let (key, x) = (&mut keys[t * dim..(t + 1) * dim], token * kv + kv_head * dim);
            back(t, key, &kept.keys[x..][..dim], &of.mixer.k_norm, of.k_norm);
            let to = token * all + columns + kv_head * dim;
            inputs_grad[to..][..dim].copy_from_slice(key);
            inputs_grad[to + kv..][..dim].copy_from_slice(&values[t * dim..(t + 1) * dim]);
        }
    }
}

impl Member {
    /// One key-value head of a sequence: from the gradient of what its queries find to those of
    /// queries (tokens x group, dim), keys and values (tokens, dim).
    fn head(
        &mut self,
        shape: &Shape,
        cache: &HeadCache,
        (queries, grad): (&[f32], &[f32]),
        (queries_grad, keys_grad, values_grad): (&mut [f32], &mut [f32], &mut [f32]),
    ) {
        let Shape { group, dim, scale, .. } = *shape;
        let (alone, padded) = (Team::alone(), dim.next_multiple_of(PANEL));
        let tokens = queries.len() / (group * dim);
        cache.swap_into(tokens, dim, &mut self.swapped);
        keys_grad.fill(0.0);
        values_grad.fill(0.0);
        let block = QUERY_BLOCK * group * dim;
        let blocks = queries.chunks(block).zip(grad.chunks(block));
        for (i, ((queries, grad), queries_grad)) in
            blocks.zip(queries_grad.chunks_mut(block)).enumerate()
        {
            let (before, rows) = (i * QUERY_BLOCK, queries.len() / dim);
            let seen = before + rows / group;
            let width = seen.next_multiple_of(PANEL);
            let p = scratch(&mut self.scores, rows * width);
            cache.probabilities(&Shape { before, ..*shape }, queries, p);
            let p_grad = scratch(&mut self.scores_grad, rows * width);
            let values = self.swapped.keys(width, dim);
            multiply(alone, rows, grad, dim, values, p_grad, width);
            let sums = scratch(&mut self.sums, seen * dim);
            let mut add_turned = |left: &[f32], right: &[f32], to: &mut [f32]| {
                let turned = scratch(&mut self.turned, seen * rows);
                for (r, row) in left.chunks_exact(width).enumerate() {
                    row[..seen].iter().enumerate().for_each(|(c, v)| turned[c * rows + r] = *v);
                }
                let padding = scratch(&mut self.block, rows * padded);
                for (to, from) in padding.chunks_exact_mut(padded).zip(right.chunks_exact(dim)) {
                    to[..dim].copy_from_slice(from);
                    to[dim..].fill(0.0);
                }
                let values = Values::F32(padding);
                let right = Panels { values, columns: dim, depth: rows, row: padded, panel: PANEL };
                multiply(alone, seen, turned, rows, right, sums, dim);
                add_assign(&mut to[..seen * dim], sums);
            };
            add_turned(p, grad, values_grad);
            softmax_back(p, width, scale, p_grad);
            add_turned(p_grad, queries, keys_grad);
            let keys = self.swapped.values(seen, dim);
            multiply(alone, rows, p_grad, width, keys, queries_grad, dim);
        }
    }
}
