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

/// Entries of these names, one byte each.
fn named(names: &[&str]) -> String {
    let entry = |(i, name): (usize, &&str)| {
        format!(r#""{name}":{{"dtype":"U8","shape":[1,1],"data_offsets":[{i},{}]}}"#, i + 1)
    };
    let entries: Vec<String> = names.iter().enumerate().map(entry).collect();
    format!("{{{}}}", entries.join(","))
}

#[test]
fn layers_and_experts_beyond_any_model() {
    for number in ["65536", "999999999", "18446744073709551615", "99999999999999999999999"] {
        for (name, what) in [
            (format!("model.layers.{number}.self_attn.q_proj.weight"), "layer"),
            (format!("model.layers.0.mlp.experts.{number}.down_proj.weight"), "expert"),
            (format!("mtp.layers.0.mlp.experts.{number}.gate_proj.weight"), "expert"),
            (format!("model.layers.0.block_sparse_moe.experts.{number}.w2.weight"), "expert"),
        ] {
            let expected =
                format!("DIR: tensor `{name}` belongs to {what} {number}, allowed are 0 to 65535");
            check(&named(&[&name]), 1, &expected);
        }
    }
    check(
        r#"{"layers.0.mlp.experts.down_proj":{"dtype":"U8","shape":[65537,1,1],"data_offsets":[0,65537]}}"#,
        65537,
        "DIR: tensor `layers.0.mlp.experts.down_proj` holds 65537 experts, allowed are 65536",
    );
    let dir = folder(&named(&["model.layers.65535.self_attn.q_proj.weight"]), 1);
    assert_eq!(Checkpoint::open(dir.path()).expect("is read").manifest().num_layers(), 65_536);
}

#[test]
fn missing_experts_are_one_line() {
    let down = |expert: usize| format!("model.layers.3.mlp.experts.{expert}.down_proj.weight");
    let of = "layers.3.mlp.experts";
    let missing = |experts: &[usize], expected: &str| {
        let names: Vec<String> = experts.iter().map(|expert| down(*expert)).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        check(&named(&names), names.len(), &format!("DIR: {expected}"));
    };
    missing(&[0, 2], &format!("`{of}.1.down_proj.weight` is missing"));
    let (one, four) = (format!("`{of}.1.down_proj.weight`"), format!("`{of}.4.down_proj.weight`"));
    missing(&[0, 5], &format!("4 tensors from {one} to {four} are missing"));
    missing(&[0, 2, 3, 5], &format!("2 tensors from {one} to {four} are missing"));
    let (first, last) = ("0.down_proj.weight", "65534.down_proj.weight");
    missing(&[65_535], &format!("65535 tensors from `{of}.{first}` to `{of}.{last}` are missing"));
    // Many groups, each with one expert: no loop over all that could be there.
    let names: Vec<String> =
        (0..20_000).map(|i| format!("x{i}.mlp.experts.65535.down_proj.weight")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let text = error(&folder(&named(&names), names.len()));
    assert!(text.lines().count() <= 101 && text.contains("more problems"), "{}", text.len());
}

#[test]
fn two_names_of_one_expert() {
    let names =
        ["model.layers.0.mlp.experts.0.down_proj.weight", "layers.0.mlp.experts.0.w2.weight"];
    let text = format!("DIR: `{}` and `{}` are the same tensor", names[0], names[1]);
    check(&named(&names), 2, &text);
}

#[test]
fn tensors_without_elements_cost_nothing() {
    let header = r#"{"a":{"dtype":"F32","shape":[4398046511104,0],"data_offsets":[0,0]}}"#;
    check(
        header,
        0,
        "DIR/model.safetensors: tensor `a`: shape [4398046511104, 0] has no elements and more than 2147483648 rows",
    );
    let dir = folder(&header.replace("4398046511104", "2147483648"), 0);
    let model = Checkpoint::open(dir.path()).expect("is read");
    let id = model.manifest().find("a").expect("there");
    assert_eq!(read_tensor(&model, id).expect("nothing to read"), [0.0; 0]);
    let out = dir.path().join("out");
    let options = darwin_checkpoint::WriteOptions {
        max_shard_bytes: 1 << 30,
        memory: 1 << 20,
        side_files: Vec::new(),
        documents: vec![("config.json".to_owned(), b"{}".to_vec())],
        identity: None,
        progress: &darwin_core::NoProgress,
        cancel: &darwin_core::Cancel::default(),
    };
    darwin_checkpoint::write_checkpoint(&model, model.layout(), &out, &options).expect("written");
    let written = Checkpoint::open(&out).expect("is read");
    assert_eq!(written.layout().stored[0].shape, [1 << 31, 0]);
}

#[test]
fn bytes_that_belong_to_no_tensor() {
    let header = r#"{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}}"#;
    let text = "DIR/model.safetensors: 5 bytes behind the last tensor belong to none";
    check(header, 7, text);
}

#[test]
fn headers_that_are_large_for_nothing() {
    let start = std::time::Instant::now();
    let zeros = vec!["0"; 10_000_000].join(",");
    let header = format!(r#"{{"a":{{"dtype":"U8","shape":[{zeros}],"data_offsets":[0,0]}}}}"#);
    check(&header, 0, "DIR/model.safetensors: tensor `a`: has 10000000 dimensions, allowed are 8");
    let deep = format!(r#"{{"a":{}1{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
    check(
        &deep,
        0,
        "DIR/model.safetensors: tensor `a`: its header entry is malformed (it is a list, needed is an object)",
    );
    assert!(start.elapsed().as_secs() < 30, "{:?}", start.elapsed());
}

#[test]
fn files_that_are_no_files() {
    let pipe = |path: &Path| {
        let _ = std::fs::remove_file(path);
        let made = std::process::Command::new("mkfifo").arg(path).status();
        assert!(made.is_ok_and(|status| status.success()), "mkfifo makes a pipe");
    };
    let good = r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}"#;
    let link = |dir: &tempfile::TempDir, name: &str| {
        let _ = std::fs::remove_file(dir.path().join(name));
        std::os::unix::fs::symlink("/dev/zero", dir.path().join(name)).expect("link");
    };
    let dir = folder(good, 1);
    pipe(&dir.path().join("model.safetensors"));
    let text = "DIR/model.safetensors: is no shard: it is a named pipe, not a regular file";
    assert_eq!(error(&dir), text);
    for name in ["config.json", "model.safetensors.index.json"] {
        let dir = folder(good, 1);
        link(&dir, name);
        let failure = darwin_core::Failure::from(Checkpoint::open(dir.path()).expect_err(name));
        let found = failure.to_string();
        assert_eq!(failure.fault(), Fault::User);
        assert!(
            found.contains(name) && found.ends_with("it is a device, not a regular file"),
            "{found}"
        );
        pipe(&dir.path().join(name));
        assert!(Checkpoint::open(dir.path()).is_err());
    }
    // What is read for its licence alone is passed over.
    let dir = folder(good, 1);
    pipe(&dir.path().join("README.md"));
    link(&dir, "LICENSE");
    let model = Checkpoint::open(dir.path()).expect("is read");
    assert_eq!(model.license().expect("none"), None);
    let text = darwin_checkpoint::Gguf::open("/dev/zero").expect_err("a device");
    assert_eq!(text.fault(), Fault::User);
}

#[test]
fn configs_that_are_too_large_or_too_deep() {
    let dir = folder("{}", 0);
    let config = dir.path().join("config.json");
    std::fs::write(&config, format!("{{\"a\":{}1{}}}", "[".repeat(9000), "]".repeat(9000)))
        .expect("write");
    assert!(error(&dir).contains("recursion limit"), "{}", error(&dir));
    let file = std::fs::File::create(&config).expect("create");
    file.set_len(1 << 40).expect("a sparse file");
    let failure = darwin_core::Failure::from(Checkpoint::open(dir.path()).expect_err("too large"));
    assert!(failure.to_string().contains("allowed are 8388608"), "{failure}");
    assert_eq!(failure.fault(), Fault::User);
}

/// What a name, a shape or an offset of a whole file may be changed to.
fn changed() -> impl proptest::strategy::Strategy<Value = String> {
    use proptest::prelude::*;
    let number = prop_oneof![
        Just("0".to_owned()),
        Just("65535".to_owned()),
        Just("65536".to_owned()),
        Just("4294967296".to_owned()),
        Just("9223372036854775808".to_owned()),
        Just("18446744073709551615".to_owned()),
        Just("99999999999999999999".to_owned()),
        Just("-1".to_owned()),
        (0_u32..9).prop_map(|n| n.to_string()),
    ];
    let shape = proptest::collection::vec(number.clone(), 0..4).prop_map(|list| list.join(","));
    let part = prop_oneof![Just("gate_proj"), Just("up_proj"), Just("down_proj"), Just("w1")];
    let name = (number.clone(), number.clone(), part).prop_map(|(layer, expert, part)| {
        format!("model.layers.{layer}.mlp.experts.{expert}.{part}.weight")
    });
    let offsets = (number.clone(), number);
    let entry = (name, shape, offsets).prop_map(|(name, shape, (start, end))| {
        format!(r#""{name}":{{"dtype":"U8","shape":[{shape}],"data_offsets":[{start},{end}]}}"#)
    });
    proptest::collection::vec(entry, 1..4).prop_map(|entries| format!("{{{}}}", entries.join(",")))
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

    /// Whatever numbers names, shapes and offsets have, opening answers, and what opens is read.
    #[test]
    fn any_numbers_get_an_answer(header in changed(), data in 0_usize..9) {
        let dir = folder(&header, data);
        if let Ok(model) = Checkpoint::open(dir.path()) {
            for (id, info) in model.manifest().ids().zip(model.manifest().tensors()) {
                let mut bytes = Vec::new();
                model.read_raw(id, 0..info.rows(), &mut bytes).expect("is read");
                proptest::prop_assert_eq!(bytes.len(), info.elements());
            }
        }
    }
}
