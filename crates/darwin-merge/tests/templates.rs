//! Chat templates and tokenizers that a recipe asks for, in the folder of the child.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test")]

mod common;

use common::write_pair;
use darwin_core::{Cancel, Diagnose, NoProgress};
use darwin_merge::{ChatTemplate, Error, Merge, MergeOptions, Recipe, Sources, merge_to};
use minijinja::{Environment, context};
use serde_json::{Value, json};
use std::path::Path;

fn built_in(name: &str, messages: &Value, generate: bool) -> Result<String, String> {
    let (_, text) = ChatTemplate::BUILT_IN.iter().find(|(known, _)| *known == name).unwrap();
    let mut environment = Environment::new();
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.add_function(
        "raise_exception",
        |text: String| -> Result<String, minijinja::Error> {
            Err(minijinja::Error::new(minijinja::ErrorKind::InvalidOperation, text))
        },
    );
    let values = context! {
        messages, add_generation_prompt => generate, bos_token => "<s>", eos_token => "</s>"
    };
    environment.render_str(text, values).map_err(|e| e.to_string())
}

#[test]
fn built_in_templates_follow_their_formats() {
    let messages = json!([
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "2 + 3?"},
        {"role": "assistant", "content": "5"},
        {"role": "user", "content": "4 + 4?"},
    ]);
    assert_eq!(
        built_in("chatml", &messages, true).unwrap(),
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n2 + 3?<|im_end|>\n<|im_start|>assistant\n5<|im_end|>\n<|im_start|>user\n4 + 4?<|im_end|>\n<|im_start|>assistant\n"
    );
    assert_eq!(
        built_in("alpaca", &messages, true).unwrap(),
        "Be brief.\n\n### Instruction:\n2 + 3?\n\n### Response:\n5</s>\n\n### Instruction:\n4 + 4?\n\n### Response:\n"
    );
    assert_eq!(
        built_in("mistral", &messages, false).unwrap(),
        "<s>[INST] Be brief.\n\n2 + 3? [/INST] 5</s>[INST] 4 + 4? [/INST]"
    );
    let odd = json!([{"role": "tool", "content": "x"}]);
    assert!(built_in("mistral", &odd, false).unwrap_err().contains("the roles"));
    assert!(built_in("alpaca", &odd, false).unwrap_err().contains("the roles"));
}

/// mergekit's own templates for these formats write blanks and line ends that the formats do not
/// have (`tools/parity/templates.py`): all else is the same.
#[test]
fn llama3_and_exaone_say_what_mergekits_say() {
    let path = "../darwin-testkit/fixtures/golden/chat_templates.json";
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    let cases: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let squeezed = |text: &str| text.split_whitespace().collect::<String>();
    for case in cases.as_array().unwrap() {
        let (name, generate) = (case["name"].as_str().unwrap(), case["generate"] == true);
        let ours = built_in(name, &case["messages"], generate).unwrap();
        let theirs = case["rendered"].as_str().unwrap();
        assert_eq!(squeezed(&ours), squeezed(theirs), "{name}: {case}");
    }
    let talk = &cases[7]["messages"];
    assert_eq!(talk.as_array().unwrap().len(), 4);
    assert_eq!(
        built_in("exaone", talk, true).unwrap(),
        "[|system|]Be brief.[|endofturn|]\n[|user|]2 + 3?\n[|assistant|]5[|endofturn|]\n[|user|]4 + 4?\n[|assistant|]"
    );
    let turn = |role: &str, text: &str| {
        format!("<|start_header_id|>{role}<|end_header_id|>\n\n{text}<|eot_id|>")
    };
    let all = [("system", "Be brief."), ("user", "2 + 3?"), ("assistant", "5"), ("user", "4 + 4?")];
    let all: String = all.iter().map(|(role, text)| turn(role, text)).collect();
    assert_eq!(
        built_in("llama3", talk, true).unwrap(),
        format!("<s>{all}<|start_header_id|>assistant<|end_header_id|>\n\n")
    );
}

/// A folder with two models, their side files, and the recipe's last lines.
fn merged(
    father: &[(&str, &str)],
    mother: &[(&str, &str)],
    rest: &str,
) -> Result<tempfile::TempDir, Error> {
    let dir = tempfile::tempdir().unwrap();
    write_pair(dir.path(), true);
    for (model, files) in [("father", father), ("mother", mother)] {
        for (name, text) in files {
            std::fs::write(dir.path().join(model).join(name), text).unwrap();
        }
    }
    let text = format!(
        "merge_method: linear\nmodels: [{{model: father}}, {{model: mother}}]\nparameters: {{weight: 1}}\n{rest}"
    );
    std::fs::write(dir.path().join("merge.yaml"), text).unwrap();
    let recipe = Recipe::load(&dir.path().join("merge.yaml"))?;
    let sources = Sources::open(&recipe)?;
    let mut merge = Merge::new(&recipe, &sources)?;
    if rest.contains("# bare") {
        merge = merge.without_tokenizer();
    }
    let options = MergeOptions {
        max_shard_bytes: 1 << 30,
        memory: 1 << 20,
        documents: Vec::new(),
        progress: &NoProgress,
        cancel: &Cancel::default(),
    };
    let unknown =
        merge.plan().notes().iter().any(|note| note.contains("no model has a chat template"));
    merge_to(&merge, &dir.path().join("out"), &options)?;
    let written = dir.path().join("out/chat_template.jinja").exists();
    assert_eq!(unknown, rest.contains("chat_template: auto") && !written);
    Ok(dir)
}

fn read(folder: &Path, name: &str) -> Option<String> {
    std::fs::read_to_string(folder.join("out").join(name)).ok()
}

const ONE: &str =
    r#"{"model": {"vocab": {"x": 0, "y": 1}}, "added_tokens": [{"id": 2, "content": "<e>"}]}"#;
const SAME: &str = r#"{"added_tokens": [], "model": {"vocab": {"y": 1, "<e>": 2, "x": 0}}}"#;

#[test]
fn the_chat_template_is_the_childs_only_one() {
    let config = [("tokenizer_config.json", r#"{"a": 1, "chat_template": "old {{ x }}"}"#)];
    let dir = merged(&config, &[], "chat_template: \"{% for m in messages %}{{ m }}{% endfor %}\"")
        .unwrap();
    let text = read(dir.path(), "chat_template.jinja").unwrap();
    assert_eq!(text, "{% for m in messages %}{{ m }}{% endfor %}");
    assert_eq!(read(dir.path(), "tokenizer_config.json").unwrap(), "{\n  \"a\": 1\n}\n");
    let dir = merged(&config, &[], "chat_template: chatml").unwrap();
    assert!(read(dir.path(), "chat_template.jinja").unwrap().contains("<|im_start|>"));
    let theirs = [("chat_template.jinja", " of the mother {{ x }}\n")];
    let dir = merged(&[], &theirs, "chat_template: auto").unwrap();
    assert_eq!(read(dir.path(), "chat_template.jinja").unwrap(), "of the mother {{ x }}");
    let dir = merged(&config, &theirs, "chat_template: auto").unwrap();
    assert_eq!(read(dir.path(), "chat_template.jinja").unwrap(), "old {{ x }}", "first of equals");
    let dir = merged(&[], &[], "chat_template: auto").unwrap();
    assert_eq!(read(dir.path(), "chat_template.jinja"), None, "no model has one");
    let dir = merged(&config, &theirs, "").unwrap();
    assert_eq!(read(dir.path(), "chat_template.jinja"), None, "the structural parent has none");
}

#[test]
fn a_tokenizer_is_chosen_where_ids_mean_the_same() {
    let father = [("tokenizer.json", ONE), ("merges.txt", "m"), ("generation_config.json", "{}")];
    let mother = [("tokenizer.json", SAME), ("vocab.json", "v")];
    let dir = merged(&father, &mother, "tokenizer_source: mother").unwrap();
    assert_eq!(read(dir.path(), "tokenizer.json").as_deref(), Some(SAME));
    assert_eq!(read(dir.path(), "vocab.json").as_deref(), Some("v"));
    assert_eq!(read(dir.path(), "merges.txt"), None, "it belongs to the other tokenizer");
    assert_eq!(read(dir.path(), "generation_config.json").as_deref(), Some("{}"));
    let dir = merged(&father, &mother, "tokenizer: {source: base}\nbase_model: mother").unwrap();
    assert_eq!(read(dir.path(), "tokenizer.json").as_deref(), Some(SAME));
    let dir = merged(&father, &mother, "tokenizer_source: base").unwrap();
    assert_eq!(read(dir.path(), "tokenizer.json").as_deref(), Some(ONE));
    let dir = merged(&father, &father, "chat_template: chatml # bare").unwrap();
    for name in ["tokenizer.json", "merges.txt", "chat_template.jinja"] {
        assert_eq!(read(dir.path(), name), None, "{name}");
    }
    assert!(read(dir.path(), "generation_config.json").is_some());
}

#[test]
fn what_cannot_be_read_is_refused() {
    let refused = |mother: &str, rest: &str| {
        let files = [("tokenizer.json", mother)];
        let error = merged(&[("tokenizer.json", ONE)], &files, rest).map(|_| ()).unwrap_err();
        format!("{error} {}", error.hint().unwrap_or_default())
    };
    let found = refused(SAME, "");
    assert!(
        found.contains("different tokenizers") && found.contains("tokenizer_source: union"),
        "{found}"
    );
    let Err(error) = merged(&[("tokenizer.json", ONE)], &[], "tokenizer_source: mother") else {
        panic!("merged");
    };
    assert!(error.to_string().contains("mother` is to give its tokenizer and has no"), "{error}");
    for (odd, why) in [
        ("{}", "no vocabulary in it"),
        ("no", "mother/tokenizer.json: not JSON"),
        ("{\"model\": {\"vocab\": {\"x\": \"y\"}}}", "a token without an id"),
        ("{\"model\": {\"vocab\": {\"x\": 5000000000}}}", "a token without an id"),
        ("{\"model\": {\"vocab\": {\"x\": 1, \"y\": 1}}}", "id 1 is both `x` and `y`"),
        ("{\"model\": {\"vocab\": [[1, 2]]}}", "a token without text"),
        ("{\"model\": {\"vocab\": [[\"x\", 0], [\"x\", 0]]}}", "`x` has two ids, 0 and 1"),
        (
            "{\"model\": {\"vocab\": {}}, \"added_tokens\": [{\"content\": \"x\"}]}",
            "an added token without an id",
        ),
        (
            "{\"model\": {\"vocab\": {}}, \"added_tokens\": [{\"id\": 1}]}",
            "an added token without text",
        ),
        ("{\"model\": {\"vocab\": [[\"x\", 0.0]]}}", "is WordLevel and that of"),
        (
            "{\"model\": {\"vocab\": {\"x\": 0}, \"merges\": []}, \"decoder\": {\"type\": \"ByteLevel\"}}",
            "mother` is byte-level BPE: tokens of equal spelling are not the same text",
        ),
    ] {
        let found = refused(odd, "tokenizer_source: base");
        assert!(found.contains(why), "{found}");
    }
    let old = [("tokenizer.model", "sentencepiece")];
    let Err(error) = merged(&[("tokenizer.json", ONE)], &old, "tokenizer_source: union") else {
        panic!("merged");
    };
    assert!(
        error.to_string().contains("there is `tokenizer.model` and no tokenizer.json"),
        "{error}"
    );
    let Err(error) = merged(&old, &[("tokenizer.json", ONE)], "tokenizer_source: base") else {
        panic!("merged");
    };
    assert!(
        error.to_string().contains("there is `tokenizer.model` and no tokenizer.json"),
        "{error}"
    );
}
