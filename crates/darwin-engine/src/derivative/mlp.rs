//! A dense feed-forward block and the shared expert, forwards and backwards.

use super::groups::Tally;
use super::maps::{self, Output};
use super::step::{Pair, Tokens};
use crate::kernels::{
    Buffer, add_scaled, dot, multiply, row_dots, scale, scratch, sigmoids, silu_mul, silu_mul_back,
};
use crate::mlp::Dense;
use crate::moe::Shared;

/// What going back needs.
#[derive(Debug, Default)]
pub(super) struct Kept {
    /// (tokens, [gate ; up])
    gate_up: Buffer,
    /// (tokens, width)
    pub(super) activated: Buffer,
    /// The sigmoid gates of a shared expert (tokens)
    gates: Buffer,
}

#[derive(Debug, Default)]
pub(super) struct Work {
    activated_grad: Buffer,
    gate_up_grad: Buffer,
    input_grad: Buffer,
    gates_grad: Buffer,
}

/// What a block consists of.
pub(super) struct Of<'a> {
    pub(super) back: &'a Pair,
    pub(super) direction: &'a maps::Dense,
    /// A shared expert's gate (hidden) and its direction, where it has one
    pub(super) gate: Option<(&'a [f32], &'a maps::Vector)>,
}

impl Work {
    /// The gradient of the input (tokens, hidden) after [`backward`].
    pub(super) fn input_grad(&self, values: usize) -> &[f32] {
        &self.input_grad[..values]
    }
}

/// Up to what goes into `down_proj`.
pub(super) fn forward(tokens: &Tokens<'_>, block: &Dense, x: &[f32], kept: &mut Kept) {
    let (n, width) = (tokens.count(), block.gate_proj.columns());
    let gate_up = scratch(&mut kept.gate_up, n * 2 * width);
    block.gate_proj.forward(tokens.team, n, x, gate_up, 2 * width);
    block.up_proj.forward(tokens.team, n, x, &mut gate_up[width..], 2 * width);
    silu_mul(gate_up, width, scratch(&mut kept.activated, n * width));
}

/// `down_proj`.
pub(super) fn output(tokens: &Tokens<'_>, block: &Dense, kept: &Kept, out: &mut [f32]) {
    let n = tokens.count();
    let activated = &kept.activated[..n * block.gate_proj.columns()];
    block.down_proj.forward(tokens.team, n, activated, out, tokens.config.hidden_size);
}

/// The gates of a shared expert that has them.
pub(super) fn gates(shared: &Shared, x: &[f32], kept: &mut Kept) {
    if shared.gate.is_empty() {
        return;
    }
    let hidden = shared.gate.len();
    let gates = scratch(&mut kept.gates, x.len() / hidden);
    for (x, gate) in x.chunks_exact(hidden).zip(gates.iter_mut()) {
        *gate = dot(x, &shared.gate);
    }
    sigmoids(gates);
}

/// A shared expert's output times its gates.
pub(super) fn scale_by_gates(shared: &Shared, kept: &Kept, out: &mut [f32]) {
    if shared.gate.is_empty() {
        return;
    }
    for (out, gate) in out.chunks_exact_mut(shared.gate.len()).zip(&*kept.gates) {
        scale(out, *gate);
    }
}

/// From the gradient of the layer's output to that of the block's input, in
/// [`Work::input_grad`].
#[expect(clippy::too_many_arguments, reason = "what is read, what is written, and where to work")]
pub(super) fn backward(
    tokens: &Tokens<'_>,
    of: &Of<'_>,
    x: &[f32],
    kept: &Kept,
    grad: &[f32],
    maps: &mut maps::Scratch,
    work: &mut Work,
    tally: &mut Tally<'_>,
) {
    let (team, n, hidden) = (tokens.team, tokens.count(), tokens.config.hidden_size);
    let width = of.back.output.columns();
    let (gate_up, activated) = (&kept.gate_up[..n * 2 * width], &kept.activated[..n * width]);
    let factors = if of.gate.is_some() { &kept.gates[..n] } else { &[] };
    let activated_grad = scratch(&mut work.activated_grad, n * width);
    multiply(team, n, grad, hidden, of.back.output.panels(), activated_grad, width);
    let numbers: Vec<u32> = if factors.is_empty() { Vec::new() } else { (0..n as u32).collect() };
    let output = Output { chosen: &numbers, factors, ..Output::all(grad, hidden) };
    of.direction.output.shares(team, (activated, width), output, maps, tally);
    let gate_up_grad = scratch(&mut work.gate_up_grad, n * 2 * width);
    silu_mul_back(gate_up, width, activated_grad, factors, gate_up_grad);
    let output = Output::all(gate_up_grad, 2 * width);
    of.direction.inputs.shares(team, (x, hidden), output, maps, tally);
    let input_grad = scratch(&mut work.input_grad, n * hidden);
    multiply(team, n, gate_up_grad, 2 * width, of.back.inputs.panels(), input_grad, hidden);
    if let Some((gate, direction)) = of.gate {
        // what the expert gives, times the gradient, is what goes into `down_proj`, times its
        let gates_grad = scratch(&mut work.gates_grad, n);
        row_dots(activated_grad, width, activated, width, &[], width, gates_grad);
        for (i, (grad, sigmoid)) in gates_grad.iter_mut().zip(factors).enumerate() {
            *grad *= sigmoid * (1.0 - sigmoid);
            add_scaled(&mut input_grad[i * hidden..(i + 1) * hidden], *grad, gate);
            if !direction.values.is_empty() {
                let moved = dot(&x[i * hidden..(i + 1) * hidden], &direction.values);
                tally.add_one(direction.group, i, *grad * moved);
            }
        }
    }
}
