//! Floats of 8 and 4 bits are read as torch reads them, with scales as transformers applies them
//! (`tools/oracle/float8.py`).

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use common::write;
use darwin_checkpoint::{Checkpoint, Dtype, TensorSource, read_tensor};
use serde_json::{Value, json};

fn golden() -> Value {
    serde_json::from_str(include_str!("golden/float8.json")).unwrap()
}

fn numbers(list: &Value) -> Vec<Option<f32>> {
    list.as_array().unwrap().iter().map(|v| v.as_f64().map(|v| v as f32)).collect()
}

fn floats(list: &Value) -> Vec<u8> {
    numbers(list).into_iter().flat_map(|v| v.unwrap().to_le_bytes()).collect()
}

fn bytes(list: &Value) -> Vec<u8> {
    list.as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as u8).collect()
}

#[test]
fn every_byte_is_the_number_that_torch_reads() {
    let every: Vec<u8> = (0..=255).collect();
    for (name, table) in golden()["tables"].as_object().unwrap() {
        let mut found = vec![0.0; 256];
        Dtype::from_name(name).unwrap().decode(&every, &mut found);
        for (byte, (found, expected)) in found.iter().zip(numbers(table)).enumerate() {
            match expected {
                Some(expected) => assert_eq!(found.to_bits(), expected.to_bits(), "{name} {byte}"),
                None => assert!(!found.is_finite(), "{name} {byte}"),
            }
        }
    }
}

const NAME: &str = "model.layers.0.mlp.down_proj.weight";

#[test]
fn blocks_rows_and_whole_matrices_are_scaled_as_by_transformers() {
    let golden = golden();
    let dir = tempfile::tempdir().unwrap();
    for (i, case) in golden["cases"].as_array().unwrap().iter().enumerate() {
        let folder = dir.path().join(i.to_string());
        let scale: Vec<usize> = case["scale_shape"]
            .as_array()
            .unwrap()
            .iter()
            .map(|d| d.as_u64().unwrap() as usize)
            .collect();
        let tensors = [
            (NAME.to_owned(), case["dtype"].as_str().unwrap(), vec![4, 6], bytes(&case["bytes"])),
            (format!("{NAME}_scale_inv"), "F32", scale, floats(&case["scale"])),
        ];
        write(&folder, &json!({}), &tensors);
        let model = Checkpoint::open(&folder).unwrap();
        assert!(model.is_quantised());
        let [info] = model.manifest().tensors() else { panic!("scales are no tensors") };
        assert_eq!(info.dtype, Dtype::Bf16);
        let id = model.manifest().find("layers.0.mlp.down_proj.weight").unwrap();
        let expected: Vec<f32> = numbers(&case["read"]).into_iter().flatten().collect();
        assert_eq!(read_tensor(&model, id).unwrap(), expected, "case {i}");
        // Tiles that begin within a block.
        let plan = model.prepare(id).unwrap();
        for row in 0..4 {
            let mut out = vec![0.0; 6];
            model.read_tile(&plan, row..row + 1, &mut out).unwrap();
            assert_eq!(out, expected[row * 6..row * 6 + 6], "case {i} row {row}");
        }
        let mut raw = Vec::new();
        assert!(!model.read_raw(id, 0..4, &mut raw).unwrap(), "its bytes are not the tensor's");
    }
}

#[test]
fn experts_with_scales_each_are_one_tensor() {
    let golden = golden();
    let case = &golden["cases"][0];
    let dir = tempfile::tempdir().unwrap();
    let mut tensors = Vec::new();
    for expert in 0..2 {
        for part in ["gate_proj", "up_proj", "down_proj"] {
            let name = format!("model.layers.0.mlp.experts.{expert}.{part}.weight");
            tensors.push((name.clone(), "F8_E4M3", vec![4, 6], bytes(&case["bytes"])));
            let scale = floats(&case["scale"]);
            tensors.push((format!("{name}_scale_inv"), "F32", vec![2, 3], scale));
            let input = name.replace(".weight", ".input_scale");
            tensors.push((input, "F32", vec![1], 1.0_f32.to_le_bytes().to_vec()));
        }
    }
    write(dir.path(), &json!({}), &tensors);
    let model = Checkpoint::open(dir.path()).unwrap();
    assert_eq!(model.manifest().tensors().len(), 2);
    let id = model.manifest().find("layers.0.mlp.experts.gate_up_proj").unwrap();
    let one: Vec<f32> = numbers(&case["read"]).into_iter().flatten().collect();
    assert_eq!(read_tensor(&model, id).unwrap(), one.repeat(4));
}

#[test]
fn scales_that_are_missing_or_do_not_fit_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |config: Value, scale: Option<Vec<usize>>| {
        let mut tensors = vec![(NAME.to_owned(), "F8_E4M3", vec![4, 6], vec![0; 24])];
        if let Some(shape) = scale {
            let length = shape.iter().product::<usize>();
            tensors.push((format!("{NAME}_scale_inv"), "F32", shape, vec![0; 4 * length]));
        }
        write(dir.path(), &config, &tensors);
        Checkpoint::open(dir.path()).err().map(|error| error.to_string()).unwrap_or_default()
    };
    let text = refused(json!({"quantization_config": {}}), None);
    assert!(text.contains(NAME) && text.contains("has no scales beside it"), "{text}");
    let text = refused(json!({}), Some(vec![3, 5]));
    assert!(text.contains("which are no scales for"), "{text}");
    assert_eq!(refused(json!({}), None), "", "plain 8-bit floats are numbers themselves");
}

const BLOCKS: &str = "model.layers.0.mlp.experts.down_proj_blocks";

/// gpt-oss as it is published: experts packed in 4-bit floats.
#[test]
fn packed_experts_are_unpacked_and_turned_as_by_transformers() {
    let golden = golden();
    let case = &golden["mxfp4"];
    let dir = tempfile::tempdir().unwrap();
    let write_with = |scales: Vec<usize>| {
        let length = scales.iter().product::<usize>();
        let tensors = [
            (BLOCKS.to_owned(), "U8", vec![2, 3, 2, 16], bytes(&case["blocks"])),
            (
                BLOCKS.replace("_blocks", "_scales"),
                "U8",
                scales,
                bytes(&case["scales"])[..length].to_vec(),
            ),
        ];
        write(dir.path(), &json!({"quantization_config": {}}), &tensors);
        Checkpoint::open(dir.path())
    };
    let model = write_with(vec![2, 3, 2]).unwrap();
    assert!(model.is_quantised());
    let [info] = model.manifest().tensors() else { panic!("one tensor") };
    assert_eq!((&info.name[..], info.dtype), ("layers.0.mlp.experts.down_proj", Dtype::Bf16));
    assert_eq!(json!(info.shape), case["shape"]);
    let id = model.manifest().find(&info.name).unwrap();
    let expected: Vec<f32> = numbers(&case["read"]).into_iter().flatten().collect();
    assert_eq!(read_tensor(&model, id).unwrap(), expected);
    // Tiles that go over from one expert to the next.
    let plan = model.prepare(id).unwrap();
    let mut out = vec![0.0; 10 * 3];
    model.read_tile(&plan, 60..70, &mut out).unwrap();
    assert_eq!(out, expected[180..210]);
    let text = write_with(vec![2, 3, 1]).unwrap_err().to_string();
    assert!(text.contains("are no blocks of 32 with their scales"), "{text}");
}
