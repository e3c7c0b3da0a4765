//! Checkpoints of given names, shapes and bytes.

#![allow(clippy::disallowed_methods, reason = "a test may write plainly")]
#![allow(dead_code, clippy::unwrap_used, reason = "shared by tests")]

use serde_json::{Map, Value, json};
use std::io::Write;
use std::path::Path;

/// Names and shapes, as the golden files list them.
pub(crate) fn shapes(listed: &Value) -> Vec<(String, Vec<usize>)> {
    let shape = |v: &Value| {
        v.as_array().unwrap().iter().map(|d| d.as_u64().unwrap() as usize).collect::<Vec<usize>>()
    };
    listed.as_object().unwrap().iter().map(|(name, v)| (name.clone(), shape(v))).collect()
}

/// Writes a checkpoint: (name, dtype's safetensors name, shape, bytes).
pub(crate) fn write(
    folder: &Path,
    config: &Value,
    tensors: &[(String, &str, Vec<usize>, Vec<u8>)],
) {
    std::fs::create_dir_all(folder).unwrap();
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let mut header = Map::new();
    let mut offset = 0;
    for (name, dtype, shape, bytes) in tensors {
        let end = offset + bytes.len();
        let entry = json!({"dtype": dtype, "shape": shape, "data_offsets": [offset, end]});
        header.insert(name.clone(), entry);
        offset = end;
    }
    let header = Value::Object(header).to_string();
    let mut file = std::fs::File::create(folder.join("model.safetensors")).unwrap();
    file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
    file.write_all(header.as_bytes()).unwrap();
    for (.., bytes) in tensors {
        file.write_all(bytes).unwrap();
    }
}

/// The same in bfloat16, with elements that count upwards from the sum of their name's bytes.
pub(crate) fn write_counting(folder: &Path, config: &Value, tensors: &[(String, Vec<usize>)]) {
    let tensors: Vec<_> = tensors
        .iter()
        .map(|(name, shape)| {
            let first = name.bytes().map(u16::from).sum::<u16>();
            let bytes = (0..shape.iter().product::<usize>())
                .flat_map(|i| (0x3c00 + (first.wrapping_add(i as u16) & 0xff)).to_le_bytes())
                .collect();
            (name.clone(), "BF16", shape.clone(), bytes)
        })
        .collect();
    write(folder, config, &tensors);
}
