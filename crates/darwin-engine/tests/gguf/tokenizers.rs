//! Every way of cutting text that is read, and what is refused (tools/oracle/gguf_tokenizers.py).

use super::{ids, record};
use darwin_checkpoint::Gguf;
use darwin_core::{Diagnose, Fault};
use darwin_engine::{Error, Text};
use darwin_testkit::{GgufFile, GgufTensor, GgufValue};
use serde_json::Value;
use std::path::PathBuf;
use tokenizers::Tokenizer;

fn texts(list: &Value) -> Vec<String> {
    list.as_array().unwrap().iter().map(|s| s.as_str().unwrap().to_owned()).collect()
}

/// A model with the golden vocabulary.
fn model(pre: &str) -> GgufFile {
    let golden = record("gguf/tokenizers.json");
    let tokens = texts(&golden["tokens"]);
    let kinds = ids(&golden["kinds"]).into_iter().map(|kind| kind as i32).collect();
    let mut file = GgufFile::llama();
    let rows = tokens.len();
    file.tensors =
        vec![GgufTensor::f32("token_embd.weight", &[4, rows as u64], &vec![0.0; 4 * rows])];
    file.with("tokenizer.ggml.model", GgufValue::Text("gpt2".to_owned()))
        .with("tokenizer.ggml.pre", GgufValue::Text(pre.to_owned()))
        .with("tokenizer.ggml.tokens", GgufValue::Texts(tokens))
        .with("tokenizer.ggml.token_type", GgufValue::I32s(kinds))
        .with("tokenizer.ggml.merges", GgufValue::Texts(texts(&golden["merges"])))
        .with("tokenizer.ggml.bos_token_id", GgufValue::U32(0))
        .with("tokenizer.ggml.eos_token_id", GgufValue::U32(2))
}

fn written(file: &GgufFile) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    std::fs::write(&path, file.to_bytes()).unwrap();
    (dir, path)
}

fn open(file: &GgufFile) -> Result<Text, Error> {
    Text::open(&written(file).1)
}

/// A text that stands alone has the special tokens around it that the file asks for.
#[test]
fn texts_that_stand_alone_are_framed() {
    let alone = |file: &GgufFile| {
        let (_dir, path) = written(file);
        let json = Gguf::open(path).unwrap().tokenizer_json().unwrap().to_string();
        let tokenizer = Tokenizer::from_bytes(json).unwrap();
        let ids = |special| tokenizer.encode("x", special).unwrap().get_ids().to_vec();
        let (framed, bare) = (ids(true), ids(false));
        let at = framed.windows(bare.len()).position(|part| part == bare).unwrap();
        (framed[..at].to_vec(), framed[at + bare.len()..].to_vec())
    };
    let key = |end: &str| format!("tokenizer.ggml.add_{end}_token");
    let (smollm, llama) = (model("smollm"), model("llama-bpe"));
    assert_eq!(alone(&smollm), (vec![], vec![]));
    assert_eq!(alone(&llama), (vec![0], vec![]));
    assert_eq!(alone(&llama.clone().with(&key("bos"), GgufValue::Bool(false))), (vec![], vec![]));
    let both = smollm.with(&key("bos"), GgufValue::Bool(true));
    assert_eq!(alone(&both.with(&key("eos"), GgufValue::Bool(true))), (vec![0], vec![2]));
    check(
        &llama.clone().without("tokenizer.ggml.bos_token_id"),
        "key `tokenizer.ggml.bos_token_id` is missing, and is to be added to every text",
    );
    check(
        &llama.with(&key("eos"), GgufValue::U32(1)),
        "add_eos_token` is 1, needed is true or false",
    );
}

#[test]
fn every_pre_tokenizer_cuts_as_its_library_does() {
    let golden = record("gguf/tokenizers.json");
    let inputs = texts(&golden["texts"]);
    let cases = golden["cases"].as_object().unwrap();
    assert_eq!((cases.len(), inputs.len() > 40), (5, true));
    for (pre, wanted) in cases {
        let text = open(&model(pre)).unwrap();
        for (input, wanted) in inputs.iter().zip(wanted.as_array().unwrap()) {
            assert_eq!(text.encode(input).unwrap(), ids(wanted), "{pre}: {input:?}");
        }
    }
}

#[test]
fn texts_come_back() {
    for pre in ["smollm", "gpt-2", "llama-bpe", "default"] {
        let text = open(&model(pre)).unwrap();
        for input in texts(&record("gguf/tokenizers.json")["texts"]) {
            assert_eq!(text.decode(&text.encode(&input).unwrap(), false), input, "{pre}");
        }
    }
}

fn check(file: &GgufFile, expected: &str) {
    let error = open(file).unwrap_err();
    assert_eq!(error.fault(), Fault::User);
    assert!(error.hint().is_some(), "no hint: {error}");
    let text = error.to_string();
    assert!(text.contains(expected), "`{expected}` is not in: {text}");
}

#[test]
fn what_is_not_read_is_named() {
    let with =
        |key: &str, value: GgufValue| model("smollm").with(&format!("tokenizer.{key}"), value);
    let text = |s: &str| GgufValue::Text(s.to_owned());
    check(&GgufFile::llama(), "m.gguf: key `tokenizer.ggml.model` is missing, supported is `gpt2`");
    check(
        &with("ggml.model", text("llama")),
        "`tokenizer.ggml.model` is `llama`, supported is `gpt2`",
    );
    let known = "supported are smollm, qwen2, llama-bpe, llama3, llama-v3, gpt-2, default";
    check(&with("ggml.pre", text("tekken")), &format!("`tokenizer.ggml.pre` is `tekken`, {known}"));
    check(&model("smollm").without("tokenizer.ggml.pre"), "`tokenizer.ggml.pre` is missing");
    check(
        &with("ggml.add_space_prefix", GgufValue::Bool(true)),
        "`tokenizer.ggml.add_space_prefix` is true, supported is false",
    );
    check(
        &with("chat_template", GgufValue::U32(1)),
        "`tokenizer.chat_template` is 1, needed is a text",
    );
    check(&with("chat_template", text("{% for %}")), "m.gguf: not a chat template");
}

#[test]
fn parts_must_fit_each_other() {
    let with =
        |key: &str, value: GgufValue| model("smollm").with(&format!("tokenizer.ggml.{key}"), value);
    check(
        &with("tokens", GgufValue::Texts(vec![])),
        "tokens` is a list of 0 texts, needed are 422",
    );
    check(
        &with("token_type", GgufValue::I32s(vec![1])),
        "token_type` is a list of 1 numbers, needed are 422",
    );
    check(&with("token_type", GgufValue::I32s(vec![9; 422])), "token_type` has 9 for token 0");
    check(&with("token_type", GgufValue::Bool(true)), "token_type` is true");
    check(
        &model("gpt-2").without("tokenizer.ggml.merges"),
        "merges` is missing or no list of texts",
    );
    for merge in ["a", "", "Ġ t x", "zz t"] {
        let merges = GgufValue::Texts(vec![merge.to_owned()]);
        check(&with("merges", merges), "at 0, which does not merge two tokens to a third");
    }
    let mut tokens = texts(&record("gguf/tokenizers.json")["tokens"]);
    tokens[300] = tokens[5].clone();
    check(&with("tokens", GgufValue::Texts(tokens)), "as 5 and 300");
}
