//! Router, routed experts and the shared expert.

use crate::kernels::{
    Buffer, Matrix, Rows, add_scaled, dot, l2_norm, largest, log_sum_exp, multiply, multiply_rows,
    scale, scratch, sigmoids, silu_mul, softmax_of_falling,
};
use crate::mlp::{self, Dense};
use crate::weights::{Expected, Loader};
use crate::{Config, Error, RouterForm, SharedForm};
use std::sync::Arc;

/// The router: (experts, hidden).
#[derive(Clone, Debug)]
pub(crate) struct Router {
    gate: Matrix,
}

/// The routed experts; (out, in) before packing.
#[derive(Clone, Debug)]
pub(crate) struct Routed {
    /// experts x (2 I, hidden), gate half first
    gate_up_proj: Arc<[Matrix]>,
    /// experts x (hidden, I)
    down_proj: Arc<[Matrix]>,
}

/// The shared expert and its gate.
#[derive(Clone, Debug)]
pub(crate) struct Shared {
    expert: Dense,
    /// (hidden)
    gate: Arc<[f32]>,
}

/// Buffers, and what the router chose.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    /// (tokens, k), falling gates
    pub(crate) experts: Vec<u32>,
    /// (tokens, k)
    pub(crate) gates: Buffer,
    /// (tokens, k): L2 norm of each chosen expert's output, before its gate
    pub(crate) norms: Buffer,
    order: Order,
    gate_up: Buffer,
    activated: Buffer,
    result: Buffer,
}

/// Names and shapes of one layer's tensors.
pub(crate) fn expected(config: &Config, prefix: &str) -> Vec<Expected> {
    let (hidden, experts) = (config.hidden_size, config.num_experts);
    let (width, shared) = (config.moe_intermediate_size, config.shared_expert_intermediate_size);
    let mut shapes = vec![
        ("gate.weight", vec![experts, hidden]),
        ("experts.gate_up_proj", vec![experts, 2 * width, hidden]),
        ("experts.down_proj", vec![experts, hidden, width]),
    ];
    match config.shared {
        SharedForm::None => {}
        SharedForm::Gated => shapes.extend([
            ("shared_expert.gate_proj.weight", vec![shared, hidden]),
            ("shared_expert.up_proj.weight", vec![shared, hidden]),
            ("shared_expert.down_proj.weight", vec![hidden, shared]),
            ("shared_expert_gate.weight", vec![1, hidden]),
        ]),
    }
    Expected::list(&format!("{prefix}mlp."), shapes)
}

impl Router {
    pub(crate) fn load(l: &Loader<'_>, prefix: &str, old: Option<&Self>) -> Result<Self, Error> {
        Ok(Self { gate: l.matrix(&format!("{prefix}mlp.gate.weight"), old.map(|o| &o.gate))? })
    }

    /// Router logits (tokens, experts) of normed hidden states.
    pub(crate) fn logits(&self, x: &[f32], out: &mut [f32]) {
        let hidden = self.gate.depth();
        multiply(x.len() / hidden, x, hidden, self.gate.panels(), out, self.gate.columns());
    }
}

/// The `k` largest logits of each row, falling, and their gates: the softmax over all experts, or
/// over the chosen ones where gates sum to 1. Uses the logits up.
pub(crate) fn select(
    form: RouterForm,
    logits: &mut [f32],
    experts: &mut [u32],
    gates: &mut [f32],
    k: usize,
) {
    let num_experts = logits.len() * k / experts.len();
    if form.normalised {
        largest(logits, num_experts, gates, experts, k);
        softmax_of_falling(gates, k);
        return;
    }
    let totals: Vec<f64> = logits.chunks_exact(num_experts).map(log_sum_exp).collect();
    largest(logits, num_experts, gates, experts, k);
    for (row, total) in gates.chunks_exact_mut(k).zip(totals) {
        row.iter_mut().for_each(|gate| *gate = (f64::from(*gate) - total).exp() as f32);
    }
}

impl Routed {
    pub(crate) fn load(l: &Loader<'_>, prefix: &str, old: Option<&Self>) -> Result<Self, Error> {
        let name = |tensor: &str| format!("{prefix}mlp.experts.{tensor}");
        Ok(Self {
            gate_up_proj: l.experts(&name("gate_up_proj"), old.map(|o| &o.gate_up_proj))?,
            down_proj: l.experts(&name("down_proj"), old.map(|o| &o.down_proj))?,
        })
    }

    /// The gated sum of the chosen experts over `x` (tokens, hidden), into `out`. Experts come in
    /// rising order, so that a token's sum does not depend on the other tokens.
    pub(crate) fn forward(
        &self,
        x: &[f32],
        k: usize,
        norms: bool,
        buffers: &mut Scratch,
        out: &mut [f32],
    ) {
        let hidden = self.gate_up_proj[0].depth();
        let width = self.down_proj[0].depth();
        let slots = x.len() / hidden * k;
        let order = &mut buffers.order;
        order.sort(&buffers.experts[..slots], k, self.gate_up_proj.len());
        if norms {
            scratch(&mut buffers.norms, slots);
        }
        out.fill(0.0);
        for (expert, ends) in order.starts.windows(2).enumerate() {
            let (slots, tokens) = (&order.slots[ends[0]..ends[1]], &order.tokens[ends[0]..ends[1]]);
            if tokens.is_empty() {
                continue;
            }
            let n = tokens.len();
            let gate_up = scratch(&mut buffers.gate_up, n * 2 * width);
            let weight = self.gate_up_proj[expert].panels();
            multiply_rows(Rows::Chosen(tokens), x, hidden, weight, gate_up, 2 * width);
            let activated = scratch(&mut buffers.activated, n * width);
            silu_mul(gate_up, width, activated);
            let result = scratch(&mut buffers.result, n * hidden);
            multiply(n, activated, width, self.down_proj[expert].panels(), result, hidden);
            let to = slots.iter().zip(tokens);
            for (row, (slot, token)) in result.chunks_exact(hidden).zip(to) {
                let (slot, token) = (*slot as usize, *token as usize);
                add_scaled(&mut out[token * hidden..][..hidden], buffers.gates[slot], row);
                if norms {
                    buffers.norms[slot] = l2_norm(row);
                }
            }
        }
    }
}

/// Slots (token x k + rank) grouped by expert, rising within each.
#[derive(Debug, Default)]
struct Order {
    slots: Vec<u32>,
    /// The token of each slot.
    tokens: Vec<u32>,
    /// Where each expert's slots start, and one more.
    starts: Vec<usize>,
}

impl Order {
    /// A counting sort of the chosen experts (tokens, k).
    fn sort(&mut self, experts: &[u32], k: usize, num_experts: usize) {
        let Self { slots, tokens, starts } = self;
        starts.clear();
        starts.resize(num_experts + 1, 0);
        for expert in experts {
            starts[*expert as usize + 1] += 1;
        }
        for i in 0..num_experts {
            starts[i + 1] += starts[i];
        }
        slots.resize(experts.len(), 0);
        tokens.resize(experts.len(), 0);
        // placing moves each start to its expert's end, which is the next one's start
        let mut slot = 0;
        for (token, experts) in experts.chunks_exact(k).enumerate() {
            for expert in experts {
                let at = &mut starts[*expert as usize];
                (slots[*at], tokens[*at]) = (slot, token as u32);
                *at += 1;
                slot += 1;
            }
        }
        starts.rotate_right(1);
        starts[0] = 0;
    }
}

impl Shared {
    pub(crate) fn load(l: &Loader<'_>, prefix: &str, old: Option<&Self>) -> Result<Self, Error> {
        let name = format!("{prefix}mlp.shared_expert");
        Ok(Self {
            expert: Dense::load_named(l, &name, false, old.map(|o| &o.expert))?,
            gate: l.vector(&format!("{name}_gate.weight"), old.map(|o| &o.gate), |w| w)?,
        })
    }

    /// The shared expert times its gate over `x` (tokens, hidden), into `out`; `gates` (tokens).
    pub(crate) fn forward(
        &self,
        x: &[f32],
        buffers: &mut mlp::Scratch,
        gates: &mut [f32],
        out: &mut [f32],
    ) {
        let hidden = self.gate.len();
        self.expert.forward(x, buffers, out);
        for (x, gate) in x.chunks_exact(hidden).zip(gates.iter_mut()) {
            *gate = dot(x, &self.gate);
        }
        sigmoids(gates);
        for (out, gate) in out.chunks_exact_mut(hidden).zip(gates) {
            scale(out, *gate);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selection_is_falling_and_keeps_the_first_of_equals() {
        let (mut experts, mut gates) = ([0; 6], [0.0; 6]);
        let mut logits = [0.0, 2.0, 1.0, 2.0, f32::NEG_INFINITY, 5.0, 6.0, 7.0, 8.0, 9.0];
        let mut whole = logits;
        select(RouterForm { normalised: true }, &mut logits, &mut experts, &mut gates, 3);
        assert_eq!(experts, [1, 3, 2, 4, 3, 2]);
        assert_eq!(gates[0], gates[1]);
        assert!(gates.chunks(3).all(|row| (row.iter().sum::<f32>() - 1.0).abs() < 1e-6));

        let parts = [gates[3] / gates[4], gates[4] / gates[5]];
        let first: f32 = [0.0, 2.0, 1.0, 2.0].map(f32::exp).iter().sum();
        select(RouterForm { normalised: false }, &mut whole, &mut experts, &mut gates, 3);
        assert_eq!(experts, [1, 3, 2, 4, 3, 2]);
        assert!((gates[0] - 2_f32.exp() / first).abs() < 1e-6);
        assert!(gates[3..].iter().sum::<f32>() < 1.0);
        assert!((gates[3] / gates[4] - parts[0]).abs() < 1e-4);
    }

    #[test]
    fn slots_are_grouped_by_expert() {
        let mut order = Order::default();
        order.sort(&[2, 0, 2, 1], 2, 3);
        assert_eq!(order.slots, [1, 3, 0, 2]);
        assert_eq!(order.tokens, [0, 1, 0, 1]);
        assert_eq!(order.starts, [0, 1, 2, 4]);
    }
}
