//! The files of a tokenizer that was changed: all of them agree with the new `tokenizer.json`.

use super::ids::Ids;
use super::tokenizer::Tokenizer;
use darwin_checkpoint::SideKind;
use serde_json::{Map, Value, json};

/// Files of a tokenizer that are right beside another vocabulary, too. All others hold the tokens
/// once more, for tools that do not read `tokenizer.json`.
const STAY: [&str; 2] = ["special_tokens_map.json", "normalizer.json"];

/// Whether a file holds the tokens once more.
fn is_copy(name: &str) -> bool {
    let template = name.ends_with(".jinja") || name.ends_with("chat_template.json");
    SideKind::of(name) == Some(SideKind::Tokenizer) && !template && !STAY.contains(&name)
}

/// What is written where the vocabulary was changed.
#[derive(Clone, Default)]
pub(crate) struct Files {
    /// `tokenizer.json`, where it is not that model's own.
    tokenizer: Option<Vec<u8>>,
    added: Vec<Value>,
    /// How ids in `generation_config.json` change.
    pub(crate) generation: Option<Ids>,
}

impl Files {
    pub(super) fn new(child: &Tokenizer, changed: bool) -> Self {
        let added = child.json["added_tokens"].as_array().cloned().unwrap_or_default();
        Self { tokenizer: changed.then(|| pretty(&child.json)), added, generation: None }
    }

    /// What stands in place of a file of this name: `None` leaves it, an empty text drops it.
    pub(crate) fn replaced(&self, name: &str, bytes: &[u8]) -> Option<Vec<u8>> {
        if name == "generation_config.json" {
            let ids = self.generation.as_ref()?;
            let mut config: Value = serde_json::from_slice(bytes).ok()?;
            ids.edit(name, &mut config);
            return Some(pretty(&config));
        }
        let tokenizer = self.tokenizer.as_ref()?;
        match name {
            "tokenizer.json" => Some(tokenizer.clone()),
            "tokenizer_config.json" => self.config(bytes),
            "added_tokens.json" => Some(pretty(&self.ids())),
            name => is_copy(name).then(Vec::new),
        }
    }

    /// The configuration with all added tokens in it, where it lists them.
    fn config(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        let mut config: Value = serde_json::from_slice(bytes).ok()?;
        let listed = config.get_mut("added_tokens_decoder")?;
        let entries = self.added.iter().map(|entry| {
            let mut settings = entry.as_object().cloned().unwrap_or_default();
            settings.shift_remove("id");
            (entry["id"].to_string(), Value::Object(settings))
        });
        *listed = Value::Object(entries.collect());
        Some(pretty(&config))
    }

    fn ids(&self) -> Value {
        let pairs = self.added.iter().filter_map(|entry| {
            Some((entry["content"].as_str()?.to_owned(), json!(entry["id"].as_u64()?)))
        });
        Value::Object(pairs.collect::<Map<_, _>>())
    }
}

fn pretty(value: &Value) -> Vec<u8> {
    let mut bytes = serde_json::to_vec_pretty(value).unwrap_or_default();
    bytes.push(b'\n');
    bytes
}
