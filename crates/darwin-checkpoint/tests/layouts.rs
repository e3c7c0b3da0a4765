//! Fused and per-expert layouts are one; what is written is what was read; a 35B is inspected from
//! headers alone.

#![allow(clippy::disallowed_methods, reason = "a test may write plainly")]

use darwin_checkpoint::{
    Checkpoint, Dtype, TensorSource, WriteOptions, inspect, read_tensor, write_checkpoint,
};
use darwin_core::{Cancel, NoProgress};
use serde_json::{Map, Value, json};
use std::path::Path;
use std::time::Instant;

type Tensor = (String, Dtype, Vec<usize>);

/// Writes a checkpoint whose elements count upwards; with `sparse` no data at all is written.
fn write(folder: &Path, config: &Value, tensors: &[Tensor], sparse: bool) {
    std::fs::create_dir_all(folder).expect("create");
    std::fs::write(folder.join("config.json"), config.to_string()).expect("write");
    let mut header = Map::new();
    let mut offset = 0;
    for (name, dtype, shape) in tensors {
        let size = shape.iter().product::<usize>() * dtype.size();
        header.insert(
            name.clone(),
            json!({"dtype": dtype.name(), "shape": shape, "data_offsets": [offset, offset + size]}),
        );
        offset += size;
    }
    let text = Value::Object(header).to_string();
    let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(text.as_bytes());
    let path = folder.join("model.safetensors");
    let length = bytes.len() + offset;
    if !sparse {
        for (name, dtype, shape) in tensors {
            // Values depend on the logical place, so that both layouts hold the same model.
            let n = shape.iter().product::<usize>();
            let first = name.bytes().map(f32::from).sum::<f32>();
            let values: Vec<f32> = (0..n).map(|i| first + i as f32).collect();
            let at = bytes.len();
            bytes.resize(at + n * dtype.size(), 0);
            dtype.encode(&values, &mut bytes[at..]);
        }
    }
    std::fs::write(&path, bytes).expect("write");
    std::fs::File::options()
        .write(true)
        .open(path)
        .expect("open")
        .set_len(length as u64)
        .expect("grow");
}

fn options<'a>(memory: u64, cancel: &'a Cancel) -> WriteOptions<'a> {
    WriteOptions {
        max_shard_bytes: 100,
        memory,
        side_files: Vec::new(),
        identity: None,
        documents: vec![("config.json".to_owned(), b"{}".to_vec())],
        progress: &NoProgress,
        cancel,
    }
}

#[test]
fn per_expert_reads_as_fused_and_is_written_back_as_it_was() {
    let dir = tempfile::tempdir().expect("tempdir");
    let mut tensors: Vec<Tensor> = Vec::new();
    for j in 0..3 {
        for (part, shape) in [("gate_proj", [2, 4]), ("up_proj", [2, 4]), ("down_proj", [4, 2])] {
            let name = format!("model.layers.0.mlp.experts.{j}.{part}.weight");
            tensors.push((name, Dtype::Bf16, shape.to_vec()));
        }
    }
    tensors.push(("model.layers.0.linear_attn.A_log".to_owned(), Dtype::F32, vec![3]));
    write(&dir.path().join("split"), &json!({}), &tensors, false);
    let split = Checkpoint::open(dir.path().join("split")).expect("opens");
    let fused = split.manifest().find("layers.0.mlp.experts.gate_up_proj").expect("fused");
    assert_eq!(split.manifest().get(fused).shape, [3, 4, 4]);
    let values = read_tensor(&split, fused).expect("reads");
    for (j, expert) in values.chunks(16).enumerate() {
        for (half, part) in ["gate_proj", "up_proj"].iter().enumerate() {
            let name = format!("model.layers.0.mlp.experts.{j}.{part}.weight");
            let mut expected: Vec<f32> =
                (0..8).map(|i| name.bytes().map(f32::from).sum::<f32>() + i as f32).collect();
            Dtype::Bf16.round(&mut expected);
            assert_eq!(expert[8 * half..8 * half + 8], expected, "expert {j} {part}");
        }
    }
    let cancel = Cancel::default();
    let mut written: Vec<Vec<u8>> = Vec::new();
    for memory in [1, 1 << 30] {
        let out = dir.path().join(format!("out{memory}"));
        write_checkpoint(&split, split.layout(), &out, &options(memory, &cancel)).expect("writes");
        let back = Checkpoint::open(&out).expect("opens");
        assert!(back.num_shards() > 1);
        assert_eq!(back.manifest().tensors().len(), split.manifest().tensors().len());
        for tensor in split.manifest().tensors() {
            let (a, b) = (split.manifest().find(&tensor.name), back.manifest().find(&tensor.name));
            let (mut x, mut y) = (Vec::new(), Vec::new());
            let rows = 0..tensor.rows();
            split.read_raw(a.expect("there"), rows.clone(), &mut x).expect("raw");
            back.read_raw(b.expect("there"), rows, &mut y).expect("raw");
            assert_eq!(x, y, "{}", tensor.name);
            assert_eq!(tensor.dtype, back.manifest().get(b.expect("there")).dtype);
        }
        written.push(std::fs::read(out.join("model-00001-of-00002.safetensors")).expect("read"));
    }
    assert_eq!(written[0], written[1], "the memory budget must not change a byte");
}

#[test]
fn a_cancelled_write_leaves_nothing() {
    let dir = tempfile::tempdir().expect("tempdir");
    write(&dir.path().join("in"), &json!({}), &[("a".to_owned(), Dtype::F32, vec![4])], false);
    let source = Checkpoint::open(dir.path().join("in")).expect("opens");
    let cancel = Cancel::default();
    cancel.cancel();
    let out = dir.path().join("out");
    assert!(write_checkpoint(&source, source.layout(), &out, &options(1, &cancel)).is_err());
    assert_eq!(std::fs::read_dir(dir.path()).expect("list").count(), 1);
}

/// The real shapes of Qwen3.5-35B-A3B (qwen35-moe.md), without vision.
fn qwen35_35b() -> (Value, Vec<Tensor>) {
    let p = "model.language_model.layers";
    let mut t: Vec<Tensor> = vec![
        ("model.language_model.embed_tokens.weight".to_owned(), Dtype::Bf16, vec![248_320, 2048]),
        ("model.language_model.norm.weight".to_owned(), Dtype::Bf16, vec![2048]),
        ("lm_head.weight".to_owned(), Dtype::Bf16, vec![248_320, 2048]),
    ];
    let mut kinds = Vec::new();
    for l in 0..40 {
        let mut add = |name: &str, shape: &[usize]| {
            t.push((format!("{p}.{l}.{name}"), Dtype::Bf16, shape.to_vec()));
        };
        add("input_layernorm.weight", &[2048]);
        add("post_attention_layernorm.weight", &[2048]);
        if l % 4 == 3 {
            kinds.push("full_attention");
            add("self_attn.q_proj.weight", &[8192, 2048]);
            add("self_attn.k_proj.weight", &[512, 2048]);
            add("self_attn.v_proj.weight", &[512, 2048]);
            add("self_attn.o_proj.weight", &[2048, 4096]);
            add("self_attn.q_norm.weight", &[256]);
            add("self_attn.k_norm.weight", &[256]);
        } else {
            kinds.push("linear_attention");
            add("linear_attn.in_proj_qkv.weight", &[8192, 2048]);
            add("linear_attn.in_proj_z.weight", &[4096, 2048]);
            add("linear_attn.in_proj_b.weight", &[32, 2048]);
            add("linear_attn.in_proj_a.weight", &[32, 2048]);
            add("linear_attn.conv1d.weight", &[8192, 1, 4]);
            add("linear_attn.A_log", &[32]);
            add("linear_attn.dt_bias", &[32]);
            add("linear_attn.norm.weight", &[128]);
            add("linear_attn.out_proj.weight", &[2048, 4096]);
        }
        add("mlp.gate.weight", &[256, 2048]);
        add("mlp.experts.gate_up_proj", &[256, 1024, 2048]);
        add("mlp.experts.down_proj", &[256, 2048, 512]);
        for part in ["gate_proj", "up_proj"] {
            add(&format!("mlp.shared_expert.{part}.weight"), &[512, 2048]);
        }
        add("mlp.shared_expert.down_proj.weight", &[2048, 512]);
        add("mlp.shared_expert_gate.weight", &[1, 2048]);
    }
    let config = json!({
        "architectures": ["Qwen3_5MoeForConditionalGeneration"],
        "model_type": "qwen3_5_moe",
        "text_config": {"num_experts": 256, "num_experts_per_tok": 8, "layer_types": kinds},
    });
    (config, t)
}

#[test]
fn a_35b_is_inspected_within_a_second_from_a_sparse_file() {
    let dir = tempfile::tempdir().expect("tempdir");
    let (config, tensors) = qwen35_35b();
    write(dir.path(), &config, &tensors, true);
    let start = Instant::now();
    let model = Checkpoint::open(dir.path()).expect("opens");
    model.check_known().expect("every tensor is known");
    let found = inspect(&model).expect("inspects");
    assert!(start.elapsed().as_secs_f64() < 1.0, "took {:?}", start.elapsed());
    assert_eq!(found.num_layers, 40);
    assert_eq!(found.experts, Some((256, 8)));
    assert_eq!(found.layout, "fused");
    assert_eq!(
        (found.layer_kinds["linear_attention"], found.layer_kinds["full_attention"]),
        (30, 10)
    );
    assert!((34.0e9..35.5e9).contains(&(found.parameters as f64)), "{}", found.parameters);
    assert!(
        (2.0e9..3.5e9).contains(&(found.active_parameters as f64)),
        "{}",
        found.active_parameters
    );
}
