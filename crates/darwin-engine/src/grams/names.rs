//! The linear maps of a layer, by the canonical names of their weights.

use crate::layer::prefix;
use crate::{Config, LayerKind, LinearForm, MlpKind, SharedForm};

/// Weights with the same inputs, and how many inputs these are where it is not the hidden size.
pub(super) struct Names {
    pub(super) mixer: Vec<String>,
    pub(super) mixed: (Vec<String>, usize),
    /// Dense block, or router and shared expert.
    pub(super) block: Vec<String>,
    pub(super) activated: Option<(Vec<String>, usize)>,
    /// `gate_up_proj` and `down_proj`, fused.
    pub(super) routed: Option<[String; 2]>,
}

pub(super) fn names(config: &Config, layer: usize) -> Names {
    let prefix = prefix(layer);
    let weight = |name: &str| format!("{prefix}{name}.weight");
    let (inputs, output, width): (&[&str], _, _) = match config.layer_types[layer] {
        LayerKind::LinearAttention => {
            let inputs: &[&str] = match config.linear {
                LinearForm::Split => &["in_proj_qkv", "in_proj_z", "in_proj_b", "in_proj_a"],
                LinearForm::ByKeyHead => &["in_proj_qkvz", "in_proj_ba"],
            };
            (inputs, "linear_attn.out_proj", config.linear_value_dim())
        }
        LayerKind::FullAttention | LayerKind::SlidingAttention => {
            let width = config.num_attention_heads * config.head_dim;
            (&["q_proj", "k_proj", "v_proj"], "self_attn.o_proj", width)
        }
    };
    let mixer = output.split('.').next().unwrap_or_default();
    let mut names = Names {
        mixer: inputs.iter().map(|name| weight(&format!("{mixer}.{name}"))).collect(),
        mixed: (vec![weight(output)], width),
        block: Vec::new(),
        activated: None,
        routed: None,
    };
    match config.mlp_types[layer] {
        MlpKind::Dense => {
            names.block = vec![weight("mlp.gate_proj"), weight("mlp.up_proj")];
            names.activated = Some((vec![weight("mlp.down_proj")], config.intermediate_size));
        }
        MlpKind::Sparse => {
            names.block.push(weight("mlp.gate"));
            let experts = |name: &str| format!("{prefix}mlp.experts.{name}");
            names.routed = Some([experts("gate_up_proj"), experts("down_proj")]);
            if config.shared == SharedForm::Gated {
                let shared = ["expert.gate_proj", "expert.up_proj", "expert_gate"];
                names.block.extend(shared.map(|name| weight(&format!("mlp.shared_{name}"))));
                let down = weight("mlp.shared_expert.down_proj");
                names.activated = Some((vec![down], config.shared_expert_intermediate_size));
            }
        }
    }
    names
}
