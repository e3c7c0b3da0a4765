//! A small model with experts, routers and correction biases.

use darwin_checkpoint::{Dtype, MemorySource};
use darwin_core::keyed::{Key, Rng};
use serde_json::json;

const HIDDEN: usize = 12;
const WIDTH: usize = 6;

/// Four layers and a MTP layer; `drift` is the size of the difference from seed 0.
pub(crate) fn model(seed: u64, drift: f64, experts: usize) -> MemorySource {
    let (b, h) = (Dtype::Bf16, HIDDEN);
    let mut list = vec![
        ("embed_tokens.weight".to_owned(), b, vec![10, h]),
        ("norm.weight".to_owned(), b, vec![h]),
        ("lm_head.weight".to_owned(), b, vec![10, h]),
    ];
    for block in ["layers.0", "layers.1", "layers.2", "layers.3", "mtp.layers.0"] {
        let mut push = |name: &str, dtype, shape: &[usize]| {
            list.push((format!("{block}.{name}"), dtype, shape.to_vec()));
        };
        push("input_layernorm.weight", b, &[h]);
        push("self_attn.q_proj.weight", b, &[8, h]);
        push("mlp.gate.weight", b, &[experts, h]);
        push("mlp.gate.e_score_correction_bias", Dtype::F32, &[experts]);
        push("mlp.experts.gate_up_proj", b, &[experts, 2 * WIDTH, h]);
        push("mlp.experts.down_proj", b, &[experts, h, WIDTH]);
        push("mlp.shared_expert_gate.weight", b, &[1, h]);
    }
    let tensors = list.into_iter().map(|(name, dtype, shape)| {
        let n: usize = shape.iter().product();
        let mut base = Rng::new(Key::new(0, &[&name]), 0);
        let mut own = Rng::new(Key::new(seed, &["drift", &name]), 0);
        let values = (0..n).map(|_| (base.normal() + drift * own.normal()) as f32).collect();
        (name, dtype, shape, values)
    });
    let text = json!({"num_hidden_layers": 4, "layer_types": ["full_attention", "full_attention",
        "full_attention", "full_attention"], "model_type": "qwen3_5_moe_text", "dtype": "bfloat16"});
    let config = json!({"model_type": "qwen3_5_moe", "dtype": "bfloat16", "text_config": text});
    MemorySource::new("model", config, tensors.collect()).unwrap()
}
