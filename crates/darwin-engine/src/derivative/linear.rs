//! Gated DeltaNet, forwards and backwards.

use super::groups::Tally;
use super::maps::{self, Output};
use super::step::{Pair, Tokens};
use crate::Config;
use crate::gdn::backward::{Backward, Gradients, Scratch};
use crate::gdn::{Cache, Recurrence, Weights};
use crate::kernels::{
    Buffer, convolve_row, convolve_row_back, decay_back, gated_norm_back, multiply, scratch,
    silu_back, triple_dot, unit_back,
};
use crate::mixer::Input;
use crate::team::Disjoint;
use std::ops::Range;

/// Multiply-adds of a core in a nanosecond, for sharing the work only.
const PER_NANOSECOND: f64 = 10.0;

/// What going back needs.
#[derive(Debug, Default)]
pub(super) struct Kept {
    /// (tokens, q | k | v) before the convolution
    qkv: Buffer,
    /// (tokens, value heads x value dim)
    z: Buffer,
    /// (tokens, b | a)
    ba: Buffer,
    /// (tokens, q | k | v) as the recurrence takes them
    conv: Buffer,
    /// (value heads, tokens), as is `decay`
    beta: Buffer,
    decay: Buffer,
    /// What the recurrence gives, and that after the gated norm (tokens, value heads x value dim)
    mixed: Buffer,
    pub(super) gated: Buffer,
}

#[derive(Debug, Default)]
pub(super) struct Work {
    gated_grad: Buffer,
    mixed_grad: Buffer,
    /// (tokens, q | k | v | z | b | a)
    inputs_grad: Buffer,
    /// (tokens of a sequence, q | k | v), from after the convolution to before silu
    conv_grad: Buffer,
    /// For each value head the gradients of a sequence
    heads: Buffer,
    /// Of each member of the team
    scans: Vec<Scratch>,
    row: Buffer,
    unit: Buffer,
    /// (value heads, tokens)
    beta_grad: Buffer,
    decay_grad: Buffer,
    rates: Buffer,
    alphas: Buffer,
}

/// Weights, transposed weights and directions.
pub(super) struct Of<'a> {
    pub(super) mixer: &'a Weights,
    pub(super) back: &'a Pair,
    pub(super) to: &'a maps::Linear,
}

/// Into `out` (tokens, hidden).
pub(super) fn forward(
    tokens: &Tokens<'_>,
    w: &Weights,
    x: &[f32],
    kept: &mut Kept,
    out: &mut [f32],
) {
    let (config, team, n) = (tokens.config, tokens.team, tokens.count());
    let (hidden, channels, values) =
        (config.hidden_size, config.linear_conv_dim(), config.linear_value_dim());
    let heads = config.linear_num_value_heads;
    let qkv = scratch(&mut kept.qkv, n * channels);
    multiply(team, n, x, hidden, w.in_proj_qkv.panels(), qkv, channels);
    let z = scratch(&mut kept.z, n * values);
    multiply(team, n, x, hidden, w.in_proj_z.panels(), z, values);
    let ba = scratch(&mut kept.ba, n * 2 * heads);
    multiply(team, n, x, hidden, w.in_proj_ba.panels(), ba, 2 * heads);
    let (beta, decay) = (scratch(&mut kept.beta, n * heads), scratch(&mut kept.decay, n * heads));
    w.gates(ba, beta, decay);
    let conv = scratch(&mut kept.conv, n * channels);
    let mixed = scratch(&mut kept.mixed, n * values);
    let input = Input { config, team, layer: 0, x, pieces: &[] };
    let mut cache = Cache::default();
    for ends in tokens.offsets.windows(2) {
        cache.clear();
        let rows = ends[0] * channels..ends[1] * channels;
        w.convolve(&input, &qkv[rows.clone()], &mut cache, &mut conv[rows.clone()]);
        let (beta, decay) = (&beta[ends[0]..], &decay[ends[0]..]);
        let work = Recurrence { conv: &conv[rows], beta, decay, gates_row: n };
        work.run(config, team, &mut cache.state, &mut mixed[ends[0] * values..ends[1] * values]);
    }
    let gated = scratch(&mut kept.gated, n * values);
    gated.copy_from_slice(mixed);
    w.gated_norm(config, team, z, gated);
    multiply(team, n, gated, values, w.out_proj.panels(), out, hidden);
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
    let (config, team, n) = (tokens.config, tokens.team, tokens.count());
    let (hidden, channels, values) =
        (config.hidden_size, config.linear_conv_dim(), config.linear_value_dim());
    let heads = config.linear_num_value_heads;
    let all = channels + values + 2 * heads;

    let gated_grad = scratch(&mut work.gated_grad, n * values);
    multiply(team, n, grad, hidden, of.back.output.panels(), gated_grad, values);
    let gated = &kept.gated[..n * values];
    of.to.output.shares(team, (gated, values), Output::all(grad, hidden), maps, tally);

    let inputs_grad = scratch(&mut work.inputs_grad, n * all);
    let mixed_grad = scratch(&mut work.mixed_grad, n * values);
    for t in 0..n {
        let row = t * values..(t + 1) * values;
        let z_grad = &mut inputs_grad[t * all + channels..][..values];
        let (eps, direction) = (config.rms_norm_eps as f32, &of.to.norm.values);
        let share = gated_norm_back(
            (&kept.mixed[row.clone()], &kept.z[row.clone()]),
            &of.mixer.norm,
            eps,
            &gated_grad[row.clone()],
            direction,
            (&mut mixed_grad[row], z_grad),
        );
        if !direction.is_empty() {
            tally.add_one(of.to.norm.group, t, share);
        }
    }

    let beta_grad = scratch(&mut work.beta_grad, n * heads);
    let decay_grad = scratch(&mut work.decay_grad, n * heads);
    work.scans.resize_with(team.threads().max(work.scans.len()), Scratch::default);
    for ends in tokens.offsets.windows(2) {
        let rows = ends[0]..ends[1];
        let each = scan(tokens, kept, mixed_grad, rows.clone(), &mut work.heads, &mut work.scans);
        let conv_grad = scratch(&mut work.conv_grad, rows.len() * channels);
        gather(config, &work.heads, rows.len(), each, conv_grad);
        for head in 0..heads {
            let at = head * each + each - 2 * rows.len();
            let (beta, decay) = work.heads[at..head * each + each].split_at(rows.len());
            beta_grad[head * n..][rows.clone()].copy_from_slice(beta);
            decay_grad[head * n..][rows.clone()].copy_from_slice(decay);
        }
        let qkv = &kept.qkv[rows.start * channels..rows.end * channels];
        let row = (scratch(&mut work.row, channels), scratch(&mut work.unit, channels));
        convolution(config, of, qkv, row, conv_grad, rows.start, tally);
        for (i, t) in rows.enumerate() {
            let to = &mut inputs_grad[t * all..][..channels];
            convolve_row_back(conv_grad, &of.mixer.conv1d, channels, i, to);
        }
    }
    let gates = (&mut *beta_grad, &mut *decay_grad);
    let room = (scratch(&mut work.alphas, n), scratch(&mut work.rates, n));
    for head in 0..heads {
        gates_back(
            of,
            kept,
            head,
            n,
            (&mut gates.0[head * n..(head + 1) * n], &mut gates.1[head * n..(head + 1) * n]),
            (&mut *room.0, &mut *room.1),
            tally,
        );
        for t in 0..n {
            let row = &mut inputs_grad[t * all + channels + values..(t + 1) * all];
            row[head] = gates.0[head * n + t];
            row[heads + head] = gates.1[head * n + t];
        }
    }
    of.to.inputs.shares(team, (x, hidden), Output::all(inputs_grad, all), maps, tally);
    multiply(team, n, inputs_grad, all, of.back.inputs.panels(), input_grad, hidden);
}

/// The recurrence of a sequence, backwards: for each value head the gradients of its queries, keys,
/// values, `beta` and `decay`, in this order, in as many values as it gives back.
fn scan(
    tokens: &Tokens<'_>,
    kept: &Kept,
    mixed_grad: &[f32],
    rows: Range<usize>,
    out: &mut Buffer,
    scans: &mut [Scratch],
) -> usize {
    let (config, all) = (tokens.config, tokens.count());
    let (channels, values) = (config.linear_conv_dim(), config.linear_value_dim());
    let (key, value) = (config.linear_key_head_dim, config.linear_value_head_dim);
    let (heads, n) = (config.linear_num_value_heads, rows.len());
    let group = heads / config.linear_num_key_heads;
    let each = n * (2 * key + value + 2);
    let (out, scans) = (Disjoint::new(scratch(out, heads * each)), Disjoint::new(scans));
    let conv = &kept.conv[rows.start * channels..rows.end * channels];
    let cost = (12 * n * key * value) as f64 / PER_NANOSECOND;
    tokens.team.split(heads, 1, cost, |range, member| {
        for head in range {
            // SAFETY: a head is in one range of the split alone, and so are its gradients; a member
            // runs one range at a time, so nobody else has its buffers.
            let (out, scratch) =
                unsafe { (out.range(head * each..(head + 1) * each), scans.at(member)) };
            let (queries, rest) = out.split_at_mut(n * key);
            let (keys, rest) = rest.split_at_mut(n * key);
            let (of_values, rest) = rest.split_at_mut(n * value);
            let (beta, decay) = rest.split_at_mut(n);
            let gates = head * all + rows.start..head * all + rows.end;
            let query_at = head / group * key;
            let job = Backward {
                tokens: n,
                key_dim: key,
                value_dim: value,
                queries: &conv[query_at..],
                keys: &conv[config.linear_key_dim() + query_at..],
                values: &conv[2 * config.linear_key_dim() + head * value..],
                row: channels,
                beta: &kept.beta[gates.clone()],
                decay: &kept.decay[gates],
                grad: &mixed_grad[rows.start * values + head * value..],
                grad_row: values,
            };
            job.run(scratch, &mut Gradients { queries, keys, values: of_values, beta, decay });
        }
    });
    each
}

/// Gradients by head to (tokens, q | k | v): those of the value heads of a key head are added up.
fn gather(config: &Config, heads: &[f32], n: usize, each: usize, out: &mut [f32]) {
    let (key, value) = (config.linear_key_head_dim, config.linear_value_head_dim);
    let (channels, keys) = (config.linear_conv_dim(), config.linear_key_dim());
    let group = config.linear_num_value_heads / config.linear_num_key_heads;
    for (t, row) in out.chunks_exact_mut(channels).enumerate() {
        row[..2 * keys].fill(0.0);
        for head in 0..config.linear_num_value_heads {
            let of_head = &heads[head * each..(head + 1) * each];
            let at = head / group * key;
            for (to, from) in [(at, t * key), (keys + at, (n + t) * key)] {
                let values = row[to..to + key].iter_mut().zip(&of_head[from..from + key]);
                values.for_each(|(to, from)| *to += from);
            }
            let from = &of_head[2 * n * key + t * value..][..value];
            row[2 * keys + head * value..][..value].copy_from_slice(from);
        }
    }
}

/// From gradients of what the recurrence takes to those of the convolution's sums, in place: unit
/// queries and keys, silu; and the inner products of the convolution.
fn convolution(
    config: &Config,
    of: &Of<'_>,
    qkv: &[f32],
    (sums, activated): (&mut [f32], &mut [f32]),
    grad: &mut [f32],
    first: usize,
    tally: &mut Tally<'_>,
) {
    let (channels, keys) = (config.linear_conv_dim(), config.linear_key_dim());
    let (width, kernel) = (config.linear_key_head_dim, config.linear_conv_kernel_dim);
    let scale = 1.0 / (width as f32).sqrt();
    let direction = &of.to.conv1d;
    for (t, grad) in grad.chunks_exact_mut(channels).enumerate() {
        convolve_row(qkv, &of.mixer.conv1d, channels, t, sums);
        // silu as `x * sigmoid(x)`, of queries and keys alone
        activated[..2 * keys].copy_from_slice(&sums[..2 * keys]);
        crate::kernels::sigmoids(&mut activated[..2 * keys]);
        activated[..2 * keys].iter_mut().zip(&*sums).for_each(|(s, x)| *s *= x);
        unit_back(&activated[..keys], width, scale, &mut grad[..keys]);
        unit_back(&activated[keys..2 * keys], width, 1.0, &mut grad[keys..2 * keys]);
        silu_back(sums, grad);
        if direction.values.is_empty() {
            continue;
        }
        let mut share = 0.0;
        for (j, taps) in direction.values.chunks_exact(channels).enumerate() {
            let Some(from) = (t + j + 1).checked_sub(kernel) else { continue };
            share += triple_dot(grad, taps, &qkv[from * channels..][..channels]);
        }
        tally.add_one(direction.group, first + t, share);
    }
}

/// From gradients of `beta` and `decay` of a head to those of `b` and `a`, in place, and the inner
/// products of `A_log` and `dt_bias`.
fn gates_back(
    of: &Of<'_>,
    kept: &Kept,
    head: usize,
    n: usize,
    (beta_grad, decay_grad): (&mut [f32], &mut [f32]),
    (alphas, rates): (&mut [f32], &mut [f32]),
    tally: &mut Tally<'_>,
) {
    let heads = of.mixer.dt_bias.len();
    for (grad, beta) in beta_grad.iter_mut().zip(&kept.beta[head * n..(head + 1) * n]) {
        *grad *= beta * (1.0 - beta);
    }
    let rows = kept.ba[..n * 2 * heads].chunks_exact(2 * heads);
    alphas.iter_mut().zip(rows).for_each(|(to, row)| *to = row[heads + head]);
    let decay = &kept.decay[head * n..(head + 1) * n];
    let (rate, dt) = (of.mixer.decay_rate[head], of.mixer.dt_bias[head]);
    decay_back(alphas, decay, (rate, dt), decay_grad, rates);
    for (direction, grads) in [(&of.to.a_log, &*rates), (&of.to.dt_bias, &*decay_grad)] {
        if let Some(value) = direction.values.get(head) {
            for (t, grad) in grads.iter().enumerate() {
                tally.add_one(direction.group, t, grad * value);
            }
        }
    }
}
