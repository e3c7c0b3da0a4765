//! The models that stand beside a file under test.

use darwin_checkpoint::{Dtype, ExpertLayout, MemorySource};
use darwin_testkit::{tiny_qwen3_moe, tiny_qwen35, write_model};
use serde_json::json;
use std::path::Path;

/// Width of the smallest model.
pub(crate) const HIDDEN: usize = 8;

/// Writes the smallest Llama: one layer of width 8, a vocabulary of 12, about 6 KB.
pub(crate) fn write_llama(folder: &Path, seed: u64) {
    write_model(folder, &llama(seed), ExpertLayout::Fused, 1 << 30);
}

fn llama(seed: u64) -> MemorySource {
    let h = HIDDEN;
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "head_dim": 4,
        "num_hidden_layers": 1, "hidden_act": "silu", "max_position_embeddings": 64,
        "tie_word_embeddings": false, "vocab_size": 12, "hidden_size": h,
        "intermediate_size": 12, "num_attention_heads": 2, "num_key_value_heads": 1,
        "rms_norm_eps": 1e-6, "dtype": "float32",
    });
    let shapes = [
        ("embed_tokens.weight", vec![12, h]),
        ("norm.weight", vec![h]),
        ("lm_head.weight", vec![12, h]),
        ("layers.0.input_layernorm.weight", vec![h]),
        ("layers.0.post_attention_layernorm.weight", vec![h]),
        ("layers.0.self_attn.q_proj.weight", vec![h, h]),
        ("layers.0.self_attn.k_proj.weight", vec![4, h]),
        ("layers.0.self_attn.v_proj.weight", vec![4, h]),
        ("layers.0.self_attn.o_proj.weight", vec![h, h]),
        ("layers.0.mlp.gate_proj.weight", vec![12, h]),
        ("layers.0.mlp.up_proj.weight", vec![12, h]),
        ("layers.0.mlp.down_proj.weight", vec![h, 12]),
    ];
    let tensors = shapes.into_iter().map(|(name, shape)| {
        let n: usize = shape.iter().product();
        let value = |i: usize| ((i as u64 * 37 + seed * 11) % 101) as f32 / 101.0 - 0.5;
        (name.to_owned(), Dtype::F32, shape, (0..n).map(value).collect())
    });
    MemorySource::new("tiny", config, tensors.collect()).expect("shapes and values agree")
}

/// Writes a Qwen3-MoE of four layers, an expert a tensor.
pub(crate) fn write_moe(folder: &Path) {
    write_model(folder, &tiny_qwen3_moe(1), ExpertLayout::PerExpert, 1 << 30);
}

/// Writes a Qwen3.5-MoE of four layers, fused experts.
pub(crate) fn write_qwen35(folder: &Path) {
    write_model(folder, &tiny_qwen35(1), ExpertLayout::Fused, 1 << 30);
}
