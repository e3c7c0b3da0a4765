//! What Gram matrices take, from a config alone.

use super::GROUP_TOKENS;
use super::names::names;
use crate::Config;

/// Bytes that a [`GramSweep`](super::GramSweep) holds at most while it collects a layer of a model, weights not
/// counted: hidden states, matrices, the experts' inputs, and a group of tokens.
#[must_use]
pub fn footprint(config: &Config, tokens: u64) -> u64 {
    let matrix = |inputs: usize| 8 * (inputs * inputs) as u64;
    let hidden = config.hidden_size;
    let (mut most, k) = (0, config.num_experts_per_tok);
    for layer in 0..config.num_hidden_layers {
        let names = names(config, layer);
        let widths = [names.mixed.1, names.activated.as_ref().map_or(0, |(_, width)| *width)];
        let routed = if names.routed.is_some() { k * config.moe_intermediate_size } else { 0 };
        let experts = names.routed.map_or(0, |_| 4 * (hidden + routed + 3 * k) as u64 * tokens);
        let row = 2 * hidden + widths.iter().sum::<usize>() + routed;
        // what threads keep of a forward pass, the copies of it, and these behind each other
        let group = 4 * (8 * row) as u64 * tokens.min(2 * GROUP_TOKENS as u64);
        let matrices = 2 * matrix(hidden) + widths.iter().map(|width| matrix(*width)).sum::<u64>();
        most = most.max(experts + group + matrices);
    }
    most + 4 * hidden as u64 * tokens
}

/// Operations that the Gram matrices of so many tokens take, two for a multiplication with its sum;
/// one half of each matrix is computed.
#[must_use]
pub fn operations(config: &Config, tokens: u64) -> f64 {
    let square = |inputs: usize| (inputs * inputs) as f64;
    let hidden = config.hidden_size;
    let of_layer = |layer| {
        let names = names(config, layer);
        let maps = 2.0 * square(hidden)
            + square(names.mixed.1)
            + names.activated.map_or(0.0, |(_, width)| square(width));
        let experts = square(hidden) + square(config.moe_intermediate_size);
        maps + names.routed.map_or(0.0, |_| config.num_experts_per_tok as f64 * experts)
    };
    tokens as f64 * (0..config.num_hidden_layers).map(of_layer).sum::<f64>()
}
