//! Random Qwen3.5-MoE models in memory.

use darwin_checkpoint::{Dtype, MemorySource, role_of};
use darwin_core::keyed::{Key, Rng};
use serde_json::json;

/// The sizes of a model; the others follow from them.
#[derive(Clone, Copy)]
pub(crate) struct Sizes {
    pub(crate) hidden: usize,
    pub(crate) layers: usize,
    pub(crate) experts: usize,
    pub(crate) top: usize,
    pub(crate) width: usize,
    pub(crate) head_dim: usize,
    pub(crate) vocab: usize,
}

/// Those of the example parents.
pub(crate) const PARENT: Sizes =
    Sizes { hidden: 128, layers: 8, experts: 32, top: 4, width: 32, head_dim: 32, vocab: 2048 };

/// Those that the table of how time grows starts from.
pub(crate) const MIDDLE: Sizes =
    Sizes { hidden: 512, layers: 4, experts: 32, top: 4, width: 256, head_dim: 64, vocab: 8192 };

pub(crate) fn random(sizes: Sizes, dtype: Dtype) -> MemorySource {
    let Sizes { hidden, layers, experts, top, width, head_dim, vocab } = sizes;
    let full = |i: usize| i % 4 == 3;
    let kind = |i: usize| if full(i) { "full_attention" } else { "linear_attention" };
    let (key_heads, heads) = (2, hidden / head_dim);
    let (keys, values) = (key_heads * head_dim, hidden);
    let matrix = |name: &str, shape: &[usize]| (name.to_owned(), shape.to_vec());
    let mut shapes = vec![
        matrix("embed_tokens.weight", &[vocab, hidden]),
        matrix("norm.weight", &[hidden]),
        matrix("lm_head.weight", &[vocab, hidden]),
    ];
    for i in 0..layers {
        let mixer = if full(i) {
            vec![
                matrix("self_attn.q_proj.weight", &[2 * heads * head_dim, hidden]),
                matrix("self_attn.k_proj.weight", &[2 * head_dim, hidden]),
                matrix("self_attn.v_proj.weight", &[2 * head_dim, hidden]),
                matrix("self_attn.o_proj.weight", &[hidden, heads * head_dim]),
                matrix("self_attn.q_norm.weight", &[head_dim]),
                matrix("self_attn.k_norm.weight", &[head_dim]),
            ]
        } else {
            vec![
                matrix("linear_attn.in_proj_qkv.weight", &[2 * keys + values, hidden]),
                matrix("linear_attn.in_proj_z.weight", &[values, hidden]),
                matrix("linear_attn.in_proj_b.weight", &[heads, hidden]),
                matrix("linear_attn.in_proj_a.weight", &[heads, hidden]),
                matrix("linear_attn.conv1d.weight", &[2 * keys + values, 1, 4]),
                matrix("linear_attn.A_log", &[heads]),
                matrix("linear_attn.dt_bias", &[heads]),
                matrix("linear_attn.norm.weight", &[head_dim]),
                matrix("linear_attn.out_proj.weight", &[hidden, values]),
            ]
        };
        let common = [
            matrix("input_layernorm.weight", &[hidden]),
            matrix("post_attention_layernorm.weight", &[hidden]),
            matrix("mlp.gate.weight", &[experts, hidden]),
            matrix("mlp.experts.gate_up_proj", &[experts, 2 * width, hidden]),
            matrix("mlp.experts.down_proj", &[experts, hidden, width]),
            matrix("mlp.shared_expert.gate_proj.weight", &[width, hidden]),
            matrix("mlp.shared_expert.up_proj.weight", &[width, hidden]),
            matrix("mlp.shared_expert.down_proj.weight", &[hidden, width]),
            matrix("mlp.shared_expert_gate.weight", &[1, hidden]),
        ];
        let named = |(name, shape)| (format!("layers.{i}.{name}"), shape);
        shapes.extend(mixer.into_iter().chain(common).map(named));
    }
    let random = |(name, shape): (String, Vec<usize>)| {
        debug_assert!(role_of(&name).0.name() != "other");
        let mut rng = Rng::new(Key::new(1, &[&name]), 0);
        let sd = 1.0 / (*shape.last().unwrap() as f64).sqrt();
        let values = (0..shape.iter().product()).map(|_| (sd * rng.normal()) as f32).collect();
        (name, dtype, shape, values)
    };
    let config = json!({
        "model_type": "qwen3_5_moe_text", "hidden_size": hidden, "num_hidden_layers": layers,
        "layer_types": (0..layers).map(kind).collect::<Vec<_>>(), "num_experts": experts,
        "num_experts_per_tok": top, "moe_intermediate_size": width,
        "shared_expert_intermediate_size": width, "num_attention_heads": heads,
        "num_key_value_heads": 2, "head_dim": head_dim, "linear_num_key_heads": key_heads,
        "linear_num_value_heads": heads, "linear_key_head_dim": head_dim,
        "linear_value_head_dim": head_dim, "linear_conv_kernel_dim": 4, "vocab_size": vocab,
        "max_position_embeddings": 65536
    });
    let tensors = shapes.into_iter().map(random).collect();
    MemorySource::new("random", config, tensors).unwrap()
}
