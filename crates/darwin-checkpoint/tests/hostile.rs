//! One test for each way in which a checkpoint can lie; every answer is a sentence that names file
//! and tensor.

#![allow(clippy::disallowed_methods, reason = "a test may write plainly")]

use darwin_checkpoint::{Checkpoint, Error, TensorSource, read_tensor};
use darwin_core::{Diagnose, Fault};
use std::path::Path;

/// A shard with this header and this many bytes of data.
fn shard(path: &Path, header: &str, data: usize) {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    bytes.resize(bytes.len() + data, 0);
    std::fs::write(path, bytes).expect("write");
}

fn folder(header: &str, data: usize) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("tempdir");
    std::fs::write(dir.path().join("config.json"), "{\"model_type\":\"llama\"}").expect("write");
    shard(&dir.path().join("model.safetensors"), header, data);
    dir
}

fn error(dir: &tempfile::TempDir) -> String {
    let error = Checkpoint::open(dir.path()).expect_err("must not open");
    assert_eq!(error.fault(), Fault::User);
    assert!(error.hint().is_some(), "no hint: {error}");
    error.to_string().replace(&dir.path().display().to_string(), "DIR")
}

fn check(header: &str, data: usize, expected: &str) {
    assert_eq!(error(&folder(header, data)), expected);
}

#[test]
fn header_larger_than_the_file() {
    let dir = folder("{}", 0);
    std::fs::write(dir.path().join("model.safetensors"), 1_000_u64.to_le_bytes()).expect("write");
    assert_eq!(error(&dir), "DIR/model.safetensors: its header claims 1000 bytes, the file has 8");
    std::fs::write(dir.path().join("model.safetensors"), [1, 2]).expect("write");
    assert_eq!(error(&dir), "DIR/model.safetensors: 2 bytes are too few for a safetensors file");
}

#[test]
fn truncated_data() {
    check(
        r#"{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}"#,
        12,
        "DIR/model.safetensors: tensor `a`: ends at byte 16 of the data, the file has 12 (truncated)",
    );
}

#[test]
fn offsets_that_do_not_fit_the_shape() {
    check(
        r#"{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,8]}}"#,
        16,
        "DIR/model.safetensors: tensor `a`: offsets 0..8 do not hold shape [4] of F32 (16 bytes)",
    );
    check(
        r#"{"a":{"dtype":"F32","shape":[4],"data_offsets":[16,0]}}"#,
        16,
        "DIR/model.safetensors: tensor `a`: offsets 16..0 do not hold shape [4] of F32 (16 bytes)",
    );
}

#[test]
fn overflowing_shape() {
    check(
        r#"{"a":{"dtype":"F32","shape":[4294967296,4294967296,2],"data_offsets":[0,8]}}"#,
        16,
        "DIR/model.safetensors: tensor `a`: shape [4294967296, 4294967296, 2] overflows",
    );
}

#[test]
fn overlapping_tensors() {
    check(
        r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}"#,
        12,
        "DIR/model.safetensors: tensors `a` and `b` overlap",
    );
}

#[test]
fn duplicate_tensors() {
    check(
        r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"a":{"dtype":"F32","shape":[2],"data_offsets":[8,16]}}"#,
        16,
        "DIR/model.safetensors: tensor `a` appears twice",
    );
}

#[test]
fn unknown_dtype_and_broken_json() {
    check(
        r#"{"a":{"dtype":"Q4","shape":[2],"data_offsets":[0,8]}}"#,
        8,
        "DIR/model.safetensors: tensor `a`: unknown dtype `Q4`",
    );
    let text = error(&folder("{\"a\":", 0));
    assert!(text.starts_with("DIR/model.safetensors: its header is not the JSON"), "{text}");
}

#[test]
fn all_problems_come_at_once() {
    let text = error(&folder(
        r#"{"a":{"dtype":"Q4","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[9],"data_offsets":[0,8]}}"#,
        8,
    ));
    assert!(text.contains("tensor `a`") && text.contains("tensor `b`"), "{text}");
}

#[test]
fn an_index_that_leaves_the_folder() {
    let dir = folder("{}", 0);
    let index = r#"{"weight_map":{"a":"../evil.safetensors","b":"/etc/passwd"}}"#;
    std::fs::write(dir.path().join("model.safetensors.index.json"), index).expect("write");
    let text = error(&dir);
    assert!(
        text.contains("names the file `../evil.safetensors` outside the folder")
            && text.contains("`/etc/passwd` outside the folder"),
        "{text}"
    );
}

#[test]
fn a_missing_shard_and_an_index_of_another_download() {
    let dir = folder(r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#, 8);
    let index = r#"{"weight_map":{"b":"model.safetensors","c":"gone.safetensors"}}"#;
    std::fs::write(dir.path().join("model.safetensors.index.json"), index).expect("write");
    let text = error(&dir);
    for part in [
        "DIR/gone.safetensors: shard is missing",
        "tensor `b` is in the index but not in the shard",
        "tensor `a` is in the shard but not in the index",
    ] {
        assert!(text.contains(part), "{part} not in: {text}");
    }
}

#[test]
fn missing_folder_config_and_weights() {
    let dir = tempfile::tempdir().expect("tempdir");
    assert_eq!(error(&dir), "DIR: no config.json");
    std::fs::write(dir.path().join("config.json"), "{").expect("write");
    assert!(error(&dir).starts_with("DIR/config.json: not valid JSON"));
    std::fs::write(dir.path().join("config.json"), "{}").expect("write");
    assert_eq!(error(&dir), "DIR: neither model.safetensors nor model.safetensors.index.json");
    let gone = Checkpoint::open(dir.path().join("gone")).expect_err("gone");
    assert!(gone.to_string().ends_with("gone: no such folder"));
}

#[test]
fn an_expert_that_is_missing_or_of_another_shape() {
    let e = |j: usize, part: &str, shape: &str, at: usize| {
        format!(
            r#""model.layers.0.mlp.experts.{j}.{part}.weight":{{"dtype":"F32","shape":{shape},"data_offsets":[{},{}]}}"#,
            8 * at,
            8 * at + 8
        )
    };
    let whole =
        [e(0, "gate_proj", "[1,2]", 0), e(0, "up_proj", "[1,2]", 1), e(1, "gate_proj", "[1,2]", 2)];
    check(
        &format!("{{{}}}", whole.join(",")),
        24,
        "DIR: `layers.0.mlp.experts.1.up_proj.weight` is missing",
    );
    let odd = [e(0, "down_proj", "[1,2]", 0), e(1, "down_proj", "[2,1]", 1)];
    check(
        &format!("{{{}}}", odd.join(",")),
        16,
        "DIR: tensor `model.layers.0.mlp.experts.1.down_proj.weight` is F32 [2, 1], the other experts of its layer are F32 [1, 2]",
    );
}

#[test]
fn an_unknown_tensor_in_a_known_family() {
    let dir =
        folder(r#"{"model.layers.0.mystery":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#, 8);
    std::fs::write(dir.path().join("config.json"), "{\"model_type\":\"qwen3_5_moe\"}")
        .expect("write");
    let model = Checkpoint::open(dir.path()).expect("headers are fine");
    let text = model.check_known().expect_err("unknown").to_string();
    assert!(text.contains("unknown tensor `model.layers.0.mystery`"), "{text}");
}

#[test]
fn a_nan_names_its_place() {
    let dir = folder(r#"{"a":{"dtype":"BF16","shape":[2,2],"data_offsets":[0,8]}}"#, 8);
    let path = dir.path().join("model.safetensors");
    let mut bytes = std::fs::read(&path).expect("read");
    let at = bytes.len() - 2;
    bytes[at..].copy_from_slice(&0x7fc0_u16.to_le_bytes());
    std::fs::write(&path, bytes).expect("write");
    let model = Checkpoint::open(dir.path()).expect("headers are fine");
    let id = model.manifest().find("a").expect("there");
    let error = read_tensor(&model, id).expect_err("NaN");
    assert!(matches!(error, Error::NotFinite { element: 3, .. }), "{error}");
    assert!(error.to_string().contains("model.safetensors: tensor `a` holds NaN at element 3"));
}

proptest::proptest! {
    /// Whatever the bytes, opening answers and does not panic or allocate beyond the file.
    #[test]
    fn any_bytes_get_an_answer(bytes in proptest::collection::vec(0_u8.., 0..200), lie in 0_u64..300) {
        let dir = folder("{}", 0);
        let mut file = lie.to_le_bytes().to_vec();
        file.extend_from_slice(&bytes);
        std::fs::write(dir.path().join("model.safetensors"), file).expect("write");
        let _ = Checkpoint::open(dir.path());
    }
}
