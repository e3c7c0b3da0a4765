//! Router and routed experts, forwards and backwards. Which experts a token goes to is held fixed.

use super::groups::Tally;
use super::maps::{self, Map, Output};
use super::step::Tokens;
use crate::Error;
use crate::finite::first_not_finite;
use crate::kernels::{
    Buffer, Matrix, Rows, add_assign, add_scaled, multiply, multiply_rows, row_dots, scratch,
    silu_mul, silu_mul_back, softmax,
};
use crate::moe::{Order, Routed};
use crate::router::Router;

/// What going back needs.
#[derive(Debug, Default)]
pub(super) struct Kept {
    /// (tokens, experts)
    logits: Buffer,
    /// (tokens, k), falling gates
    pub(super) experts: Vec<u32>,
    gates: Buffer,
    pub(super) order: Order,
    /// (slots by expert, [gate ; up])
    gate_up: Buffer,
    /// (slots by expert, width)
    pub(super) activated: Buffer,
}

#[derive(Debug, Default)]
pub(super) struct Work {
    used: Buffer,
    result: Buffer,
    /// (tokens, k)
    gates_grad: Buffer,
    logits_grad: Buffer,
    activated_grad: Buffer,
    gate_up_grad: Buffer,
    input_grad: Buffer,
    factors: Buffer,
    dots: Buffer,
}

/// Transposed weights and directions.
pub(super) struct Of<'a> {
    pub(super) router: &'a Matrix,
    pub(super) gate_up: &'a [Matrix],
    pub(super) down: &'a [Matrix],
    pub(super) to_router: &'a Map,
    pub(super) to_gate_up: &'a [Map],
    pub(super) to_down: &'a [Map],
}

/// Up to what goes into `down_proj`.
pub(super) fn forward(
    tokens: &Tokens<'_>,
    layer: usize,
    (router, routed): (&Router, &Routed),
    x: &[f32],
    kept: &mut Kept,
) -> Result<(), Error> {
    let (config, team, n) = (tokens.config, tokens.team, tokens.count());
    let (hidden, k, width) =
        (config.hidden_size, config.num_experts_per_tok, config.moe_intermediate_size);
    let Kept { logits, experts, gates, order, gate_up, activated } = kept;
    let logits = scratch(logits, n * config.num_experts);
    router.logits(team, x, logits);
    let broken = |at| tokens.not_finite(Some(layer), "router", at);
    if let Some(found) = first_not_finite(logits, config.num_experts) {
        return Err(broken(found));
    }
    let (experts, gates) = (scratch(experts, n * k), scratch(gates, n * k));
    // choosing uses the logits up
    let mut used = logits.to_vec();
    router.select(&config.router, &mut used, experts, gates, k).map_err(broken)?;
    order.sort(experts, k, config.num_experts);
    let gate_up = scratch(gate_up, n * k * 2 * width);
    let activated = scratch(activated, n * k * width);
    for (expert, ends) in order.starts.windows(2).enumerate() {
        let chosen = &order.tokens[ends[0]..ends[1]];
        let gate_up = &mut gate_up[2 * width * ends[0]..2 * width * ends[1]];
        let weight = routed.gate_up_proj[expert].panels();
        multiply_rows(team, Rows::Chosen(chosen), x, hidden, weight, gate_up, 2 * width);
        silu_mul(gate_up, width, &mut activated[width * ends[0]..width * ends[1]]);
    }
    Ok(())
}

/// The gated sum of the experts' outputs, into `out`.
pub(super) fn output(
    tokens: &Tokens<'_>,
    routed: &Routed,
    kept: &Kept,
    work: &mut Work,
    out: &mut [f32],
) {
    let (config, hidden) = (tokens.config, tokens.config.hidden_size);
    let (order, width) = (&kept.order, config.moe_intermediate_size);
    out.fill(0.0);
    for (expert, ends) in order.starts.windows(2).enumerate() {
        let n = ends[1] - ends[0];
        let result = scratch(&mut work.result, n * hidden);
        let activated = &kept.activated[width * ends[0]..width * ends[1]];
        let weight = routed.down_proj[expert].panels();
        multiply(tokens.team, n, activated, width, weight, result, hidden);
        let slots = order.slots[ends[0]..ends[1]].iter().zip(&order.tokens[ends[0]..ends[1]]);
        for ((slot, token), result) in slots.zip(result.chunks_exact(hidden)) {
            let sum = &mut out[*token as usize * hidden..][..hidden];
            add_scaled(sum, kept.gates[*slot as usize], result);
        }
    }
}

/// From the gradient of the layer's output to that of the normed stream, into `input_grad`.
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
    let (hidden, k, width) =
        (config.hidden_size, config.num_experts_per_tok, config.moe_intermediate_size);
    let order = &kept.order;
    let gates_grad = scratch(&mut work.gates_grad, n * k);
    input_grad.fill(0.0);
    for (expert, ends) in order.starts.windows(2).enumerate() {
        let (slots, chosen) = (&order.slots[ends[0]..ends[1]], &order.tokens[ends[0]..ends[1]]);
        let n = chosen.len();
        if n == 0 {
            continue;
        }
        let factors = scratch(&mut work.factors, n);
        factors.iter_mut().zip(slots).for_each(|(to, slot)| *to = kept.gates[*slot as usize]);
        let activated = &kept.activated[width * ends[0]..width * ends[1]];
        let gate_up = &kept.gate_up[2 * width * ends[0]..2 * width * ends[1]];

        let activated_grad = scratch(&mut work.activated_grad, n * width);
        let weight = of.down[expert].panels();
        multiply_rows(team, Rows::Chosen(chosen), grad, hidden, weight, activated_grad, width);
        // what the expert gives, times the gradient, is what goes into `down_proj`, times its
        let dots = scratch(&mut work.dots, n);
        row_dots(activated_grad, width, activated, width, &[], width, dots);
        dots.iter().zip(slots).for_each(|(dot, slot)| gates_grad[*slot as usize] = *dot);
        let output = Output { grad, row: hidden, chosen, gathered: false, factors };
        of.to_down[expert].shares(team, (activated, width), output, maps, tally);

        let gate_up_grad = scratch(&mut work.gate_up_grad, n * 2 * width);
        silu_mul_back(gate_up, width, activated_grad, factors, gate_up_grad);
        let row = 2 * width;
        let output = Output { grad: gate_up_grad, row, chosen, gathered: true, factors: &[] };
        of.to_gate_up[expert].shares(team, (x, hidden), output, maps, tally);
        let expert_grad = scratch(&mut work.input_grad, n * hidden);
        multiply(team, n, gate_up_grad, row, of.gate_up[expert].panels(), expert_grad, hidden);
        for (token, grad) in chosen.iter().zip(expert_grad.chunks_exact(hidden)) {
            add_assign(&mut input_grad[*token as usize * hidden..][..hidden], grad);
        }
    }

    let experts = config.num_experts;
    let logits_grad = scratch(&mut work.logits_grad, n * experts);
    if config.router.normalised {
        logits_grad.fill(0.0);
    } else {
        logits_grad.copy_from_slice(&kept.logits[..n * experts]);
        logits_grad.chunks_exact_mut(experts).for_each(|row| softmax(row, experts, 1.0));
    }
    for (t, row) in logits_grad.chunks_exact_mut(experts).enumerate() {
        let slots = t * k..(t + 1) * k;
        let (gates, grads) = (&kept.gates[slots.clone()], &gates_grad[slots.clone()]);
        let along: f32 = gates.iter().zip(grads).map(|(gate, grad)| gate * grad).sum();
        if !config.router.normalised {
            row.iter_mut().for_each(|p| *p *= -along);
        }
        for ((expert, gate), grad) in kept.experts[slots].iter().zip(gates).zip(grads) {
            let to = &mut row[*expert as usize];
            *to = if config.router.normalised { gate * (grad - along) } else { *to + gate * grad };
        }
    }
    of.to_router.shares_of_outputs(team, (x, hidden), logits_grad, maps, tally);
    let router_grad = scratch(&mut work.used, n * hidden);
    multiply(team, n, logits_grad, experts, of.router.panels(), router_grad, hidden);
    add_assign(input_grad, router_grad);
}
