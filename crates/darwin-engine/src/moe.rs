//! Routed experts and the shared expert.

use crate::kernels::{
    Buffer, Matrix, Rows, add_scaled, dot, l2_norm, multiply, multiply_rows, scale, scratch,
    sigmoids, silu_mul,
};
use crate::mlp::{self, Dense};
use crate::team::{Disjoint, PER_VALUE, Team};
use crate::weights::{Expected, Loader};
use crate::{Config, Error, SharedForm};
use std::sync::Arc;

/// The routed experts; (out, in) before packing.
#[derive(Clone, Debug)]
pub(crate) struct Routed {
    /// experts x (2 I, hidden), gate half first
    pub(crate) gate_up_proj: Arc<[Matrix]>,
    /// experts x (hidden, I)
    pub(crate) down_proj: Arc<[Matrix]>,
}

/// The shared expert and its gate.
#[derive(Clone, Debug)]
pub(crate) struct Shared {
    pub(crate) expert: Dense,
    /// (hidden); empty where it has no gate
    pub(crate) gate: Arc<[f32]>,
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
        SharedForm::Plain => {
            shapes.extend([
                ("shared_experts.gate_proj.weight", vec![shared, hidden]),
                ("shared_experts.up_proj.weight", vec![shared, hidden]),
                ("shared_experts.down_proj.weight", vec![hidden, shared]),
            ]);
            if config.mlp_bias {
                shapes.extend([
                    ("shared_experts.gate_proj.bias", vec![shared]),
                    ("shared_experts.up_proj.bias", vec![shared]),
                    ("shared_experts.down_proj.bias", vec![hidden]),
                ]);
            }
        }
    }
    if config.router.bias {
        shapes.push(("gate.e_score_correction_bias", vec![experts]));
    }
    Expected::list(&format!("{prefix}mlp."), shapes)
}

impl Routed {
    pub(crate) fn load(l: &Loader<'_>, prefix: &str) -> Result<Self, Error> {
        let name = |tensor: &str| format!("{prefix}mlp.experts.{tensor}");
        Ok(Self {
            gate_up_proj: l.experts(&name("gate_up_proj"))?,
            down_proj: l.experts(&name("down_proj"))?,
        })
    }

    /// Experts of given weights.
    pub(crate) fn of(gate_up_proj: Vec<Matrix>, down_proj: Vec<Matrix>) -> Self {
        Self { gate_up_proj: gate_up_proj.into(), down_proj: down_proj.into() }
    }

    /// The gated sum of the chosen experts over `x` (tokens, hidden), into `out`. Experts come in
    /// rising order, so that a token's sum does not depend on the other tokens.
    pub(crate) fn forward(
        &self,
        team: Team<'_>,
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
            // A sort in the order of slots puts the tokens of an expert in rising order; two equal
            // ones are a token that chose it twice.
            let distinct = tokens.is_sorted_by(|a, b| a < b);
            assert!(distinct, "a token chooses an expert at most once");
            let n = tokens.len();
            let gate_up = scratch(&mut buffers.gate_up, n * 2 * width);
            let weight = self.gate_up_proj[expert].panels();
            multiply_rows(team, Rows::Chosen(tokens), x, hidden, weight, gate_up, 2 * width);
            let activated = scratch(&mut buffers.activated, n * width);
            team.rows(activated, width, PER_VALUE * width as f64, |rows, out| {
                silu_mul(&gate_up[2 * width * rows.start..2 * width * rows.end], width, out);
            });
            let result = scratch(&mut buffers.result, n * hidden);
            multiply(team, n, activated, width, self.down_proj[expert].panels(), result, hidden);
            let (sums, gates) = (Disjoint::new(out), &*buffers.gates);
            team.split(n, 1, PER_VALUE * hidden as f64, |rows, _| {
                for i in rows {
                    let token = tokens[i] as usize;
                    // SAFETY: the tokens of an expert are distinct (asserted above), so no other
                    // part of this split has the row; the split ends before `out` is used again.
                    let sum = unsafe { sums.range(token * hidden..(token + 1) * hidden) };
                    add_scaled(sum, gates[slots[i] as usize], &result[i * hidden..][..hidden]);
                }
            });
            if norms {
                for (row, slot) in result.chunks_exact(hidden).zip(slots) {
                    buffers.norms[*slot as usize] = l2_norm(row);
                }
            }
        }
    }
}

/// Slots (token x k + rank) grouped by expert, rising within each.
#[derive(Debug, Default)]
pub(crate) struct Order {
    pub(crate) slots: Vec<u32>,
    /// The token of each slot.
    pub(crate) tokens: Vec<u32>,
    /// Where each expert's slots start, and one more.
    pub(crate) starts: Vec<usize>,
}

impl Order {
    /// A counting sort of the chosen experts (tokens, k).
    pub(crate) fn sort(&mut self, experts: &[u32], k: usize, num_experts: usize) {
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
    /// The shared expert, where the form has one.
    pub(crate) fn load(
        l: &Loader<'_>,
        config: &Config,
        prefix: &str,
    ) -> Result<Option<Self>, Error> {
        let expert = |name: &str, biased: bool| {
            let name = format!("{prefix}mlp.{name}");
            Dense::load_named(l, &name, biased)
        };
        let gate = format!("{prefix}mlp.shared_expert_gate.weight");
        Ok(match config.shared {
            SharedForm::None => None,
            SharedForm::Gated => Some(Self {
                expert: expert("shared_expert", false)?,
                gate: l.vector(&gate, |w| w)?,
            }),
            SharedForm::Plain => Some(Self {
                expert: expert("shared_experts", config.mlp_bias)?,
                gate: Arc::default(),
            }),
        })
    }

    /// The shared expert over `x` (tokens, hidden), times its gate where it has one, into `out`;
    /// `gates` (tokens).
    pub(crate) fn forward(
        &self,
        team: Team<'_>,
        x: &[f32],
        buffers: &mut mlp::Scratch,
        gates: &mut [f32],
        out: &mut [f32],
    ) {
        self.expert.forward(team, x, buffers, out);
        if self.gate.is_empty() {
            return;
        }
        let hidden = self.gate.len();
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
    fn slots_are_grouped_by_expert() {
        let mut order = Order::default();
        order.sort(&[2, 0, 2, 1], 2, 3);
        assert_eq!(order.slots, [1, 3, 0, 2]);
        assert_eq!(order.tokens, [0, 1, 0, 1]);
        assert_eq!(order.starts, [0, 1, 2, 4]);
    }

    /// Rows are handed out to threads by token: one that came twice would be in two hands.
    #[test]
    #[should_panic(expected = "a token chooses an expert at most once")]
    fn a_token_that_chooses_an_expert_twice_is_refused() {
        let matrix = || Matrix::pack(&[1.0; 32], 4, 8);
        let down = || Matrix::pack(&[1.0; 16], 8, 2);
        let routed = Routed::of(vec![matrix(), matrix()], vec![down(), down()]);
        let mut buffers = Scratch { experts: vec![1, 0, 1, 1], ..Scratch::default() };
        scratch(&mut buffers.gates, 4).fill(0.5);
        routed.forward(Team::alone(), &[1.0; 16], 2, false, &mut buffers, &mut [0.0; 16]);
    }
}
