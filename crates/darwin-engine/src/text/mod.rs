//! Tokenizer and chat template of a checkpoint folder or a GGUF file.

mod budget;
mod charges;
mod chat;
mod defaults;
mod gguf;
mod guards;
mod parts;
mod python;
mod rewrite;
mod stream;
mod template;
mod tokenizer;

use crate::Error;
pub use chat::ChatRequest;
use darwin_checkpoint::gguf_file;
use darwin_core::Fault;
use darwin_core::fs::{MAX_JSON_BYTES, read_bounded};
use darwin_core::hash::sha256_hex;
use darwin_core::panics::caught;
pub use defaults::GenerationDefaults;
use serde_json::Value;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
pub use stream::TextStream;
use template::Templates;
use tokenizers::Tokenizer;

/// Text in and out of token ids, as the checkpoint's own files say.
#[derive(Clone, Debug)]
pub struct Text {
    tokenizer_path: PathBuf,
    tokenizer: Tokenizer,
    tokenizer_sha256: String,
    templates: Option<Templates>,
    stop_ids: Vec<u32>,
    /// Longest text that is cut into tokens, bytes.
    max_bytes: usize,
}

/// Bytes of text for each token of the context: English has four or five, and nothing that people
/// write has more than a few times that.
const BYTES_PER_TOKEN: usize = 16;

/// Bytes beside those for the context.
const SLACK_BYTES: usize = 1 << 16;

/// Longest text where the model states no context.
const MAX_BYTES: usize = 16 << 20;

impl Text {
    /// Reads `tokenizer.json`, the chat template (`chat_template.jinja`, or the key
    /// `chat_template` of `tokenizer_config.json`) and the stop ids of a folder. A folder without
    /// a template can encode and decode. A GGUF file holds all of them, and stands for a folder
    /// without a `tokenizer.json` that holds no other weights.
    ///
    /// # Errors
    /// [`Error::Text`] naming the file; [`Error::Weights`] for a GGUF file that cannot be read.
    pub fn open(folder: &Path) -> Result<Self, Error> {
        let tokenizer_path = folder.join("tokenizer.json");
        if !tokenizer_path.exists()
            && let Some(file) = gguf_file(folder)?
        {
            return gguf::open(&file);
        }
        let bytes = read_bounded(&tokenizer_path, MAX_JSON_BYTES)
            .map_err(|e| unreadable(&tokenizer_path, &e))?;
        let tokenizer = tokenizer::load(&bytes)
            .map_err(|e| damaged(&tokenizer_path, format!("not a tokenizer: {e}")))?;
        Ok(Self {
            tokenizer_sha256: sha256_hex(&bytes),
            tokenizer_path,
            tokenizer,
            templates: Templates::find(folder)?,
            stop_ids: stop_ids(folder)?,
            max_bytes: max_bytes(&read_json(&folder.join("config.json"))?.unwrap_or_default()),
        })
    }

    /// Token ids of a text. No special tokens are added; special tokens in the text are
    /// recognised.
    ///
    /// # Errors
    /// [`Error::Text`] where the tokenizer fails, and for a text that is longer than any that fits
    /// the model's context: cutting it into tokens would take hundreds of bytes for each of its own.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, Error> {
        Ok(self.encoding(text, false)?.get_ids().to_vec())
    }

    /// Token ids of a text that stands alone: with the special tokens that the tokenizer puts around
    /// it, and how many it puts before it.
    ///
    /// # Errors
    /// As [`Text::encode`].
    pub fn encode_alone(&self, text: &str) -> Result<(Vec<u32>, usize), Error> {
        let encoding = self.encoding(text, true)?;
        let special = encoding.get_special_tokens_mask();
        let before = special.iter().take_while(|mask| **mask == 1).count();
        Ok((encoding.get_ids().to_vec(), before))
    }

    fn encoding(&self, text: &str, alone: bool) -> Result<tokenizers::Encoding, Error> {
        if text.len() > self.max_bytes {
            return Err(Error::Text {
                path: self.tokenizer_path.clone(),
                reason: format!(
                    "a text of {} bytes is longer than any that fits the model's context, allowed \
                     are {} bytes",
                    text.len(),
                    self.max_bytes
                ),
                hint: "shorten the text".to_owned(),
                fault: Fault::User,
            });
        }
        let failed = |e: String| damaged(&self.tokenizer_path, format!("cannot encode: {e}"));
        match caught(|| self.tokenizer.encode_fast(text, alone)) {
            Ok(encoding) => encoding.map_err(|e| failed(e.to_string())),
            Err(panic) => Err(failed(panic)),
        }
    }

    /// The text of token ids; ids that the tokenizer does not know are left out. Where the
    /// tokenizer's decoder fails, the text is the replacement character.
    #[must_use]
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> String {
        let decoded = caught(|| self.tokenizer.decode(ids, skip_special));
        let failed = || char::REPLACEMENT_CHARACTER.to_string();
        decoded.ok().and_then(Result::ok).unwrap_or_else(failed)
    }

    /// The id of a whole token, special ones included.
    #[must_use]
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.tokenizer.token_to_id(token)
    }

    /// Ids that end an answer (`eos_token_id` of `generation_config.json`, else of `config.json`).
    #[must_use]
    pub fn stop_ids(&self) -> Vec<u32> {
        self.stop_ids.clone()
    }

    /// SHA-256 of `tokenizer.json`.
    #[must_use]
    pub fn tokenizer_sha256(&self) -> &str {
        &self.tokenizer_sha256
    }

    /// Whether there is a chat template.
    #[must_use]
    pub fn has_template(&self) -> bool {
        self.templates.is_some()
    }

    /// SHA-256 of the chat template's text, where there is one.
    #[must_use]
    pub fn template_sha256(&self) -> Option<&str> {
        self.templates.as_ref().map(|t| t.sha256.as_str())
    }
}

fn stop_ids(folder: &Path) -> Result<Vec<u32>, Error> {
    for file in ["generation_config.json", "config.json"] {
        let Some(config) = read_json(&folder.join(file))? else { continue };
        let nested = config.get("text_config").and_then(|text| text.get("eos_token_id"));
        let ids = match config.get("eos_token_id").or(nested) {
            Some(Value::Array(ids)) => ids.iter().filter_map(as_id).collect(),
            Some(id) => as_id(id).into_iter().collect(),
            None => Vec::new(),
        };
        if !ids.is_empty() {
            return Ok(ids);
        }
    }
    Ok(Vec::new())
}

fn as_id(value: &Value) -> Option<u32> {
    value.as_u64().and_then(|id| u32::try_from(id).ok())
}

/// Longest text that is cut into tokens, from the context that a config states.
fn max_bytes(config: &Value) -> usize {
    let key = "max_position_embeddings";
    let nested = config.get("text_config").and_then(|text| text.get(key));
    let context = config.get(key).or(nested).and_then(Value::as_u64);
    context.map_or(MAX_BYTES, |tokens| {
        let tokens = usize::try_from(tokens).unwrap_or(usize::MAX);
        tokens.saturating_mul(BYTES_PER_TOKEN).saturating_add(SLACK_BYTES).min(4 * MAX_BYTES)
    })
}

/// A JSON file; `None` where there is no such file.
fn read_json(path: &Path) -> Result<Option<Value>, Error> {
    match read_bounded(path, MAX_JSON_BYTES) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|e| damaged(path, format!("not valid JSON: {e}"))),
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
        Err(e) => Err(unreadable(path, &e)),
    }
}

fn unreadable(path: &Path, error: &std::io::Error) -> Error {
    Error::Text {
        path: path.to_owned(),
        reason: format!("cannot read: {error}"),
        hint: "copy the tokenizer's files of the model beside its weights".to_owned(),
        fault: Fault::of_io(error),
    }
}

fn damaged(path: &Path, mut reason: String) -> Error {
    // what a file holds may be part of what is wrong with it
    if reason.len() > MAX_REASON {
        reason.truncate(reason.floor_char_boundary(MAX_REASON));
        reason.push('…');
    }
    Error::Text {
        path: path.to_owned(),
        reason,
        hint: "restore the file from the model's source".to_owned(),
        fault: Fault::User,
    }
}

/// Longest reason that is given, bytes.
const MAX_REASON: usize = 400;
