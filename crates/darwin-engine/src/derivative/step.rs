//! A layer forwards with everything kept that going back needs, and backwards.

use super::groups::Tally;
use super::{full, linear, maps, mlp, moe};
use crate::finite::{RESIDUAL, first_not_finite};
use crate::kernels::{Buffer, Matrix, add_assign, norm_back, scratch};
use crate::layer::{self, norm};
use crate::team::Team;
use crate::{Config, Error, Layers, NonFinite};
use std::sync::Arc;

/// A layer: its weights, their transposed and their directions.
pub(super) struct Step {
    pub(super) layer: usize,
    pub(super) weights: Layers,
    pub(super) back: Back,
    pub(super) direction: Arc<maps::Layer>,
}

/// Transposed weights, for gradients of inputs.
pub(super) struct Back {
    mixer: Pair,
    mlp: MlpBack,
}

/// The transposed of what leads into a block, (in, all out), and of what leads out of it.
pub(super) struct Pair {
    pub(super) inputs: Matrix,
    pub(super) output: Matrix,
}

pub(super) enum MlpBack {
    Dense(Pair),
    Sparse { router: Matrix, gate_up: Vec<Matrix>, down: Vec<Matrix>, shared: Option<Pair> },
}

/// Tokens that go through together: whole sequences.
#[derive(Clone, Copy)]
pub(crate) struct Tokens<'a> {
    pub(crate) config: &'a Config,
    pub(crate) team: Team<'a>,
    /// Where each sequence starts (n + 1).
    pub(crate) offsets: &'a [usize],
}

/// What a layer's forward pass leaves for its way back.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    /// (tokens, hidden): the layer's input after its norm, the stream after the mixer, and that
    /// after its norm
    pub(super) normed: Buffer,
    mid: Buffer,
    pub(super) normed_mid: Buffer,
    pub(super) linear: linear::Kept,
    pub(super) full: full::Kept,
    pub(super) dense: mlp::Kept,
    pub(super) moe: moe::Kept,
}

/// Buffers that are used again for every layer.
#[derive(Debug, Default)]
pub(crate) struct Work {
    /// (tokens, hidden): the output of a part, or the gradient of a norm's output
    part: Buffer,
    shares: Buffer,
    pub(super) maps: maps::Scratch,
    linear: linear::Work,
    full: full::Work,
    dense: mlp::Work,
    moe: moe::Work,
}

impl Tokens<'_> {
    pub(super) fn count(&self) -> usize {
        self.offsets.last().copied().unwrap_or(0)
    }

    /// The error of a row that holds `value`.
    #[cold]
    pub(super) fn not_finite(
        &self,
        layer: Option<usize>,
        component: &'static str,
        (row, value): (usize, f32),
    ) -> Error {
        let sequence = self.offsets.partition_point(|first| *first <= row).saturating_sub(1);
        let position = row - self.offsets[sequence];
        Error::NotFinite(NonFinite { layer, component, value, sequence, position })
    }

    fn check(&self, layer: usize, component: &'static str, rows: &[f32]) -> Result<(), Error> {
        let found = first_not_finite(rows, self.config.hidden_size);
        found.map_or(Ok(()), |at| Err(self.not_finite(Some(layer), component, at)))
    }
}

impl Step {
    /// Of one layer.
    pub(super) fn new(layer: usize, weights: Layers, direction: Arc<maps::Layer>) -> Self {
        let back = Back::of(weights.get(layer));
        Self { layer, weights, back, direction }
    }

    fn weights(&self) -> &layer::Layer {
        self.weights.get(self.layer)
    }

    /// [`forward`] of this layer.
    pub(super) fn forward(
        &self,
        tokens: &Tokens<'_>,
        x: &[f32],
        kept: &mut Kept,
        work: &mut Work,
        out: Option<&mut [f32]>,
    ) -> Result<(), Error> {
        forward((self.layer, self.weights()), tokens, x, kept, work, out)
    }

    /// From the gradient of the layer's output to that of its input `x`, in place; adds the inner
    /// products of the layer's groups.
    pub(super) fn backward(
        &self,
        tokens: &Tokens<'_>,
        x: &[f32],
        kept: &Kept,
        work: &mut Work,
        grad: &mut [f32],
        tally: &mut Tally<'_>,
    ) -> Result<(), Error> {
        let (weights, direction) = (self.weights(), &*self.direction);
        self.mlp_back(tokens, x.len(), kept, work, grad, tally);
        let Work { part, shares, .. } = work;
        let (mid, normed_grad) = (&kept.mid[..x.len()], &part[..x.len()]);
        let scale = &weights.post_attention_layernorm;
        let to = &direction.post_attention_layernorm;
        norm_to(tokens, (mid, normed_grad), scale, to, shares, grad, tally);

        self.mixer_back(tokens, x.len(), kept, work, grad, tally);
        let Work { part, shares, .. } = work;
        let normed_grad = &part[..x.len()];
        let (scale, to) = (&weights.input_layernorm, &direction.input_layernorm);
        norm_to(tokens, (x, normed_grad), scale, to, shares, grad, tally);
        tokens.check(self.layer, "gradient", grad)
    }

    /// From the gradient of the layer's output to that of what goes into router and experts, in
    /// [`Work::part`].
    fn mlp_back(
        &self,
        tokens: &Tokens<'_>,
        values: usize,
        kept: &Kept,
        work: &mut Work,
        grad: &[f32],
        tally: &mut Tally<'_>,
    ) {
        let Work { part, maps, .. } = work;
        let normed_grad = scratch(part, values);
        let normed = &kept.normed_mid[..values];
        match (&self.weights().mlp, &self.back.mlp, &self.direction.mlp) {
            (layer::Mlp::Dense(_), MlpBack::Dense(back), maps::Mlp::Dense(direction)) => {
                let of = mlp::Of { back, direction, gate: None };
                let work = &mut work.dense;
                mlp::backward(tokens, &of, normed, &kept.dense, grad, maps, work, tally);
                normed_grad.copy_from_slice(work.input_grad(values));
            }
            (
                layer::Mlp::Sparse { shared, .. },
                MlpBack::Sparse { router, gate_up, down, shared: shared_back },
                maps::Mlp::Sparse {
                    router: to_router,
                    gate_up: to_gate_up,
                    down: to_down,
                    shared: to,
                },
            ) => {
                let of = moe::Of { router, gate_up, down, to_router, to_gate_up, to_down };
                let moe_work = &mut work.moe;
                moe::backward(
                    tokens,
                    &of,
                    normed,
                    &kept.moe,
                    grad,
                    maps,
                    moe_work,
                    normed_grad,
                    tally,
                );
                if let (Some(shared), Some(back), Some((direction, to_gate))) =
                    (shared, shared_back, to)
                {
                    let of = mlp::Of { back, direction, gate: Some((&shared.gate, to_gate)) };
                    let work = &mut work.dense;
                    mlp::backward(tokens, &of, normed, &kept.dense, grad, maps, work, tally);
                    add_assign(normed_grad, work.input_grad(values));
                }
            }
            _ => unreachable!("weights, transposed and directions are of the same layer"),
        }
    }

    /// From the gradient of the mixer's output to that of what goes into it, in [`Work::part`].
    fn mixer_back(
        &self,
        tokens: &Tokens<'_>,
        values: usize,
        kept: &Kept,
        work: &mut Work,
        grad: &[f32],
        tally: &mut Tally<'_>,
    ) {
        let Work { part, maps, .. } = work;
        let normed_grad = scratch(part, values);
        let (normed, back) = (&kept.normed[..values], &self.back.mixer);
        match (&self.weights().mixer, &self.direction.mixer) {
            (layer::Mixer::Linear(mixer), maps::Mixer::Linear(to)) => {
                let (kept, work) = (&kept.linear, &mut work.linear);
                linear::backward(
                    tokens,
                    &linear::Of { mixer, back, to },
                    normed,
                    kept,
                    grad,
                    maps,
                    work,
                    normed_grad,
                    tally,
                );
            }
            (layer::Mixer::Full(mixer), maps::Mixer::Full { inputs, q_norm, k_norm, output }) => {
                let of = full::Of {
                    layer: self.layer,
                    mixer,
                    back,
                    inputs,
                    q_norm: q_norm.as_ref(),
                    k_norm: k_norm.as_ref(),
                    output,
                };
                full::backward(
                    tokens,
                    &of,
                    normed,
                    &kept.full,
                    grad,
                    maps,
                    &mut work.full,
                    normed_grad,
                    tally,
                );
            }
            _ => unreachable!("weights and directions are of the same layer"),
        }
    }
}

/// The layer on `x` (tokens, hidden), into `out` if its output is needed.
pub(crate) fn forward(
    (layer, weights): (usize, &layer::Layer),
    tokens: &Tokens<'_>,
    x: &[f32],
    kept: &mut Kept,
    work: &mut Work,
    out: Option<&mut [f32]>,
) -> Result<(), Error> {
    let eps = tokens.config.rms_norm_eps as f32;
    let normed = scratch(&mut kept.normed, x.len());
    norm(tokens.team, x, &weights.input_layernorm, eps, normed);
    let mid = scratch(&mut kept.mid, x.len());
    match &weights.mixer {
        layer::Mixer::Linear(mixer) => {
            linear::forward(tokens, mixer, normed, &mut kept.linear, mid);
        }
        layer::Mixer::Full(mixer) => {
            let (of, kept) = ((layer, &**mixer), &mut kept.full);
            full::forward(tokens, of, normed, kept, &mut work.full, mid);
        }
        layer::Mixer::Latent(..) => unreachable!("refused before"),
    }
    tokens.check(layer, "mixer", mid)?;
    add_assign(mid, x);
    tokens.check(layer, RESIDUAL, mid)?;
    let normed = scratch(&mut kept.normed_mid, x.len());
    norm(tokens.team, mid, &weights.post_attention_layernorm, eps, normed);
    match &weights.mlp {
        layer::Mlp::Dense(dense) => {
            let kept = &mut kept.dense;
            mlp::forward(tokens, dense, normed, kept);
            if let Some(out) = out {
                mlp::output(tokens, dense, kept, out);
                add_assign(out, mid);
                tokens.check(layer, "routed", out)?;
            }
        }
        layer::Mlp::Sparse { router, routed, shared } => {
            let (moe, part) = (&mut kept.moe, scratch(&mut work.part, x.len()));
            moe::forward(tokens, layer, (router, routed), normed, moe)?;
            if let Some(shared) = shared {
                mlp::forward(tokens, &shared.expert, normed, &mut kept.dense);
                mlp::gates(shared, normed, &mut kept.dense);
            }
            if let Some(out) = out {
                moe::output(tokens, routed, moe, &mut work.moe, out);
                if let Some(shared) = shared {
                    mlp::output(tokens, &shared.expert, &kept.dense, part);
                    mlp::scale_by_gates(shared, &kept.dense, part);
                    out.iter_mut().zip(&*part).for_each(|(to, x)| *to += x);
                }
                add_assign(out, mid);
                tokens.check(layer, "routed", out)?;
            }
        }
    }
    Ok(())
}

/// Adds what comes through a norm of `x` to the stream's gradient, and the norm's inner products.
pub(super) fn norm_to(
    tokens: &Tokens<'_>,
    (x, normed_grad): (&[f32], &[f32]),
    scale: &[f32],
    direction: &maps::Vector,
    shares: &mut Buffer,
    grad: &mut [f32],
    tally: &mut Tally<'_>,
) {
    let count = x.len() / scale.len();
    let shares = scratch(shares, count);
    let eps = tokens.config.rms_norm_eps as f32;
    norm_back(x, scale, eps, normed_grad, &direction.values, shares, grad);
    if !direction.values.is_empty() {
        tally.add(direction.group, 0..count, shares);
    }
}

impl Back {
    fn of(layer: &layer::Layer) -> Self {
        let mixer = match &layer.mixer {
            layer::Mixer::Linear(w) => Pair {
                inputs: Matrix::transposed(&[&w.in_proj_qkv, &w.in_proj_z, &w.in_proj_ba]),
                output: Matrix::transposed(&[&w.out_proj]),
            },
            layer::Mixer::Full(w) => Pair {
                inputs: Matrix::transposed(&[&w.q_proj.weight, &w.k_proj.weight, &w.v_proj.weight]),
                output: Matrix::transposed(&[&w.o_proj.weight]),
            },
            layer::Mixer::Latent(..) => unreachable!("refused before"),
        };
        let dense = |w: &crate::mlp::Dense| Pair {
            inputs: Matrix::transposed(&[&w.gate_proj.weight, &w.up_proj.weight]),
            output: Matrix::transposed(&[&w.down_proj.weight]),
        };
        let each = |all: &[Matrix]| all.iter().map(|w| Matrix::transposed(&[w])).collect();
        let mlp = match &layer.mlp {
            layer::Mlp::Dense(w) => MlpBack::Dense(dense(w)),
            layer::Mlp::Sparse { router, routed, shared } => MlpBack::Sparse {
                router: Matrix::transposed(&[&router.gate]),
                gate_up: each(&routed.gate_up_proj),
                down: each(&routed.down_proj),
                shared: shared.as_ref().map(|shared| dense(&shared.expert)),
            },
        };
        Self { mixer, mlp }
    }
}
