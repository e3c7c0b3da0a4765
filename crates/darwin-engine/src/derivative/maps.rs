//! Linear maps and vectors of a direction, and a layer of them.

use super::groups::{Groups, Tally};
use crate::gdn::RowsByKeyHead;
use crate::kernels::{Buffer, Matrix, Rows, multiply_rows, row_dots, scratch};
use crate::team::Team;
use crate::weights::Loader;
use crate::{Config, Error, LayerKind, LinearForm, MlpKind, QkNorm, SharedForm};
use std::ops::Range;
use std::sync::Arc;

/// The directions of weights (out, in) of one input, their outputs behind each other.
pub(super) struct Map {
    /// (out, in); none where the direction is 0
    matrix: Option<Matrix>,
    /// The groups that outputs belong to.
    segments: Vec<(usize, Range<usize>)>,
    /// Groups of biases, the outputs they are added to, and their directions.
    biases: Vec<(usize, Range<usize>, Arc<[f32]>)>,
}

/// The gradient of a map's output, and the tokens it is of.
#[derive(Clone, Copy)]
pub(super) struct Output<'a> {
    /// Rows of gradients, `row` apart: those of all tokens, or, where `chosen` has numbers and
    /// `gathered` is false, of more, of which those with these numbers are meant
    pub(super) grad: &'a [f32],
    pub(super) row: usize,
    /// The tokens; empty for the first ones
    pub(super) chosen: &'a [u32],
    /// Whether there is a gradient for each chosen token (and an input for each number), not the
    /// other way round
    pub(super) gathered: bool,
    /// What gradients are multiplied with, for each chosen token; empty for 1
    pub(super) factors: &'a [f32],
}

impl<'a> Output<'a> {
    /// Of all tokens.
    pub(super) fn all(grad: &'a [f32], row: usize) -> Self {
        Self { grad, row, chosen: &[], gathered: true, factors: &[] }
    }
}

/// Buffers of [`Map::shares`].
#[derive(Debug, Default)]
pub(super) struct Scratch {
    moved: Buffer,
    shares: Buffer,
}

impl Map {
    /// A matrix and the groups of its outputs.
    pub(super) fn new(matrix: Matrix, segments: Vec<(usize, Range<usize>)>) -> Self {
        let matrix = (!matrix.is_zero()).then_some(matrix);
        Self { matrix, segments, biases: Vec::new() }
    }

    /// Weights by name, as many outputs as they have, and biases with the same names.
    fn load(
        loader: &Loader<'_>,
        names: &[String],
        biased: bool,
        columns: &[usize],
        groups: &Groups,
    ) -> Result<Self, Error> {
        let weights: Vec<String> = names.iter().map(|name| format!("{name}.weight")).collect();
        let matrix = loader.stacked(&weights.iter().map(String::as_str).collect::<Vec<_>>())?;
        let (mut segments, mut biases, mut first) = (Vec::new(), Vec::new(), 0);
        for (name, columns) in names.iter().zip(columns) {
            let range = first..first + columns;
            first = range.end;
            if biased {
                let bias = format!("{name}.bias");
                let direction = loader.vector(&bias, |b| b)?;
                biases.push((groups.of_tensor(&bias), range.clone(), direction));
            }
            segments.push((groups.of_tensor(&format!("{name}.weight")), range));
        }
        Ok(Self { biases, ..Self::new(matrix, segments) })
    }

    /// Adds the inner products of the output's gradient with what the direction makes of `x`, rows
    /// `x_row` apart.
    pub(super) fn shares(
        &self,
        team: Team<'_>,
        (x, x_row): (&[f32], usize),
        output: Output<'_>,
        work: &mut Scratch,
        tally: &mut Tally<'_>,
    ) {
        let Output { grad, row, chosen, gathered, factors } = output;
        let tokens = if chosen.is_empty() { grad.len() / row } else { chosen.len() };
        let numbers = if gathered { &[] } else { chosen };
        let shares = scratch(&mut work.shares, tokens);
        if let Some(matrix) = &self.matrix {
            let columns = matrix.columns();
            let moved = scratch(&mut work.moved, tokens * columns);
            let rows = match chosen {
                [] => Rows::First(tokens),
                _ if gathered => Rows::Chosen(chosen),
                _ => Rows::First(tokens),
            };
            multiply_rows(team, rows, x, x_row, matrix.panels(), moved, columns);
            for (group, range) in &self.segments {
                let (moved, grad) = (&moved[range.start..], &grad[range.start..]);
                row_dots(moved, columns, grad, row, numbers, range.len(), shares);
                add(tally, *group, chosen, shares, factors);
            }
        }
        for (group, range, direction) in &self.biases {
            let grad = &grad[range.start..];
            row_dots_with(direction, grad, row, numbers, shares);
            add(tally, *group, chosen, shares, factors);
        }
    }

    /// As [`Map::shares`] of all tokens, each output a group: the first one's number.
    pub(super) fn shares_of_outputs(
        &self,
        team: Team<'_>,
        (x, x_row): (&[f32], usize),
        grad: &[f32],
        work: &mut Scratch,
        tally: &mut Tally<'_>,
    ) {
        let (Some(matrix), Some((first, _))) = (&self.matrix, self.segments.first()) else {
            return;
        };
        let columns = matrix.columns();
        let tokens = grad.len() / columns;
        let moved = scratch(&mut work.moved, tokens * columns);
        multiply_rows(team, Rows::First(tokens), x, x_row, matrix.panels(), moved, columns);
        let rows = moved.chunks_exact(columns).zip(grad.chunks_exact(columns));
        for (token, (moved, grad)) in rows.enumerate() {
            for (i, (moved, grad)) in moved.iter().zip(grad).enumerate() {
                if *grad != 0.0 {
                    tally.add_one(first + i, token, moved * grad);
                }
            }
        }
    }
}

fn add(tally: &mut Tally<'_>, group: usize, chosen: &[u32], shares: &[f32], factors: &[f32]) {
    match chosen {
        [] => tally.add(group, 0..shares.len(), shares),
        _ => tally.add_chosen(group, chosen, shares, factors),
    }
}

/// The inner product of each row with one vector.
fn row_dots_with(v: &[f32], grad: &[f32], row: usize, numbers: &[u32], out: &mut [f32]) {
    row_dots(v, 0, grad, row, numbers, v.len(), out);
}

/// The direction of a vector; empty where it is 0.
pub(super) struct Vector {
    pub(super) group: usize,
    pub(super) values: Arc<[f32]>,
}

impl Vector {
    pub(super) fn load(
        loader: &Loader<'_>,
        name: &str,
        groups: &Groups,
        map: impl Fn(Vec<f32>) -> Vec<f32>,
    ) -> Result<Self, Error> {
        let values = loader.vector(name, map)?;
        let zero = values.iter().all(|v| *v == 0.0);
        let values = if zero { Arc::default() } else { values };
        Ok(Self { group: groups.of_tensor(name), values })
    }
}

/// The directions of a layer.
pub(super) struct Layer {
    pub(super) input_layernorm: Vector,
    pub(super) mixer: Mixer,
    pub(super) post_attention_layernorm: Vector,
    pub(super) mlp: Mlp,
}

pub(super) enum Mixer {
    Linear(Linear),
    Full { inputs: Map, q_norm: Option<Vector>, k_norm: Option<Vector>, output: Map },
}

pub(super) struct Linear {
    /// q, k, v; z; b; a
    pub(super) inputs: Map,
    /// (kernel, channels)
    pub(super) conv1d: Vector,
    pub(super) a_log: Vector,
    pub(super) dt_bias: Vector,
    pub(super) norm: Vector,
    pub(super) output: Map,
}

pub(super) enum Mlp {
    Dense(Dense),
    Sparse {
        /// A group for each output.
        router: Map,
        gate_up: Vec<Map>,
        down: Vec<Map>,
        shared: Option<(Dense, Vector)>,
    },
}

pub(super) struct Dense {
    /// gate, up
    pub(super) inputs: Map,
    pub(super) output: Map,
}

impl Layer {
    pub(super) fn load(
        loader: &Loader<'_>,
        config: &Config,
        layer: usize,
        prefix: &str,
        groups: &Groups,
    ) -> Result<Self, Error> {
        let norm =
            |name: &str| Vector::load(loader, &format!("{prefix}{name}.weight"), groups, |w| w);
        Ok(Self {
            input_layernorm: norm("input_layernorm")?,
            mixer: match config.layer_types[layer] {
                LayerKind::LinearAttention => {
                    Mixer::Linear(linear(loader, config, prefix, groups)?)
                }
                _ => full(loader, config, prefix, groups)?,
            },
            post_attention_layernorm: norm("post_attention_layernorm")?,
            mlp: match config.mlp_types[layer] {
                MlpKind::Dense => {
                    let name = format!("{prefix}mlp");
                    let width = config.intermediate_size;
                    Mlp::Dense(dense(loader, config, &name, width, config.mlp_bias, groups)?)
                }
                MlpKind::Sparse => sparse(loader, config, prefix, groups)?,
            },
        })
    }
}

fn linear(
    loader: &Loader<'_>,
    config: &Config,
    prefix: &str,
    groups: &Groups,
) -> Result<Linear, Error> {
    let name = |tensor: &str| format!("{prefix}linear_attn.{tensor}");
    let (channels, values) = (config.linear_conv_dim(), config.linear_value_dim());
    let heads = config.linear_num_value_heads;
    let inputs = match config.linear {
        LinearForm::Split => {
            let parts = ["in_proj_qkv", "in_proj_z", "in_proj_b", "in_proj_a"].map(name);
            Map::load(loader, &parts, false, &[channels, values, heads, heads], groups)?
        }
        LinearForm::ByKeyHead => {
            let (qkvz, ba) = (name("in_proj_qkvz.weight"), name("in_proj_ba.weight"));
            let rows = RowsByKeyHead::new(config);
            let parts = [
                (qkvz.as_str(), rows.qkv().chain(rows.z()).collect()),
                (ba.as_str(), rows.ba().collect()),
            ];
            let all = channels + values;
            let segments = vec![
                (groups.of_tensor(&qkvz), 0..all),
                (groups.of_tensor(&ba), all..all + 2 * heads),
            ];
            Map::new(loader.chosen(&parts)?, segments)
        }
    };
    let vector = |tensor: &str| Vector::load(loader, &name(tensor), groups, |w| w);
    let taps_first = |w: Vec<f32>| {
        let kernel = config.linear_conv_kernel_dim;
        (0..w.len()).map(|i| w[i % channels * kernel + i / channels]).collect()
    };
    Ok(Linear {
        inputs,
        conv1d: Vector::load(loader, &name("conv1d.weight"), groups, taps_first)?,
        a_log: vector("A_log")?,
        dt_bias: vector("dt_bias")?,
        norm: vector("norm.weight")?,
        output: Map::load(loader, &[name("out_proj")], false, &[config.hidden_size], groups)?,
    })
}

fn full(
    loader: &Loader<'_>,
    config: &Config,
    prefix: &str,
    groups: &Groups,
) -> Result<Mixer, Error> {
    let name = |tensor: &str| format!("{prefix}self_attn.{tensor}");
    let (form, heads) = (config.attention, config.num_attention_heads * config.head_dim);
    let queries = if form.gated { 2 * heads } else { heads };
    let keys = config.num_key_value_heads * config.head_dim;
    let norm = |tensor: &str| match form.qk_norm {
        QkNorm::Head => Vector::load(loader, &name(tensor), groups, |w| w).map(Some),
        QkNorm::None | QkNorm::Whole => Ok(None),
    };
    let inputs = ["q_proj", "k_proj", "v_proj"].map(name);
    Ok(Mixer::Full {
        inputs: Map::load(loader, &inputs, form.qkv_bias, &[queries, keys, keys], groups)?,
        q_norm: norm("q_norm.weight")?,
        k_norm: norm("k_norm.weight")?,
        output: Map::load(loader, &[name("o_proj")], form.o_bias, &[config.hidden_size], groups)?,
    })
}

fn dense(
    loader: &Loader<'_>,
    config: &Config,
    name: &str,
    width: usize,
    biased: bool,
    groups: &Groups,
) -> Result<Dense, Error> {
    let inputs = [format!("{name}.gate_proj"), format!("{name}.up_proj")];
    let output = [format!("{name}.down_proj")];
    Ok(Dense {
        inputs: Map::load(loader, &inputs, biased, &[width, width], groups)?,
        output: Map::load(loader, &output, biased, &[config.hidden_size], groups)?,
    })
}

fn sparse(
    loader: &Loader<'_>,
    config: &Config,
    prefix: &str,
    groups: &Groups,
) -> Result<Mlp, Error> {
    let name = |tensor: &str| format!("{prefix}mlp.{tensor}");
    let experts = |tensor: &str| -> Result<Vec<Map>, Error> {
        let (name, first) = (name(tensor), groups.of_tensor(&name(tensor)));
        let matrices = loader.experts(&name)?;
        let map = |(expert, matrix): (usize, &Matrix)| {
            Map::new(matrix.clone(), vec![(first + expert, 0..matrix.columns())])
        };
        Ok(matrices.iter().enumerate().map(map).collect())
    };
    let router = name("gate.weight");
    let shared = match config.shared {
        SharedForm::Gated => {
            let width = config.shared_expert_intermediate_size;
            let expert = dense(loader, config, &name("shared_expert"), width, false, groups)?;
            let gate = name("shared_expert_gate.weight");
            Some((expert, Vector::load(loader, &gate, groups, |w| w)?))
        }
        SharedForm::None | SharedForm::Plain => None,
    };
    Ok(Mlp::Sparse {
        router: Map::new(
            loader.matrix(&router)?,
            vec![(groups.of_tensor(&router), 0..config.num_experts)],
        ),
        gate_up: experts("experts.gate_up_proj")?,
        down: experts("experts.down_proj")?,
        shared,
    })
}
