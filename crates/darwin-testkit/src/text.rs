//! A byte-level tokenizer with the special tokens of the family and a chat template.

use serde_json::{Value, json};
use std::io;
use std::path::Path;

/// Tokens of the tiny tokenizer: 256 bytes and the special tokens.
pub const TINY_VOCAB: usize = 256 + SPECIAL.len();

const SPECIAL: [&str; 5] = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>"];

const TEMPLATE: &str = "{%- for message in messages %}{{ '<|im_start|>' + message.role + '\\n' + \
    message.content + '<|im_end|>\\n' }}{%- endfor %}{%- if add_generation_prompt %}\
    {{ '<|im_start|>assistant\\n' }}{%- if enable_thinking is defined and enable_thinking %}\
    {{ '<think>' }}{%- endif %}{%- endif %}";

/// Writes `tokenizer.json`, `tokenizer_config.json`, `chat_template.jinja` and
/// `generation_config.json` into a folder (of a test: nothing is written aside).
///
/// # Errors
/// Any I/O error.
pub fn write_tiny_text(folder: &Path) -> io::Result<()> {
    let write = |name: &str, text: String| {
        darwin_core::fs::write_atomic(&folder.join(name), text.as_bytes())
    };
    write("tokenizer.json", tokenizer().to_string())?;
    write("tokenizer_config.json", json!({"eos_token": "<|im_end|>"}).to_string())?;
    write("chat_template.jinja", TEMPLATE.to_owned())?;
    write("generation_config.json", json!({"eos_token_id": 258}).to_string())
}

fn tokenizer() -> Value {
    let mut vocab = serde_json::Map::new();
    for (id, symbol) in byte_symbols().into_iter().enumerate() {
        vocab.insert(symbol.to_string(), json!(id));
    }
    let added: Vec<Value> = SPECIAL
        .iter()
        .enumerate()
        .map(|(i, content)| {
            json!({
                "id": 256 + i, "content": content, "single_word": false, "lstrip": false,
                "rstrip": false, "normalized": false, "special": i < 3
            })
        })
        .collect();
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
        "normalizer": null,
        "pre_tokenizer": {
            "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true
        },
        "post_processor": null,
        "decoder": {
            "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true
        },
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            "vocab": vocab, "merges": []
        }
    })
}

/// GPT-2's printable stand-ins for the 256 bytes, in the order of the bytes.
fn byte_symbols() -> Vec<char> {
    let printable = |b: u32| matches!(b, 33..=126 | 161..=172 | 174..=255);
    let mut next = 256;
    (0..256)
        .map(|b| {
            let code = if printable(b) {
                b
            } else {
                next += 1;
                next - 1
            };
            char::from_u32(code).unwrap_or('?')
        })
        .collect()
}
