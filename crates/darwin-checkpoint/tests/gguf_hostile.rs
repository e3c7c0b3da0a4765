//! One test for each way in which a GGUF file can lie; every answer is a sentence that names file
//! and tensor or key.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "a test may write plainly")]

use darwin_checkpoint::{Error, Gguf, TensorSource, read_tensor};
use darwin_core::{Diagnose, Fault};
use darwin_testkit::{GgufFile, GgufTensor, GgufValue};
use std::path::PathBuf;

fn open(bytes: &[u8]) -> Result<Gguf, Error> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    std::fs::write(&path, bytes).unwrap();
    Gguf::open(path)
}

fn error(bytes: &[u8]) -> String {
    let error = open(bytes).expect_err("must not open");
    assert_eq!(error.fault(), Fault::User);
    assert!(error.hint().is_some(), "no hint: {error}");
    let text = error.to_string();
    let folder = text.split("m.gguf").next().unwrap().to_owned();
    text.replace(&folder, "")
}

fn check(file: &GgufFile, expected: &str) {
    assert_eq!(error(&file.to_bytes()), expected);
}

fn text(value: &str) -> GgufValue {
    GgufValue::Text(value.to_owned())
}

fn tensor(kind: u32, dims: &[u64], bytes: usize, offset: Option<u64>) -> GgufFile {
    let mut file = GgufFile::llama();
    file.tensors.push(GgufTensor {
        name: "output.weight".to_owned(),
        dims: dims.to_vec(),
        kind,
        bytes: vec![0; bytes],
        offset,
    });
    file
}

#[test]
fn the_smallest_model_opens() {
    let model = open(&GgufFile::llama().to_bytes()).unwrap();
    assert_eq!(model.manifest().tensors().len(), 1);
    assert_eq!(model.config()["tie_word_embeddings"], true);
    assert_eq!(model.config()["rope_parameters"]["rope_theta"], 1e4);
}

#[test]
fn other_files_and_versions() {
    let starts_so = |bytes: &[u8], start: &str| {
        let text = error(bytes);
        assert!(text.starts_with(start), "{text}");
    };
    starts_so(b"", "m.gguf: its first bytes needs 4 bytes from byte 0 on, the file has 0");
    starts_so(b"PK\x03\x04....", "m.gguf: begins with [80, 75, 3, 4], a GGUF file with");
    starts_so(b"GGUF\x01\0\0\0", "m.gguf: is GGUF version 1, supported are 2 and 3");
    starts_so(b"GGUF\x09\0\0\0", "m.gguf: is GGUF version 9, supported are 2 and 3");
    starts_so(b"GGUF\0\0\0\x03", "m.gguf: is a GGUF file for machines whose bytes lie the other");
}

#[test]
fn lengths_beyond_the_file() {
    let mut file = b"GGUF\x03\0\0\0".to_vec();
    file.extend(1_u64.to_le_bytes());
    file.extend(u64::MAX.to_le_bytes());
    file.extend((u64::MAX / 2).to_le_bytes());
    assert_eq!(
        error(&file),
        "m.gguf: the name of key 0 needs 9223372036854775807 bytes from byte 32 on, the file has 32"
    );
    let many = [8_u32.to_le_bytes().to_vec(), (1_u64 << 61).to_le_bytes().to_vec()].concat();
    let list = GgufFile::llama().with("a.list", GgufValue::Raw(9, many));
    assert!(
        error(&list.to_bytes()).contains("the value of key `a.list` needs 18446744073709551615")
    );
}

#[test]
fn keys_that_cannot_be_read() {
    let raw = |kind: u32, bytes: &[u8]| {
        GgufFile::llama().with("some.key", GgufValue::Raw(kind, bytes.to_vec()))
    };
    check(&raw(99, &[]), "m.gguf: key `some.key` has type 99, known are 0 to 12");
    check(&raw(7, &[7]), "m.gguf: key `some.key` is 7, needed is 0 or 1");
    let nested = [9_u32.to_le_bytes().to_vec(), 1_u64.to_le_bytes().to_vec()].concat();
    check(&raw(9, &nested), "m.gguf: key `some.key` is a list of lists, which is not read");
    let latin = [2_u64.to_le_bytes().to_vec(), b"\xe9t".to_vec()].concat();
    let found = error(&raw(8, &latin).to_bytes());
    assert!(found.contains("the value of key `some.key` is no UTF-8 text"), "{found}");
    let mut twice = GgufFile::llama();
    twice.keys.push(twice.keys[2].clone());
    check(&twice, "m.gguf: key `llama.context_length` appears twice");
}

#[test]
fn types_that_are_not_read_are_named_once() {
    let mut file = tensor(12, &[256, 3], 144 * 3, None);
    let expected = "supported are F32, F16, BF16, Q8_0, Q4_0 and Q4_1";
    check(&file, &format!("m.gguf: tensor `output.weight` is Q4_K, {expected}"));
    let other = GgufTensor { name: "output_norm.weight".to_owned(), ..file.tensors[1].clone() };
    file.tensors.push(other);
    check(&file, &format!("m.gguf: 2 tensors, the first `output.weight`, are Q4_K, {expected}"));
    let unknown = tensor(77, &[4, 3], 48, None);
    check(&unknown, &format!("m.gguf: tensor `output.weight` is of unknown type 77, {expected}"));
}

#[test]
fn tensors_that_do_not_fit_the_file() {
    let wrong = |file: GgufFile, found: &str| {
        check(&file, &format!("m.gguf: tensor `output.weight`: {found}"));
    };
    let whole = tensor(0, &[4, 3], 48, None).to_bytes();
    let length = whole.len() - 32;
    let expected = format!("ends at byte {}, the file has {length} (truncated)", whole.len() - 16);
    assert_eq!(error(&whole[..length]), format!("m.gguf: tensor `output.weight`: {expected}"));
    wrong(tensor(0, &[4, 3], 48, Some(68)), "begins at byte 68 of the data, no multiple of 32");
    wrong(tensor(0, &[4, 0], 0, None), "its shape [4, 0] has a 0");
    wrong(tensor(8, &[33, 3], 99, None), "rows of 33 are no whole blocks of 32 (Q8_0)");
    let huge = [1 << 40, 1 << 40];
    wrong(tensor(0, &huge, 48, None), "its shape [1099511627776, 1099511627776] overflows");
    let last = u64::MAX - 31;
    wrong(tensor(0, &[4, 3], 48, Some(last)), &format!("its offset {last} overflows"));
    check(
        &tensor(0, &[4, 3, 1, 1, 1], 48, None),
        "m.gguf: tensor `output.weight` has 5 dimensions, allowed are 1 to 4",
    );
    check(
        &tensor(0, &[4, 3], 48, Some(32)),
        "m.gguf: tensors `token_embd.weight` and `output.weight` overlap",
    );
    let mut twice = tensor(0, &[4, 3], 48, None);
    twice.tensors[1].name = "token_embd.weight".to_owned();
    check(&twice, "m.gguf: tensor `token_embd.weight` appears twice");
    for alignment in [0, 24, 1 << 30] {
        let file = GgufFile::llama().with("general.alignment", GgufValue::U32(alignment));
        let found = error(&file.to_bytes());
        assert!(found.contains("`general.alignment` is"), "{found}");
    }
}

#[test]
fn all_problems_come_at_once() {
    let mut file = tensor(12, &[256, 3], 432, None);
    file.tensors[0].offset = Some(5);
    let found = error(&file.to_bytes());
    assert!(found.contains("`output.weight` is Q4_K") && found.contains("`token_embd.weight`"));
    let file = GgufFile::llama().without("llama.block_count").without("llama.context_length");
    let found = error(&file.to_bytes());
    assert!(
        found.contains("block_count` is missing") && found.contains("context_length` is missing")
    );
}

#[test]
fn models_that_are_not_read() {
    let with = |key: &str, value: GgufValue| GgufFile::llama().with(key, value);
    check(
        &with("general.architecture", text("gemma3")),
        "m.gguf: key `general.architecture` is `gemma3`, supported is `llama`",
    );
    check(
        &GgufFile::llama().without("general.architecture"),
        "m.gguf: key `general.architecture` is missing, needed is `llama`",
    );
    check(
        &with("general.type", text("adapter")),
        "m.gguf: key `general.type` is `adapter`, needed is `model`: adapters and towers are no models",
    );
    check(
        &with("split.count", GgufValue::U32(3)),
        "m.gguf: key `split.count` says that this is one of several files",
    );
    check(
        &with("llama.expert_count", GgufValue::U32(8)),
        "m.gguf: key `llama.expert_count` says that this is a mixture of experts, which is not read from GGUF",
    );
    check(
        &with("llama.logit_scale", GgufValue::F32(0.5)),
        "m.gguf: key `llama.logit_scale` is not known, and may change what the model computes",
    );
    check(
        &with("llama.rope.scaling.type", text("longrope")),
        "m.gguf: key `llama.rope.scaling.type` is `longrope`, needed is none, linear or yarn",
    );
    let mut vocabulary = GgufFile::llama();
    vocabulary.tensors.clear();
    check(&vocabulary, "m.gguf: tensor `token_embd.weight` is missing");
}

#[test]
fn numbers_that_contradict_each_other() {
    let with = |key: &str, n: u32| GgufFile::llama().with(key, GgufValue::U32(n));
    check(
        &with("llama.vocab_size", 4),
        "m.gguf: key `llama.vocab_size` is 4, needed is 3, the rows of `token_embd.weight`",
    );
    check(
        &with("llama.rope.dimension_count", 1),
        "m.gguf: key `llama.rope.dimension_count` is 1, needed is the width of a head, 2",
    );
    check(
        &with("llama.attention.head_count_kv", 3),
        "m.gguf: key `llama.attention.head_count_kv` is 3, needed is a divisor of 2",
    );
    check(
        &with("tokenizer.ggml.eos_token_id", 3),
        "m.gguf: key `tokenizer.ggml.eos_token_id` is 3, needed is a token id below 3",
    );
    check(
        &with("llama.attention.key_length", 1),
        "m.gguf: its heads are 1 wide, needed is an even width",
    );
    let list = GgufFile::llama().with("llama.attention.head_count", GgufValue::I32s(vec![2, 2]));
    let found = error(&list.to_bytes());
    assert!(
        found.contains("head_count` is a list of 2 numbers, needed is a whole number"),
        "{found}"
    );
}

#[test]
fn tensors_that_do_not_fit_the_model() {
    let and = |name: &str, dims: &[u64]| {
        let values = vec![0.0; dims.iter().product::<u64>() as usize];
        GgufFile::llama().and(GgufTensor::f32(name, dims, &values))
    };
    check(
        &and("blk.0.ffn_gate_exps.weight", &[4, 8, 2]),
        "m.gguf: 1 tensors are none of a Llama model's, the first is `blk.0.ffn_gate_exps.weight`",
    );
    check(
        &and("blk.0.attn_q.weight", &[4, 6]),
        "m.gguf: tensor `blk.0.attn_q.weight` has 6 rows, needed are 2 heads of 2",
    );
    check(
        &and("blk.1.ffn_up.weight", &[4, 8]),
        "m.gguf: tensor `blk.1.ffn_up.weight` lies beyond `llama.block_count` = 1",
    );
    check(
        &and("blk.0.attn_q.bias", &[4]),
        "m.gguf: 1 of the 4 projections like `self_attn.q_proj` have a bias, needed are all or none",
    );
    check(
        &and("rope_freqs.weight", &[3]),
        "m.gguf: the 3 factors of `rope_freqs.weight` are not those of Llama 3 for heads of 2",
    );
}

#[test]
fn a_nan_names_its_place() {
    let mut file = GgufFile::llama();
    file.tensors[0] = GgufTensor::f32("token_embd.weight", &[4, 3], &[f32::NAN; 12]);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    std::fs::write(&path, file.to_bytes()).unwrap();
    let model = Gguf::open(&path).unwrap();
    let found = read_tensor(&model, model.manifest().find("embed_tokens.weight").unwrap());
    let text = found.unwrap_err().to_string();
    assert!(text.ends_with("m.gguf: tensor `token_embd.weight` holds NaN at element 0"), "{text}");
}

/// A file that shrinks while it is open is an error, too.
#[test]
fn a_file_that_is_cut_while_open() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    let bytes = GgufFile::llama().to_bytes();
    std::fs::write(&path, &bytes).unwrap();
    let model = Gguf::open(&path).unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(bytes.len() as u64 - 48).unwrap();
    let found = read_tensor(&model, model.manifest().find("embed_tokens.weight").unwrap());
    assert!(found.unwrap_err().to_string().contains("cannot read"));
}

/// Opens bytes, and reads everything where that works.
fn answers(bytes: &[u8]) -> bool {
    let Ok(model) = open(bytes) else { return false };
    for id in model.manifest().ids() {
        let _ = read_tensor(&model, id);
    }
    let _ = (model.tokenizer_json(), model.chat_template());
    true
}

/// A generator of numbers, for places and values to spoil.
fn next(state: &mut u64) -> usize {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*state >> 33) as usize
}

#[test]
fn spoilt_and_cut_files_get_an_answer() {
    let fixtures =
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../darwin-testkit/fixtures/golden/gguf");
    let mut opened = [0; 2];
    for (file, header) in [("tiny.gguf", 14_000), ("tied.gguf", 3_000)] {
        let whole = std::fs::read(fixtures.join(file)).unwrap();
        assert!(answers(&whole), "{file}");
        let mut state = 7;
        for round in 0..1_500 {
            let mut bytes = whole.clone();
            if round % 3 == 0 {
                bytes.truncate(next(&mut state) % whole.len());
            }
            for _ in 0..next(&mut state) % 4 {
                // nearly always in the header, where every byte means something
                let within = if round % 10 == 0 { bytes.len() } else { header.min(bytes.len()) };
                if within > 0 {
                    let at = next(&mut state) % within;
                    bytes[at] = match round % 4 {
                        0 => 0xff,
                        1 => bytes[at] ^ (1 << (next(&mut state) % 8)),
                        _ => next(&mut state) as u8,
                    };
                }
            }
            opened[usize::from(answers(&bytes))] += 1;
        }
    }
    assert!(opened.iter().all(|count| *count > 100), "both happen: {opened:?}");
}

proptest::proptest! {
    /// Whatever the bytes behind a right beginning, opening answers and does not panic.
    #[test]
    fn any_bytes_get_an_answer(
        bytes in proptest::collection::vec(0_u8.., 0..300),
        tensors in 0_u64..3,
        keys in 0_u64..3,
    ) {
        let mut file = b"GGUF\x03\0\0\0".to_vec();
        file.extend(tensors.to_le_bytes());
        file.extend(keys.to_le_bytes());
        file.extend_from_slice(&bytes);
        answers(&file);
    }
}
