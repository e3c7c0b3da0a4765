//! Targets that read text files of models, and items.

use crate::scratch::{folder, put};
use darwin_core::Split;
use darwin_engine::{ChatRequest, GenerationDefaults, Text};
use darwin_eval::{ItemSet, score_items};
use darwin_testkit::write_tiny_text;
use serde_json::json;
use std::path::Path;

const SHORT: &str = "the xx 12\n  \u{e9}\u{4e2d}<|im_end|> don't";

fn tiny(folder: &Path) {
    write_tiny_text(folder).expect("the folder for temporary files can be written");
}

/// `tokenizer.json`.
pub(crate) fn tokenizer(input: &[u8]) {
    let folder = folder("tokenizer", tiny);
    put(&folder.join("tokenizer.json"), input);
    let Ok(text) = Text::open(&folder) else { return };
    let _ = text.stop_ids();
    let _ = text.token_id("<|im_end|>");
    let _ = text.encode_alone(SHORT);
    if let Ok(ids) = text.encode(SHORT) {
        assert_eq!(text.encode(SHORT).ok().as_ref(), Some(&ids), "encoding is a function");
        let _ = text.decode(&ids, true);
        let _ = text.decode(&ids, false);
    }
    let _ = text.decode(&[0, 1, 255, u32::MAX], false);
}

/// `chat_template.jinja`.
pub(crate) fn template(input: &[u8]) {
    let folder = folder("template", tiny);
    put(&folder.join("chat_template.jinja"), input);
    let Ok(text) = Text::open(&folder) else { return };
    let _ = GenerationDefaults::open(&folder);
    let mut request = ChatRequest::user("What is 2 + 3?");
    request.messages.insert(0, json!({"role": "system", "content": "Be brief."}));
    let _ = text.render(&request);
    request.enable_thinking = Some(true);
    request.now = Some(0);
    request.tools = Some(vec![json!({"type": "function", "function": {"name": "f"}})]);
    let _ = text.render(&request);
}

/// Items of a benchmark and items to score, plain or zipped.
pub(crate) fn items(input: &[u8]) {
    let folder = folder("items", |_| ());
    let zipped = input.starts_with(&[0x1f, 0x8b]);
    let path = folder.join(if zipped { "items.jsonl.gz" } else { "items.jsonl" });
    put(&path, input);
    if let Ok(set) = ItemSet::open(&path, Split::Proxy) {
        assert_eq!(set.domains().values().sum::<usize>(), set.items().len());
        let again = ItemSet::from_items(set.items().to_vec(), Split::Proxy);
        assert_eq!(again.fingerprint(), set.fingerprint(), "the same items are the same set");
        assert_eq!(again.duplicates(), 0, "what came twice is dropped");
        assert!(set.take_per_domain(1).items().len() <= set.items().len());
    }
    let _ = score_items::read(&path, || Text::open(&crate::scratch::folder("items-text", tiny)));
}
