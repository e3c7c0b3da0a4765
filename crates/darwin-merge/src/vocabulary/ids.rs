//! Ids of special tokens in `config.json` and `generation_config.json`.
//!
//! The model that gives the tokenizer keeps its ids, so where it is the structural parent, too,
//! nothing changes. Else the tokens that the tokenizer itself knows (begin, end, padding) are that
//! model's, and all others, such as those for images, are looked up by their text.

use super::Part;
use super::tokenizer::Tokenizer;
use crate::Recipe;
use darwin_core::fs::{MAX_JSON_BYTES, read_bounded};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// The roles that a tokenizer knows.
const OF_TOKENIZER: [&str; 8] = ["bos", "eos", "pad", "unk", "sep", "cls", "mask", "decoder_start"];

/// Lists of ids that do not end like one.
const LISTS: [&str; 2] = ["suppress_tokens", "begin_suppress_tokens"];

/// How the structural parent's ids become the child's.
#[derive(Clone)]
pub(crate) struct Ids {
    /// The configs of the model that gives the tokenizer.
    given: Vec<Value>,
    /// Old id to new one.
    moved: BTreeMap<u32, u32>,
    /// The structural parent, for messages.
    structure: String,
}

impl Ids {
    /// `None` where all ids stay.
    pub(super) fn new(
        recipe: &Recipe,
        parts: &[Part<'_>],
        giver: usize,
        child: &Tokenizer,
    ) -> Option<Self> {
        let structure = parts.iter().find(|part| part.name() == recipe.structure())?;
        if structure.name() == parts[giver].name() {
            return None;
        }
        let old = structure.tokenizer.as_ref().unwrap_or(parts[giver].tokenizer.as_ref()?);
        let source = parts[giver].source;
        let mut given = vec![source.tensors.config().clone()];
        if let Some(checkpoint) = &source.checkpoint
            && let Ok(bytes) =
                read_bounded(&checkpoint.folder().join("generation_config.json"), MAX_JSON_BYTES)
        {
            given.extend(serde_json::from_slice(&bytes).ok());
        }
        let moved = old.tokens.iter().filter_map(|(id, token)| Some((*id, *child.ids.get(token)?)));
        let structure = structure.name().to_owned();
        Some(Self { given, moved: moved.collect(), structure })
    }

    /// Edits a config and its part for the text model; says which ids have no token any more.
    pub(crate) fn edit(&self, file: &str, config: &mut Value) -> Vec<String> {
        let mut gone = Vec::new();
        if let Some(object) = config.as_object_mut() {
            self.section(file, object, &mut gone);
            if let Some(text) = object.get_mut("text_config").and_then(Value::as_object_mut) {
                self.section(file, text, &mut gone);
            }
        }
        let message = |key| {
            format!(
                "{file}: `{key}` of `{}` names a token that the child does not have: it is null",
                self.structure
            )
        };
        gone.into_iter().map(message).collect()
    }

    fn section(&self, file: &str, object: &mut Map<String, Value>, gone: &mut Vec<String>) {
        for (key, value) in object.iter_mut() {
            let role = key.strip_suffix("_token_id");
            let is_id = role.is_some()
                || ["_token_ids", "_token_index"].iter().any(|end| key.ends_with(end))
                || LISTS.contains(&key.as_str());
            if !is_id || value.is_null() {
                continue;
            }
            let known = role.is_some_and(|role| OF_TOKENIZER.contains(&role));
            if let Some(given) = self.given(key, file).filter(|_| known) {
                *value = given;
            } else if let Some(moved) = self.moved(value) {
                *value = moved;
            } else {
                *value = Value::Null;
                gone.push(key.clone());
            }
        }
    }

    /// What the model that gives the tokenizer says, in its file of the same name before others.
    fn given(&self, key: &str, file: &str) -> Option<Value> {
        let stated = |config: &Value| {
            let values = [&config[key], &config["text_config"][key]];
            values.into_iter().find(|value| !value.is_null()).cloned()
        };
        match file {
            "config.json" => self.given.iter().find_map(stated),
            _ => self.given.iter().rev().find_map(stated),
        }
    }

    fn moved(&self, value: &Value) -> Option<Value> {
        match value {
            Value::Array(all) => all.iter().map(|value| self.moved(value)).collect(),
            value => {
                let id = u32::try_from(value.as_u64()?).ok()?;
                self.moved.get(&id).map(|id| json!(id))
            }
        }
    }
}

/// Writes the number of rows into a config and its part for the text model.
pub(super) fn set_size(config: &mut Value, size: usize) {
    let set = |object: &mut Value| {
        if let Some(value) = object.get_mut("vocab_size") {
            *value = json!(size);
        }
    };
    set(config);
    if let Some(text) = config.get_mut("text_config") {
        set(text);
    }
}
