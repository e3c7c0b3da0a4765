//! GGUF files give gguf-py's values in transformers' order (tools/oracle/gguf_files.py).

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "a test may write plainly")]

use darwin_checkpoint::{
    AnyModel, Checkpoint, Dtype, Gguf, HasFiles, TensorSource, inspect, read_tensor,
};
use darwin_core::Diagnose;
use darwin_core::hash::sha256_hex;
use serde_json::{Value, json};
use std::path::PathBuf;

fn golden(file: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../darwin-testkit/fixtures/golden/gguf")
        .join(file)
}

fn record(model: &str) -> Value {
    let bytes = std::fs::read(golden(&format!("{model}.json"))).unwrap();
    serde_json::from_slice(&bytes).unwrap()
}

fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

#[test]
fn every_value_is_that_of_gguf_py_bit_for_bit() {
    for (name, count) in [("tiny", 21), ("tied", 18)] {
        let (model, record) = (Gguf::open(golden(&format!("{name}.gguf"))).unwrap(), record(name));
        let tensors = record["tensors"].as_object().unwrap();
        assert_eq!((model.manifest().tensors().len(), tensors.len()), (count, count), "{name}");
        for (tensor, golden) in tensors {
            let canonical = darwin_checkpoint::canonical_name(tensor);
            let id = model.manifest().find(&canonical).expect("the tensor is there");
            let info = model.manifest().get(id);
            assert_eq!(json!(info.shape), golden["shape"], "{tensor}");
            let values = read_tensor(&model, id).unwrap();
            let found = sha256_hex(&bytes(&values));
            assert_eq!(found, golden["sha256"].as_str().unwrap(), "{tensor} {}", golden["type"]);
            let stored = golden["type"].as_str().unwrap();
            let read_as = Dtype::from_name(stored).unwrap_or(Dtype::F32);
            assert_eq!(info.dtype, read_as, "{tensor} is stored as {stored}");
        }
    }
}

#[test]
fn tiles_and_raw_bytes_are_parts_of_the_whole() {
    for name in ["tiny.gguf", "tied.gguf"] {
        let model = Gguf::open(golden(name)).unwrap();
        for id in model.manifest().ids() {
            let (info, plan) = (model.manifest().get(id), model.prepare(id).unwrap());
            let whole = read_tensor(&model, id).unwrap();
            for step in [1, 7] {
                let mut tiles = Vec::new();
                for start in (0..plan.rows).step_by(step) {
                    let rows = start..(start + step).min(plan.rows);
                    let mut tile = vec![0.0; rows.len() * plan.cols];
                    model.read_tile(&plan, rows, &mut tile).unwrap();
                    tiles.extend(tile);
                }
                assert_eq!(bytes(&tiles), bytes(&whole), "{}", info.name);
            }
            let mut raw = Vec::new();
            let stored_so = model.read_raw(id, 0..plan.rows, &mut raw).unwrap();
            let index = id.index();
            let plain =
                Dtype::from_name(AnyModel::open(golden(name)).unwrap().stored()[index].dtype);
            assert_eq!(stored_so, plain.is_some(), "{}", info.name);
            if stored_so {
                let mut values = vec![0.0; whole.len()];
                info.dtype.decode(&raw, &mut values);
                assert_eq!(bytes(&values), bytes(&whole), "{}", info.name);
            }
        }
    }
}

#[test]
fn the_config_is_the_one_that_was_converted() {
    for name in ["tiny", "tied"] {
        let (model, record) = (Gguf::open(golden(&format!("{name}.gguf"))).unwrap(), record(name));
        let config = model.config();
        for (key, value) in record["config"].as_object().unwrap() {
            let (found, wanted) = (&config[key], value);
            let same = match (found.as_f64(), wanted.as_f64()) {
                (Some(a), Some(b)) => a == b,
                _ if key == "rope_parameters" => {
                    wanted.as_object().unwrap().iter().all(|(k, v)| {
                        found[k] == *v || found[k].as_f64().is_some_and(|n| v.as_f64() == Some(n))
                    })
                }
                _ => found == wanted,
            };
            assert!(same, "{name}: {key} is {found}, was {wanted}");
        }
        assert_eq!(config["model_type"], "llama");
        assert_eq!(config["architectures"], json!(["LlamaForCausalLM"]));
    }
}

#[test]
fn whatever_a_path_is_opens() {
    let dir = tempfile::tempdir().unwrap();
    let inside = dir.path().join("model.gguf");
    std::fs::copy(golden("tiny.gguf"), &inside).unwrap();
    for path in [dir.path(), &inside] {
        let model = AnyModel::open(path).unwrap();
        assert!(matches!(model, AnyModel::Gguf(_)));
        assert_eq!(model.path(), inside);
        assert_eq!(model.decisive_files(), std::slice::from_ref(&inside));
        let error = Checkpoint::open(path).unwrap_err();
        assert!(error.to_string().contains("model.gguf: is a GGUF file, needed is"), "{error}");
        assert!(error.hint().is_some());
    }
    std::fs::write(dir.path().join("config.json"), "{}").unwrap();
    assert!(matches!(AnyModel::open(dir.path()).unwrap(), AnyModel::Gguf(_)));
    std::fs::copy(&inside, dir.path().join("other.gguf")).unwrap();
    let error = AnyModel::open(dir.path()).unwrap_err();
    assert!(error.to_string().ends_with("holds 2 GGUF files"), "{error}");
    std::fs::write(dir.path().join("model.safetensors"), "").unwrap();
    let error = AnyModel::open(dir.path()).unwrap_err();
    assert!(error.to_string().contains("model.safetensors: 0 bytes"), "{error}");
    let error = AnyModel::open(dir.path().join("gone.gguf")).unwrap_err();
    assert!(error.to_string().contains("gone.gguf"), "{error}");
}

#[test]
fn inspection_counts_what_is_stored() {
    let model = AnyModel::open(golden("tiny.gguf")).unwrap();
    let found = inspect(&model).unwrap();
    assert_eq!((found.num_layers, found.shards, found.experts), (2, 1, None));
    assert_eq!((found.layout.as_str(), found.model_type.as_str()), ("dense", "llama"));
    let parameters: usize = model.manifest().tensors().iter().map(|t| t.elements()).sum();
    assert_eq!(found.parameters, parameters as u64);
    let mlp = &found.roles[&darwin_checkpoint::Role::Mlp];
    assert_eq!(mlp.tensors, 6);
    let kinds = json!({"Q4_0": 1, "Q4_1": 2, "bfloat16": 1, "float16": 1, "float32": 1});
    assert_eq!(json!(mlp.dtypes), kinds);
    let names: Vec<&str> = model.stored().iter().map(|s| s.name).collect();
    assert!(names.contains(&"blk.1.ffn_down.weight"), "{names:?}");
}
