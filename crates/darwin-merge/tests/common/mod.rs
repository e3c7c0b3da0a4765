//! Small pairs of models, in memory and on disk.

#![allow(dead_code, clippy::unwrap_used, reason = "shared by tests")]

use darwin_checkpoint::{
    Checkpoint, Dtype, Layout, Manifest, MemorySource, Stored, TensorSource, WriteOptions,
    write_checkpoint,
};
use darwin_core::keyed::{Key, Rng};
use darwin_core::{Cancel, NoProgress};
use serde_json::{Value, json};
use std::path::Path;

pub(crate) const EXPERTS: usize = 4;

/// A Qwen3.5-MoE-shaped model with two layers, its experts large enough for several blocks of
/// statistics: (canonical name, dtype, shape).
fn shapes(vision: bool) -> Vec<(String, Dtype, Vec<usize>)> {
    let (h, i, v) = (96, 128, 64);
    let b = Dtype::Bf16;
    let mut list = vec![
        ("embed_tokens.weight".to_owned(), b, vec![v, h]),
        ("norm.weight".to_owned(), b, vec![h]),
        ("lm_head.weight".to_owned(), b, vec![v, h]),
    ];
    for layer in 0..2 {
        let mut push = |name: &str, dtype, shape: &[usize]| {
            list.push((format!("layers.{layer}.{name}"), dtype, shape.to_vec()));
        };
        push("input_layernorm.weight", b, &[h]);
        push("post_attention_layernorm.weight", b, &[h]);
        if layer == 0 {
            push("linear_attn.A_log", Dtype::F32, &[4]);
            push("linear_attn.norm.weight", Dtype::F32, &[8]);
            push("linear_attn.conv1d.weight", b, &[24, 1, 4]);
            push("linear_attn.in_proj_qkv.weight", b, &[24, h]);
        } else {
            push("self_attn.q_proj.weight", b, &[32, h]);
            push("self_attn.q_norm.weight", b, &[8]);
        }
        push("mlp.gate.weight", b, &[EXPERTS, h]);
        let rows = if layer == 0 { 2 * i } else { 32 * i };
        push("mlp.experts.gate_up_proj", b, &[EXPERTS, rows, h]);
        push("mlp.experts.down_proj", b, &[EXPERTS, h, rows / 2]);
        push("mlp.shared_expert.up_proj.weight", b, &[16, h]);
        push("mlp.shared_expert_gate.weight", b, &[1, h]);
    }
    if vision {
        list.push(("visual.patch_embed.proj.weight".to_owned(), b, vec![8, 3, 2, 2]));
        list.push(("mtp.fc.weight".to_owned(), b, vec![h, 2 * h]));
    }
    list
}

pub(crate) fn config(text_only: bool) -> Value {
    let text = json!({
        "num_hidden_layers": 2,
        "layer_types": ["linear_attention", "full_attention"],
        "model_type": "qwen3_5_moe_text",
        "dtype": "bfloat16",
    });
    if text_only {
        return text;
    }
    json!({"model_type": "qwen3_5_moe", "dtype": "bfloat16", "text_config": text})
}

/// Random weights; `drift` is the size of the difference from seed 0 of the same shape.
pub(crate) fn model(name: &str, seed: u64, drift: f64, vision: bool) -> MemorySource {
    let tensors = shapes(vision).into_iter().map(|(tensor, dtype, shape)| {
        let n: usize = shape.iter().product();
        let mut base = Rng::new(Key::new(0, &[&tensor]), 0);
        let mut own = Rng::new(Key::new(seed, &["drift", &tensor]), 0);
        let values =
            (0..n).map(|_| (base.uniform() - 0.5 + drift * (own.uniform() - 0.5)) as f32).collect();
        (tensor, dtype, shape, values)
    });
    MemorySource::new(name, config(!vision), tensors.collect()).unwrap()
}

/// A pair with some values exactly equal.
pub(crate) fn pair() -> (MemorySource, MemorySource) {
    (model("father", 0, 0.0, true), model("mother", 1, 0.3, false))
}

/// Names on disk: fused or one by one.
pub(crate) fn layout(manifest: &Manifest, prefix: &str, per_expert: bool) -> Layout {
    let mut stored = Vec::new();
    for (id, info) in manifest.ids().zip(manifest.tensors()) {
        let head = info.name.starts_with("lm_head") || info.name.starts_with("mtp");
        let prefix = match (head, info.name.starts_with("visual")) {
            (true, _) => "",
            (_, true) => "model.",
            _ => prefix,
        };
        let base = info.name.rsplit_once('.').map_or("", |(base, _)| base);
        let rows_per_expert = info.rows() / info.experts().unwrap_or(1);
        match (info.experts(), per_expert) {
            (Some(experts), true) => {
                let parts: &[&str] =
                    if info.name.ends_with("down_proj") { &["down"] } else { &["gate", "up"] };
                let rows = rows_per_expert / parts.len();
                for expert in 0..experts {
                    for (p, part) in parts.iter().enumerate() {
                        let start = expert * rows_per_expert + p * rows;
                        stored.push(Stored {
                            name: format!("{prefix}{base}.{expert}.{part}_proj.weight"),
                            id,
                            rows: start..start + rows,
                            shape: vec![rows, info.cols()],
                        });
                    }
                }
            }
            _ => stored.push(Stored {
                name: format!("{prefix}{}", info.name),
                id,
                rows: 0..info.rows(),
                shape: info.shape.clone(),
            }),
        }
    }
    Layout { stored }
}

pub(crate) fn write(source: &dyn TensorSource, layout: &Layout, out: &Path) {
    let config = source.config().to_string().into_bytes();
    let options = WriteOptions {
        max_shard_bytes: 1 << 40,
        memory: 1 << 26,
        side_files: Vec::new(),
        identity: None,
        documents: vec![("config.json".to_owned(), config)],
        progress: &NoProgress,
        cancel: &Cancel::default(),
    };
    write_checkpoint(source, layout, out, &options).unwrap();
}

/// Writes the pair: a fused father, a mother in either layout.
pub(crate) fn write_pair(folder: &Path, per_expert: bool) {
    let (father, mother) = pair();
    let of = layout(father.manifest(), "model.language_model.", false);
    write(&father, &of, &folder.join("father"));
    write(&mother, &layout(mother.manifest(), "model.", per_expert), &folder.join("mother"));
}

/// All stored tensors' bytes by name on disk.
pub(crate) fn bytes(folder: &Path) -> Vec<(String, String, Vec<u8>)> {
    let checkpoint = Checkpoint::open(folder).unwrap();
    let mut all: Vec<(String, String, Vec<u8>)> = checkpoint
        .layout()
        .stored
        .iter()
        .map(|stored| {
            let mut raw = Vec::new();
            checkpoint.read_raw(stored.id, stored.rows.clone(), &mut raw).unwrap();
            let dtype = checkpoint.manifest().get(stored.id).dtype.name().to_owned();
            (stored.name.clone(), dtype, raw)
        })
        .collect();
    all.sort();
    all
}
