//! A model's `tokenizer.json`: which token has which id.

use crate::Error;
use darwin_checkpoint::Checkpoint;
use darwin_core::fs::{MAX_JSON_BYTES, read_bounded};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

const FILE: &str = "tokenizer.json";

/// Vocabularies of the days before `tokenizer.json`.
pub(super) const SENTENCEPIECE: [&str; 3] =
    ["tokenizer.model", "spiece.model", "sentencepiece.bpe.model"];

/// A tokenizer as its file describes it.
#[derive(Clone, Debug)]
pub(crate) struct Tokenizer {
    /// The whole file.
    pub(super) json: Value,
    pub(super) kind: Kind,
    /// Tokens by id.
    pub(super) tokens: BTreeMap<u32, String>,
    /// Ids by token.
    pub(super) ids: BTreeMap<String, u32>,
    /// The ids of added tokens, in the file's order.
    pub(super) added: Vec<u32>,
}

/// What tokens of equal spelling need to have in common to mean the same text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Kind {
    /// `BPE`, `WordPiece`, `Unigram`, `WordLevel`.
    pub(super) model: String,
    /// Whether tokens are spelt in the alphabet of bytes (`Ġ` is a blank).
    byte_level: bool,
    prefix: Option<String>,
    suffix: Option<String>,
}

impl Kind {
    fn of(json: &Value) -> Self {
        let model = &json["model"];
        let text = |key: &str| model[key].as_str().filter(|t| !t.is_empty()).map(str::to_owned);
        let name = text("type").unwrap_or_else(|| {
            let list = model["vocab"].is_array();
            let name = match (list, model["merges"].is_array()) {
                (true, _) => "Unigram",
                (_, true) => "BPE",
                _ => "WordLevel",
            };
            name.to_owned()
        });
        Self {
            model: name,
            byte_level: ["pre_tokenizer", "decoder"].iter().any(|part| byte_level(&json[part])),
            prefix: text("continuing_subword_prefix"),
            suffix: text("end_of_word_suffix"),
        }
    }

    /// For messages.
    pub(super) fn describe(&self) -> String {
        let alphabet = if self.byte_level { "byte-level " } else { "" };
        let mut text = format!("{alphabet}{}", self.model);
        for part in [&self.prefix, &self.suffix].into_iter().flatten() {
            text.push_str(&format!(" with `{part}`"));
        }
        text
    }
}

/// Whether a part of the tokenizer spells bytes, at any depth of its sequences.
fn byte_level(part: &Value) -> bool {
    part["type"] == "ByteLevel"
        || ["pretokenizers", "decoders"]
            .iter()
            .filter_map(|key| part[key].as_array())
            .flatten()
            .any(byte_level)
}

impl Tokenizer {
    /// Reads a folder's file.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Plan`] where it is not a tokenizer, or not the only vocabulary.
    pub(crate) fn read(model: &Checkpoint) -> Result<Self, Error> {
        let folder = model.folder();
        let path = folder.join(FILE);
        let file = path.display().to_string();
        if !path.exists()
            && let Some(old) = SENTENCEPIECE.iter().find(|name| folder.join(name).exists())
        {
            return Err(Error::plan(
                format!("{}: there is `{old}` and no {FILE}", folder.display()),
                "load the tokenizer with transformers and save it: that writes tokenizer.json",
            ));
        }
        // Its tokens go into the child.
        let left_out = model.side_files()?.left_out;
        if let Some((_, Some(why))) = left_out.iter().find(|(name, _)| name == FILE) {
            return Err(Error::plan(format!("{file}: {why}"), "put the file itself there"));
        }
        let bytes = read_bounded(&path, MAX_JSON_BYTES)
            .map_err(|source| Error::Io { file: file.clone(), source })?;
        let json = serde_json::from_slice(&bytes).map_err(|e| format!("not JSON: {e}"));
        json.and_then(Self::new).map_err(|why| {
            Error::plan(
                format!("{file}: {why}"),
                "restore the file from the model's source, or save the tokenizer anew with \
                 transformers",
            )
        })
    }

    pub(super) fn new(json: Value) -> Result<Self, String> {
        let mut tokenizer = Self {
            kind: Kind::of(&json),
            tokens: BTreeMap::new(),
            ids: BTreeMap::new(),
            added: Vec::new(),
            json: Value::Null,
        };
        match &json["model"]["vocab"] {
            Value::Object(vocab) => {
                for (token, id) in vocab {
                    tokenizer.add(token, id_of(id).ok_or("a token without an id")?)?;
                }
            }
            Value::Array(vocab) => {
                for (id, entry) in vocab.iter().enumerate() {
                    let token = entry[0].as_str().ok_or("a token without text")?;
                    tokenizer.add(token, u32::try_from(id).map_err(|_| "too many tokens")?)?;
                }
            }
            _ => return Err("no vocabulary in it".to_owned()),
        }
        for added in json["added_tokens"].as_array().into_iter().flatten() {
            let id = id_of(&added["id"]).ok_or("an added token without an id")?;
            let token = added["content"].as_str().ok_or("an added token without text")?;
            if tokenizer.ids.get(token) != Some(&id) {
                tokenizer.add(token, id)?;
            }
            if !tokenizer.added.contains(&id) {
                tokenizer.added.push(id);
            }
        }
        tokenizer.json = json;
        Ok(tokenizer)
    }

    fn add(&mut self, token: &str, id: u32) -> Result<(), String> {
        if let Some(other) = self.tokens.insert(id, token.to_owned()) {
            return Err(format!("id {id} is both `{other}` and `{token}`"));
        }
        if let Some(other) = self.ids.insert(token.to_owned(), id) {
            return Err(format!("`{token}` has two ids, {other} and {id}"));
        }
        Ok(())
    }

    /// The entry of an added token.
    pub(super) fn entry(&self, id: u32) -> Option<&Value> {
        let all = self.json["added_tokens"].as_array()?;
        all.iter().find(|entry| id_of(&entry["id"]) == Some(id))
    }

    /// Whether any id means another token.
    pub(super) fn differs(&self, other: &Self) -> bool {
        self.tokens != other.tokens
    }

    /// Leaves out the tokens from this id on, for which the model has no rows; how many.
    pub(super) fn strip(&mut self, rows: usize) -> usize {
        let limit = u32::try_from(rows).unwrap_or(u32::MAX);
        let gone = self.tokens.split_off(&limit);
        if gone.is_empty() {
            return 0;
        }
        let words: BTreeSet<&str> = gone.values().map(String::as_str).collect();
        self.ids.retain(|_, id| *id < limit);
        self.added.retain(|id| *id < limit);
        if let Some(added) = self.json["added_tokens"].as_array_mut() {
            added.retain(|entry| id_of(&entry["id"]).is_some_and(|id| id < limit));
        }
        let model = &mut self.json["model"];
        match &mut model["vocab"] {
            Value::Object(vocab) => vocab.retain(|token, _| !words.contains(token.as_str())),
            Value::Array(vocab) => vocab.truncate(rows),
            _ => {}
        }
        if let Some(merges) = model["merges"].as_array_mut() {
            merges.retain(|merge| {
                pair(merge).is_some_and(|(a, b)| {
                    let whole = format!("{a}{b}");
                    ![a, b, &whole].iter().any(|part| words.contains(part))
                })
            });
        }
        gone.len()
    }
}

/// A whole number that fits an id.
fn id_of(value: &Value) -> Option<u32> {
    value.as_u64().and_then(|id| u32::try_from(id).ok())
}

/// The two parts of a merge: a list of two, or one text with a blank between them.
pub(super) fn pair(merge: &Value) -> Option<(&str, &str)> {
    match merge {
        Value::String(text) => text.split_once(' '),
        Value::Array(parts) => match &parts[..] {
            [a, b] => a.as_str().zip(b.as_str()),
            _ => None,
        },
        _ => None,
    }
}
