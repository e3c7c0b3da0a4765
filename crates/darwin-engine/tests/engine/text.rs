//! Tokenizer and chat template.

use darwin_core::Diagnose;
use darwin_core::fs::write_atomic;
use darwin_engine::{Error, Text};
use darwin_testkit::write_tiny_text;

#[test]
fn text_goes_in_and_out() {
    let dir = tempfile::tempdir().unwrap();
    write_tiny_text(dir.path()).unwrap();
    let text = Text::open(dir.path()).unwrap();
    let ids = text.encode("né 7<|im_end|>").unwrap();
    assert_eq!(ids.last(), Some(&258), "special tokens are recognised");
    assert_eq!(ids.len(), 6);
    assert_eq!(text.decode(&ids, false), "né 7<|im_end|>");
    assert_eq!(text.decode(&ids, true), "né 7");
    assert!(text.encode("").unwrap().is_empty());
    assert_eq!(text.stop_ids(), [258]);
    assert_eq!(text.tokenizer_sha256().len(), 64);
}

#[test]
fn chats_end_with_the_generation_prompt() {
    let dir = tempfile::tempdir().unwrap();
    write_tiny_text(dir.path()).unwrap();
    let text = Text::open(dir.path()).unwrap();
    let plain = "<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n";
    assert_eq!(text.chat("2+2?", false).unwrap(), plain);
    assert_eq!(text.chat("2+2?", true).unwrap(), format!("{plain}<think>"));
    assert!(text.template_sha256().is_some());
}

#[test]
fn templates_may_be_a_key_and_speak_python() {
    let dir = tempfile::tempdir().unwrap();
    write_tiny_text(dir.path()).unwrap();
    std::fs::remove_file(dir.path().join("chat_template.jinja")).unwrap();
    let config = r#"{"eos_token": {"content": "<|im_end|>"}, "chat_template":
        "{% for m in messages %}{{ m['content'].strip().upper() }}{% endfor %}{{ eos_token }}"}"#;
    write_atomic(&dir.path().join("tokenizer_config.json"), config.as_bytes()).unwrap();
    let text = Text::open(dir.path()).unwrap();
    assert_eq!(text.chat(" hi ", false).unwrap(), "HI<|im_end|>");
}

#[test]
fn bad_files_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let check = |error: Error, file: &str| {
        assert!(error.to_string().contains(file) && error.hint().is_some(), "{error}");
    };
    check(Text::open(dir.path()).unwrap_err(), "tokenizer.json");
    write_tiny_text(dir.path()).unwrap();
    std::fs::remove_file(dir.path().join("chat_template.jinja")).unwrap();
    let without = Text::open(dir.path()).unwrap();
    check(without.chat("hi", false).unwrap_err(), "chat_template.jinja");
    let refuses = b"{{ raise_exception('no users here') }}";
    write_atomic(&dir.path().join("chat_template.jinja"), refuses).unwrap();
    let error = Text::open(dir.path()).unwrap().chat("hi", false).unwrap_err();
    assert!(error.to_string().contains("no users here"), "{error}");
    write_atomic(&dir.path().join("tokenizer.json"), b"{}").unwrap();
    check(Text::open(dir.path()).unwrap_err(), "tokenizer.json");
}
