//! Whether token ids mean the same in two models.

use crate::Error;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

/// Tokens by id, of a folder's `tokenizer.json`.
pub(crate) struct Vocabulary(BTreeMap<u64, String>);

impl Vocabulary {
    /// Reads the vocabulary and the added tokens.
    pub(crate) fn read(folder: &Path) -> Result<Self, Error> {
        let path = folder.join("tokenizer.json");
        let file = path.display().to_string();
        let bytes =
            std::fs::read(&path).map_err(|source| Error::Io { file: file.clone(), source })?;
        let unclear = |why: &str| {
            Error::plan(
                format!("{file}: {why}, so its tokens cannot be compared"),
                "merge models whose tokenizer.json is the same, byte for byte",
            )
        };
        let json: Value = serde_json::from_slice(&bytes).map_err(|_| unclear("not JSON"))?;
        let mut tokens = BTreeMap::new();
        match &json["model"]["vocab"] {
            Value::Object(vocab) => {
                for (token, id) in vocab {
                    let id = id.as_u64().ok_or_else(|| unclear("a token without an id"))?;
                    tokens.insert(id, token.clone());
                }
            }
            Value::Array(vocab) => {
                for (id, entry) in vocab.iter().enumerate() {
                    let token = entry[0].as_str().ok_or_else(|| unclear("a token without text"))?;
                    tokens.insert(id as u64, token.to_owned());
                }
            }
            _ => return Err(unclear("no vocabulary in it")),
        }
        for added in json["added_tokens"].as_array().into_iter().flatten() {
            if let (Some(id), Some(token)) = (added["id"].as_u64(), added["content"].as_str()) {
                tokens.insert(id, token.to_owned());
            }
        }
        Ok(Self(tokens))
    }

    /// The first difference between two models' vocabularies, as a sentence.
    pub(crate) fn difference(&self, name: &str, other: &Self, other_name: &str) -> Option<String> {
        let (own, others) = (&self.0, &other.0);
        let ids = own.keys().chain(others.keys());
        let id = ids.filter(|id| own.get(id) != others.get(id)).min()?;
        let shown = |tokens: &BTreeMap<u64, String>| match tokens.get(id) {
            Some(token) => format!("`{token}`"),
            None => "no token".to_owned(),
        };
        Some(format!(
            "id {id} is {} in `{name}` and {} in `{other_name}`: {} and {} tokens",
            shown(own),
            shown(others),
            own.len(),
            others.len()
        ))
    }
}
