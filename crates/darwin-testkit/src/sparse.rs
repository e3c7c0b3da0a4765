//! Large checkpoints of real names and shapes: holes instead of weights take no room, or values that
//! are made as they are written.

use darwin_checkpoint::Dtype;
use serde_json::{Map, Value, json};
use std::fs::File;
use std::io::{Seek, Write};
use std::path::Path;

/// Writes a checkpoint of (name on disk, dtype, shape) in one sparse shard; every weight reads as 0.
///
/// # Panics
/// Where the folder cannot be written.
pub fn write_sparse(folder: &Path, config: &Value, tensors: &[(String, Dtype, Vec<usize>)]) {
    let (mut file, bytes) = begin(folder, config, tensors);
    let header = file.stream_position().expect("a place");
    file.set_len(header + bytes).expect("grown");
}

/// Writes a checkpoint of (name on disk, dtype, shape) in one shard, piece by piece: `fill` is handed
/// a tensor's name, its shape and room for its next values.
///
/// # Panics
/// Where the folder cannot be written.
pub fn write_filled(
    folder: &Path,
    config: &Value,
    tensors: &[(String, Dtype, Vec<usize>)],
    mut fill: impl FnMut(&str, &[usize], &mut [f32]),
) {
    const PIECE: usize = 1 << 20;
    let (mut file, _) = begin(folder, config, tensors);
    let (mut values, mut bytes) = (vec![0.0; PIECE], Vec::new());
    for (name, dtype, shape) in tensors {
        let mut left: usize = shape.iter().product();
        while left > 0 {
            let values = &mut values[..left.min(PIECE)];
            fill(name, shape, values);
            bytes.resize(values.len() * dtype.size(), 0);
            dtype.encode(values, &mut bytes);
            file.write_all(&bytes).expect("written");
            left -= values.len();
        }
    }
}

/// Config and header; the shard, and how many bytes of weights belong behind the header.
fn begin(folder: &Path, config: &Value, tensors: &[(String, Dtype, Vec<usize>)]) -> (File, u64) {
    std::fs::create_dir_all(folder).expect("a test folder can be made");
    let mut header = Map::new();
    let mut offset = 0;
    for (name, dtype, shape) in tensors {
        let end = offset + shape.iter().product::<usize>() * dtype.size();
        let entry = json!({"dtype": dtype.name(), "shape": shape, "data_offsets": [offset, end]});
        header.insert(name.clone(), entry);
        offset = end;
    }
    let text = Value::Object(header).to_string();
    let create = |name: &str| File::create(folder.join(name)).expect("a test file can be made");
    create("config.json").write_all(config.to_string().as_bytes()).expect("written");
    let mut file = create("model.safetensors");
    file.write_all(&(text.len() as u64).to_le_bytes()).expect("written");
    file.write_all(text.as_bytes()).expect("written");
    (file, offset as u64)
}

/// Config and tensors in the shapes of Qwen3.5-35B-A3B (its config.json), without vision, of so many
/// layers (40 in the real one).
#[must_use]
pub fn qwen35_35b(layers: usize) -> (Value, Vec<(String, Dtype, Vec<usize>)>) {
    let p = "model.language_model.layers";
    let mut tensors = vec![
        ("model.language_model.embed_tokens.weight".to_owned(), Dtype::Bf16, vec![248_320, 2048]),
        ("model.language_model.norm.weight".to_owned(), Dtype::Bf16, vec![2048]),
        ("lm_head.weight".to_owned(), Dtype::Bf16, vec![248_320, 2048]),
    ];
    let mut kinds = Vec::new();
    for layer in 0..layers {
        let mut add = |name: &str, shape: &[usize]| {
            tensors.push((format!("{p}.{layer}.{name}"), Dtype::Bf16, shape.to_vec()));
        };
        add("input_layernorm.weight", &[2048]);
        add("post_attention_layernorm.weight", &[2048]);
        let mixer: &[(&str, &[usize])] = if layer % 4 == 3 { &ATTENTION } else { &LINEAR };
        kinds.push(if layer % 4 == 3 { "full_attention" } else { "linear_attention" });
        for (name, shape) in mixer.iter().chain(&FEED_FORWARD) {
            add(name, shape);
        }
    }
    let config = json!({
        "architectures": ["Qwen3_5MoeForConditionalGeneration"],
        "model_type": "qwen3_5_moe",
        "tie_word_embeddings": false,
        "text_config": {
            "model_type": "qwen3_5_moe_text",
            "dtype": "bfloat16",
            "vocab_size": 248_320,
            "hidden_size": 2048,
            "num_hidden_layers": layers,
            "num_attention_heads": 16,
            "num_key_value_heads": 2,
            "head_dim": 256,
            "linear_num_key_heads": 16,
            "linear_num_value_heads": 32,
            "linear_key_head_dim": 128,
            "linear_value_head_dim": 128,
            "linear_conv_kernel_dim": 4,
            "num_experts": 256,
            "num_experts_per_tok": 8,
            "moe_intermediate_size": 512,
            "shared_expert_intermediate_size": 512,
            "hidden_act": "silu",
            "rms_norm_eps": 1e-6,
            "max_position_embeddings": 262_144,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e7,
                "partial_rotary_factor": 0.25,
            },
            "layer_types": kinds,
        },
    });
    (config, tensors)
}

const ATTENTION: [(&str, &[usize]); 6] = [
    ("self_attn.q_proj.weight", &[8192, 2048]),
    ("self_attn.k_proj.weight", &[512, 2048]),
    ("self_attn.v_proj.weight", &[512, 2048]),
    ("self_attn.o_proj.weight", &[2048, 4096]),
    ("self_attn.q_norm.weight", &[256]),
    ("self_attn.k_norm.weight", &[256]),
];

const LINEAR: [(&str, &[usize]); 9] = [
    ("linear_attn.in_proj_qkv.weight", &[8192, 2048]),
    ("linear_attn.in_proj_z.weight", &[4096, 2048]),
    ("linear_attn.in_proj_b.weight", &[32, 2048]),
    ("linear_attn.in_proj_a.weight", &[32, 2048]),
    ("linear_attn.conv1d.weight", &[8192, 1, 4]),
    ("linear_attn.A_log", &[32]),
    ("linear_attn.dt_bias", &[32]),
    ("linear_attn.norm.weight", &[128]),
    ("linear_attn.out_proj.weight", &[2048, 4096]),
];

const FEED_FORWARD: [(&str, &[usize]); 7] = [
    ("mlp.gate.weight", &[256, 2048]),
    ("mlp.experts.gate_up_proj", &[256, 1024, 2048]),
    ("mlp.experts.down_proj", &[256, 2048, 512]),
    ("mlp.shared_expert.gate_proj.weight", &[512, 2048]),
    ("mlp.shared_expert.up_proj.weight", &[512, 2048]),
    ("mlp.shared_expert.down_proj.weight", &[2048, 512]),
    ("mlp.shared_expert_gate.weight", &[1, 2048]),
];
