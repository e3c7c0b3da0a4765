//! What goes into the linear maps of a layer, from what a forward pass kept.

use super::step::Kept;
use crate::moe::Order;
use crate::{Config, layer};

/// Inputs of the maps of a layer, row-major.
pub(crate) struct Inputs<'a> {
    /// Of the maps into the mixer (tokens, hidden).
    pub(crate) mixer: &'a [f32],
    /// Of the map out of the mixer (tokens, its width).
    pub(crate) mixed: &'a [f32],
    /// Of the maps into the feed-forward block, router and routed experts included (tokens, hidden).
    pub(crate) block: &'a [f32],
    /// Of the map out of the dense block or the shared expert (tokens, its width); empty without.
    pub(crate) activated: &'a [f32],
    /// Of the routed experts.
    pub(crate) routed: Option<RoutedInputs<'a>>,
}

/// What the router chose, and what goes into the experts' last maps.
pub(crate) struct RoutedInputs<'a> {
    /// (tokens, k)
    pub(crate) experts: &'a [u32],
    /// The slots (token x k + rank) by expert.
    pub(crate) order: &'a Order,
    /// (slots by expert, expert width)
    pub(crate) activated: &'a [f32],
}

impl Kept {
    /// The inputs of a layer's maps after [`forward`](super::step::forward) on so many tokens.
    pub(crate) fn inputs(
        &self,
        config: &Config,
        weights: &layer::Layer,
        tokens: usize,
    ) -> Inputs<'_> {
        let hidden = tokens * config.hidden_size;
        let mixed = match &weights.mixer {
            layer::Mixer::Linear(_) => &self.linear.gated[..tokens * config.linear_value_dim()],
            layer::Mixer::Full(_) => {
                &self.full.gated[..tokens * config.num_attention_heads * config.head_dim]
            }
            layer::Mixer::Latent(..) => unreachable!("refused before"),
        };
        let (dense, routed) = match &weights.mlp {
            layer::Mlp::Dense(dense) => (Some(&**dense), None),
            layer::Mlp::Sparse { shared, .. } => {
                let slots = tokens * config.num_experts_per_tok;
                let routed = RoutedInputs {
                    experts: &self.moe.experts[..slots],
                    order: &self.moe.order,
                    activated: &self.moe.activated[..slots * config.moe_intermediate_size],
                };
                (shared.as_ref().map(|shared| &shared.expert), Some(routed))
            }
        };
        let width = dense.map_or(0, |dense| dense.gate_proj.columns());
        Inputs {
            mixer: &self.normed[..hidden],
            mixed,
            block: &self.normed_mid[..hidden],
            activated: &self.dense.activated[..tokens * width],
            routed,
        }
    }
}
