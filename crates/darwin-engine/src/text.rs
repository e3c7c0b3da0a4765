//! Tokenizer and chat template of a checkpoint folder.

use crate::Error;
use darwin_core::Fault;
use darwin_core::hash::sha256_hex;
use minijinja::{Environment, ErrorKind, context};
use minijinja_contrib::pycompat::unknown_method_callback;
use serde_json::Value;
use std::path::{Path, PathBuf};
use tokenizers::Tokenizer;

const TEMPLATE: &str = "chat_template";

/// Text in and out of token ids, as the checkpoint's own files say.
#[derive(Clone, Debug)]
pub struct Text {
    tokenizer_path: PathBuf,
    tokenizer: Tokenizer,
    tokenizer_sha256: String,
    template: Option<Template>,
    stop_ids: Vec<u32>,
}

/// A chat template that has been parsed.
#[derive(Clone, Debug)]
struct Template {
    path: PathBuf,
    environment: Environment<'static>,
    sha256: String,
    /// `bos_token` and `eos_token` of `tokenizer_config.json`, which templates may print.
    bos_token: String,
    eos_token: String,
}

impl Text {
    /// Reads `tokenizer.json`, the chat template (`chat_template.jinja`, or the key
    /// `chat_template` of `tokenizer_config.json`) and the stop ids of a folder. A folder without
    /// a template can encode and decode.
    ///
    /// # Errors
    /// [`Error::Text`] naming the file.
    pub fn open(folder: &Path) -> Result<Self, Error> {
        let tokenizer_path = folder.join("tokenizer.json");
        let bytes = std::fs::read(&tokenizer_path).map_err(|e| unreadable(&tokenizer_path, &e))?;
        let mut tokenizer = Tokenizer::from_bytes(&bytes)
            .map_err(|e| damaged(&tokenizer_path, format!("not a tokenizer: {e}")))?;
        tokenizer.with_padding(None);
        tokenizer
            .with_truncation(None)
            .map_err(|e| damaged(&tokenizer_path, format!("not a tokenizer: {e}")))?;
        Ok(Self {
            tokenizer_sha256: sha256_hex(&bytes),
            tokenizer_path,
            tokenizer,
            template: Template::find(folder)?,
            stop_ids: stop_ids(folder)?,
        })
    }

    /// Token ids of a text. No special tokens are added; special tokens in the text are
    /// recognised.
    ///
    /// # Errors
    /// [`Error::Text`] where the tokenizer fails.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, Error> {
        let encoding = self
            .tokenizer
            .encode_fast(text, false)
            .map_err(|e| damaged(&self.tokenizer_path, format!("cannot encode: {e}")))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The text of token ids; ids that the tokenizer does not know are left out.
    #[must_use]
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> String {
        self.tokenizer.decode(ids, skip_special).unwrap_or_default()
    }

    /// A user's message as the model was trained to see it, the generation prompt added.
    ///
    /// # Errors
    /// [`Error::Text`] where there is no chat template or it fails.
    pub fn chat(&self, user: &str, thinking: bool) -> Result<String, Error> {
        let Some(template) = &self.template else {
            return Err(damaged(
                &self.tokenizer_path.with_file_name("chat_template.jinja"),
                "the model has no chat template".to_owned(),
            ));
        };
        let rendered = template.environment.get_template(TEMPLATE).and_then(|t| {
            t.render(context! {
                messages => [context! { role => "user", content => user }],
                add_generation_prompt => true,
                enable_thinking => thinking,
                bos_token => template.bos_token,
                eos_token => template.eos_token,
            })
        });
        rendered.map_err(|e| damaged(&template.path, format!("chat template fails: {e}")))
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

    /// SHA-256 of the chat template's text, where there is one.
    #[must_use]
    pub fn template_sha256(&self) -> Option<&str> {
        self.template.as_ref().map(|t| t.sha256.as_str())
    }
}

impl Template {
    fn find(folder: &Path) -> Result<Option<Self>, Error> {
        let file = folder.join("chat_template.jinja");
        let config_path = folder.join("tokenizer_config.json");
        let config = read_json(&config_path)?.unwrap_or(Value::Null);
        let (path, source) = match std::fs::read_to_string(&file) {
            Ok(source) => (file, source),
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(unreadable(&file, &e));
            }
            Err(_) => match config.get("chat_template").and_then(Value::as_str) {
                Some(source) => (config_path, source.to_owned()),
                None => return Ok(None),
            },
        };
        let sha256 = sha256_hex(source.as_bytes());
        let environment =
            environment(source).map_err(|e| damaged(&path, format!("not a chat template: {e}")))?;
        let (bos_token, eos_token) = (token(&config, "bos_token"), token(&config, "eos_token"));
        Ok(Some(Self { path, environment, sha256, bos_token, eos_token }))
    }
}

/// Jinja as transformers sets it up for chat templates.
fn environment(source: String) -> Result<Environment<'static>, minijinja::Error> {
    let mut environment = Environment::new();
    environment.set_trim_blocks(true);
    environment.set_lstrip_blocks(true);
    environment.set_unknown_method_callback(unknown_method_callback);
    environment.add_function("raise_exception", |why: String| -> Result<String, _> {
        Err(minijinja::Error::new(ErrorKind::InvalidOperation, why))
    });
    environment.add_template_owned(TEMPLATE, source)?;
    Ok(environment)
}

/// A special token of `tokenizer_config.json`: a string, or an object with `content`.
fn token(config: &Value, key: &str) -> String {
    let found = config.get(key);
    let content = found.and_then(|t| t.as_str().or_else(|| t.get("content")?.as_str()));
    content.unwrap_or("").to_owned()
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

/// A JSON file; `None` where there is no such file.
fn read_json(path: &Path) -> Result<Option<Value>, Error> {
    match std::fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|e| damaged(path, format!("not valid JSON: {e}"))),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
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

fn damaged(path: &Path, reason: String) -> Error {
    Error::Text {
        path: path.to_owned(),
        reason,
        hint: "restore the file from the model's source".to_owned(),
        fault: Fault::User,
    }
}
