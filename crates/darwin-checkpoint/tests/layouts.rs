//! Fused and per-expert layouts are one; what is written is what was read; a 35B is inspected from
//! headers alone.

mod common;

use darwin_checkpoint::{
    AnyModel, Checkpoint, Dtype, TensorSource, WriteOptions, inspect, read_tensor, write_checkpoint,
};
use darwin_core::{Cancel, NoProgress};
use darwin_testkit::{qwen35_35b, write_sparse};
use serde_json::{Value, json};
use std::path::Path;
use std::time::Instant;

type Tensor = (String, Dtype, Vec<usize>);

/// Writes a checkpoint whose elements count upwards.
fn write(folder: &Path, config: &Value, tensors: &[Tensor]) {
    let tensors: Vec<_> = tensors
        .iter()
        .map(|(name, dtype, shape)| {
            // Values depend on the logical place, so that both layouts hold the same model.
            let first = name.bytes().map(f32::from).sum::<f32>();
            let elements = shape.iter().product::<usize>();
            let values: Vec<f32> = (0..elements).map(|i| first + i as f32).collect();
            let mut bytes = vec![0; elements * dtype.size()];
            dtype.encode(&values, &mut bytes);
            (name.clone(), dtype.name(), shape.clone(), bytes)
        })
        .collect();
    common::write(folder, config, &tensors);
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
    write(&dir.path().join("split"), &json!({}), &tensors);
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
    write(&dir.path().join("in"), &json!({}), &[("a".to_owned(), Dtype::F32, vec![4])]);
    let source = Checkpoint::open(dir.path().join("in")).expect("opens");
    let cancel = Cancel::default();
    cancel.cancel();
    let out = dir.path().join("out");
    assert!(write_checkpoint(&source, source.layout(), &out, &options(1, &cancel)).is_err());
    assert_eq!(std::fs::read_dir(dir.path()).expect("list").count(), 1);
}

#[test]
fn a_35b_is_inspected_within_a_second_from_a_sparse_file() {
    let dir = tempfile::tempdir().expect("tempdir");
    let (config, tensors) = qwen35_35b(40);
    write_sparse(dir.path(), &config, &tensors);
    let start = Instant::now();
    let model = AnyModel::open(dir.path()).expect("opens");
    let AnyModel::Checkpoint(folder) = &model else { panic!("a folder") };
    folder.check_known().expect("every tensor is known");
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
