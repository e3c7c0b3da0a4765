//! The dense feed-forward block: `down(silu(gate(x)) * up(x))`.

use crate::kernels::{Buffer, scratch, silu_mul};
use crate::projection::Projection;
use crate::team::{PER_VALUE, Team};
use crate::weights::{Expected, Loader};
use crate::{Config, Error};

/// Weights; (out, in) before packing.
#[derive(Clone, Debug)]
pub(crate) struct Dense {
    /// (I, hidden)
    pub(crate) gate_proj: Projection,
    /// (I, hidden)
    pub(crate) up_proj: Projection,
    /// (hidden, I)
    pub(crate) down_proj: Projection,
}

/// Buffers.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    pub(crate) gate_up: Buffer,
    pub(crate) activated: Buffer,
}

/// Names and shapes of one layer's tensors.
pub(crate) fn expected(config: &Config, prefix: &str) -> Vec<Expected> {
    let (hidden, width) = (config.hidden_size, config.intermediate_size);
    let mut shapes = vec![
        ("gate_proj.weight", vec![width, hidden]),
        ("up_proj.weight", vec![width, hidden]),
        ("down_proj.weight", vec![hidden, width]),
    ];
    if config.mlp_bias {
        shapes.extend([
            ("gate_proj.bias", vec![width]),
            ("up_proj.bias", vec![width]),
            ("down_proj.bias", vec![hidden]),
        ]);
    }
    Expected::list(&format!("{prefix}mlp."), shapes)
}

impl Dense {
    pub(crate) fn load(loader: &Loader<'_>, config: &Config, prefix: &str) -> Result<Self, Error> {
        Self::load_named(loader, &format!("{prefix}mlp"), config.mlp_bias)
    }

    /// A block under any name.
    pub(crate) fn load_named(loader: &Loader<'_>, name: &str, biased: bool) -> Result<Self, Error> {
        let load = |part: &str| Projection::load(loader, &format!("{name}.{part}"), biased);
        Ok(Self {
            gate_proj: load("gate_proj")?,
            up_proj: load("up_proj")?,
            down_proj: load("down_proj")?,
        })
    }

    /// Over `x` (tokens, hidden), into `out`.
    pub(crate) fn forward(
        &self,
        team: Team<'_>,
        x: &[f32],
        buffers: &mut Scratch,
        out: &mut [f32],
    ) {
        let (hidden, width) = (self.down_proj.columns(), self.gate_proj.columns());
        let tokens = x.len() / hidden;
        let gate_up = scratch(&mut buffers.gate_up, tokens * 2 * width);
        self.gate_proj.forward(team, tokens, x, gate_up, 2 * width);
        self.up_proj.forward(team, tokens, x, &mut gate_up[width..], 2 * width);
        let activated = scratch(&mut buffers.activated, tokens * width);
        team.rows(activated, width, PER_VALUE * width as f64, |rows, out| {
            silu_mul(&gate_up[2 * width * rows.start..2 * width * rows.end], width, out);
        });
        self.down_proj.forward(team, tokens, activated, out, hidden);
    }
}
