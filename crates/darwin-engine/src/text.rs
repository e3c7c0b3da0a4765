//! Tokenizer and chat template of a checkpoint folder.

use crate::Error;
use std::path::Path;

/// Text in and out of token ids, as the checkpoint's own files say.
#[derive(Clone, Debug)]
pub struct Text {
    tokenizer_sha256: String,
    template_sha256: Option<String>,
    stop_ids: Vec<u32>,
}

impl Text {
    /// Reads `tokenizer.json`, the chat template (`chat_template.jinja`, or the key
    /// `chat_template` of `tokenizer_config.json`) and the stop ids of a folder.
    ///
    /// # Errors
    /// [`Error::Text`] naming the file.
    pub fn open(_folder: &Path) -> Result<Self, Error> {
        Err(Error::Cancelled)
    }

    /// Token ids of a text. No special tokens are added; special tokens in the text are
    /// recognised.
    ///
    /// # Errors
    /// [`Error::Text`] where the tokenizer fails.
    pub fn encode(&self, _text: &str) -> Result<Vec<u32>, Error> {
        Err(Error::Cancelled)
    }

    /// The text of token ids.
    #[must_use]
    pub fn decode(&self, _ids: &[u32], _skip_special: bool) -> String {
        String::new()
    }

    /// A user's message as the model was trained to see it, the generation prompt added.
    ///
    /// # Errors
    /// [`Error::Text`] where there is no chat template or it fails.
    pub fn chat(&self, _user: &str, _thinking: bool) -> Result<String, Error> {
        Err(Error::Cancelled)
    }

    /// Ids that end an answer (`generation_config.json`, else `config.json`).
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
        self.template_sha256.as_deref()
    }
}
