//! The child's tokenizer: the base's tokens under their ids, then what the others add.

use super::tokenizer::{Tokenizer, pair};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// What the child's tokenizer says that the base's does not.
#[derive(Default)]
pub(super) struct Changes {
    /// Whether the file must be written anew.
    pub(super) any: bool,
    /// What deserves a look.
    pub(super) notes: Vec<String>,
}

/// The settings of an added token that nobody has described.
const PLAIN: [(&str, bool); 5] = [
    ("single_word", false),
    ("lstrip", false),
    ("rstrip", false),
    ("normalized", true),
    ("special", false),
];

impl Tokenizer {
    /// Adds the tokens of other models, each under the next free id: first all models' ordinary
    /// tokens, then their added ones (mergekit 0.1.5, `tokenizer/`). Merges come behind the base's own, so that
    /// a word is cut where the base cuts it or at fewer places: what is one token for the base
    /// stays one token.
    pub(super) fn join(&mut self, others: &[(&str, &Self)], changes: &mut Changes) {
        let special: BTreeSet<&str> = others
            .iter()
            .flat_map(|(_, other)| other.added.iter().map(|id| other.tokens[id].as_str()))
            .collect();
        let mut new: BTreeMap<String, f64> = BTreeMap::new();
        for (_, other) in others {
            let scores = other.json["model"]["vocab"].as_array();
            let added: BTreeSet<u32> = other.added.iter().copied().collect();
            for (id, token) in other.tokens.iter().filter(|(id, _)| !added.contains(id)) {
                if !self.ids.contains_key(token) && !special.contains(token.as_str()) {
                    let score = scores.and_then(|all| all.get(*id as usize)?[1].as_f64());
                    new.insert(token.clone(), score.unwrap_or(0.0));
                    self.push(token);
                }
            }
        }
        let mut entries = Vec::new();
        for (model, other) in others {
            for id in &other.added {
                let Some(entry) = other.entry(*id) else { continue };
                self.join_added(model, &other.tokens[id], entry, &mut entries, changes);
            }
        }
        changes.any |= !new.is_empty() || !entries.is_empty();
        self.join_merges(others);
        self.add_entries(entries);
        self.spell_out(&new);
    }

    /// Adds tokens that no model needs to have.
    pub(super) fn name<'t>(
        &mut self,
        tokens: impl Iterator<Item = &'t str>,
        changes: &mut Changes,
    ) {
        let mut entries = Vec::new();
        for token in tokens {
            if self.ids.contains_key(token) {
                continue;
            }
            let id = self.push(token);
            let mut entry = Map::from_iter([
                ("id".to_owned(), json!(id)),
                ("content".to_owned(), json!(token)),
            ]);
            entry.extend(PLAIN.map(|(key, value)| (key.to_owned(), json!(value))));
            self.added.push(id);
            entries.push(Value::Object(entry));
        }
        if !entries.is_empty() {
            changes.any = true;
            self.add_entries(entries);
            self.spell_out(&BTreeMap::new());
        }
    }

    /// Writes the tokens that are left so that a loader gives each its id.
    pub(super) fn spell_out_all(&mut self) {
        self.spell_out(&BTreeMap::new());
    }

    /// Gives a token the next free id.
    fn push(&mut self, token: &str) -> u32 {
        let id = self.tokens.last_key_value().map_or(0, |(id, _)| id + 1);
        self.tokens.insert(id, token.to_owned());
        self.ids.insert(token.to_owned(), id);
        id
    }

    fn join_added(
        &mut self,
        model: &str,
        token: &str,
        entry: &Value,
        entries: &mut Vec<Value>,
        changes: &mut Changes,
    ) {
        let known = self.ids.get(token).copied();
        let id = known.unwrap_or_else(|| self.push(token));
        let mut entry = entry.clone();
        entry["id"] = json!(id);
        let mine = self.entry(id).or_else(|| entries.iter().find(|e| e["content"] == token));
        if let Some(mine) = mine {
            if PLAIN.iter().any(|(key, _)| mine[key] != entry[key]) {
                changes.notes.push(format!(
                    "the added token `{token}` has other settings in `{model}`: the first model's \
                     are kept"
                ));
            }
            return;
        }
        if known.is_some_and(|id| !self.added.contains(&id)) {
            changes.notes.push(format!(
                "`{token}` is an added token of `{model}` and an ordinary one before: it is added"
            ));
        }
        self.added.push(id);
        entries.push(entry);
    }

    fn add_entries(&mut self, entries: Vec<Value>) {
        if !self.json["added_tokens"].is_array() {
            self.json["added_tokens"] = json!([]);
        }
        if let Some(all) = self.json["added_tokens"].as_array_mut() {
            all.extend(entries);
            all.sort_by_key(|entry| entry["id"].as_u64());
        }
    }

    /// Appends the merges that make tokens of this vocabulary out of tokens of this vocabulary.
    fn join_merges(&mut self, others: &[(&str, &Self)]) {
        let Some(own) = self.json["model"]["merges"].as_array() else { return };
        let mut known: BTreeSet<(String, String)> =
            own.iter().filter_map(pair).map(|(a, b)| (a.to_owned(), b.to_owned())).collect();
        let mut merges: Vec<(String, String)> =
            own.iter().filter_map(pair).map(|(a, b)| (a.to_owned(), b.to_owned())).collect();
        let texts = own.first().is_none_or(Value::is_string);
        let before = merges.len();
        let prefix = self.json["model"]["continuing_subword_prefix"].as_str().unwrap_or("");
        for (_, other) in others {
            for (a, b) in
                other.json["model"]["merges"].as_array().into_iter().flatten().filter_map(pair)
            {
                let whole = format!("{a}{}", b.strip_prefix(prefix).unwrap_or(b));
                let there = [a, b, &whole].iter().all(|part| self.ids.contains_key(*part));
                if there && known.insert((a.to_owned(), b.to_owned())) {
                    merges.push((a.to_owned(), b.to_owned()));
                }
            }
        }
        if merges.len() == before {
            return;
        }
        // The older spelling has no place for tokens with blanks in them.
        let texts = texts && !merges.iter().any(|(a, b)| a.contains(' ') || b.contains(' '));
        let written = merges.into_iter().map(|(a, b)| match texts {
            true => json!(format!("{a} {b}")),
            false => json!([a, b]),
        });
        self.json["model"]["merges"] = written.collect();
    }

    /// Writes every token into the model's vocabulary, added ones too: a loader takes ids from
    /// there alone.
    fn spell_out(&mut self, new: &BTreeMap<String, f64>) {
        match &mut self.json["model"]["vocab"] {
            Value::Object(vocab) => {
                for (id, token) in &self.tokens {
                    vocab.insert(token.clone(), json!(id));
                }
            }
            Value::Array(vocab) => {
                // A new piece is worth no more than the least of the old ones, so that it never
                // takes the place of one of them.
                let scores = vocab.iter().filter_map(|entry| entry[1].as_f64());
                let least = scores.fold(0.0, f64::min);
                for (id, token) in self.tokens.range(vocab.len() as u32..) {
                    let score = new.get(token).map_or(0.0, |score| score.min(least));
                    while vocab.len() < *id as usize {
                        vocab.push(json!([format!("<|unused {}|>", vocab.len()), least]));
                    }
                    vocab.push(json!([token, score]));
                }
            }
            _ => {}
        }
    }
}
