//! Reads keys of the metadata and collects what is wrong with them.

use super::values::Value;
use crate::Problem;
use crate::error::Problems;
use std::collections::BTreeMap;

/// The metadata under reading.
pub(super) struct Keys<'a> {
    file: &'a str,
    values: &'a BTreeMap<String, Value>,
    pub(super) problems: Problems,
}

impl<'a> Keys<'a> {
    /// Reads the metadata of a file.
    pub(super) fn new(file: &'a str, values: &'a BTreeMap<String, Value>) -> Self {
        Self { file, values, problems: Problems::default() }
    }

    /// Notes what is wrong with a key.
    pub(super) fn wrong(&mut self, key: &str, allowed: &str) {
        let found = self.values.get(key).map_or("missing".to_owned(), Value::to_string);
        self.problem(
            format!("key `{key}` is {found}, needed is {allowed}"),
            "get the model as safetensors, or convert it again with a current program",
        );
    }

    /// Notes a problem of the file.
    pub(super) fn problem(&mut self, found: impl std::fmt::Display, hint: &str) {
        self.problems.push(Problem::new(format!("{}: {found}", self.file), hint));
    }

    /// Whether there is such a key.
    pub(super) fn has(&self, key: &str) -> bool {
        self.values.contains_key(key)
    }

    /// Whether a key is the number 0.
    pub(super) fn is_zero(&self, key: &str) -> bool {
        self.values.get(key).and_then(Value::as_u64) == Some(0)
    }

    /// A whole number of at least 1 and below 2^32; 1 where it is missing, after noting so.
    pub(super) fn size(&mut self, key: &str, default: Option<u64>) -> u64 {
        match (self.values.get(key), default) {
            (None, Some(default)) => default,
            (found, _) => {
                let size = found.and_then(Value::as_u64).filter(|n| (1..1 << 32).contains(n));
                size.unwrap_or_else(|| {
                    self.wrong(key, "a whole number of at least 1");
                    1
                })
            }
        }
    }

    /// A number above 0.
    pub(super) fn positive(&mut self, key: &str) -> Option<f64> {
        let found = self.values.get(key)?.as_f64().filter(|x| *x > 0.0 && x.is_finite());
        if found.is_none() {
            self.wrong(key, "a number above 0");
        }
        found
    }

    /// A text.
    pub(super) fn text(&mut self, key: &str) -> Option<&'a str> {
        match self.values.get(key)? {
            Value::Text(text) => Some(text),
            _ => {
                self.wrong(key, "a text");
                None
            }
        }
    }

    /// A token id below the size of the vocabulary.
    pub(super) fn token_id(&mut self, key: &str, vocab_size: u64) -> Option<u64> {
        let found = self.values.get(key)?.as_u64().filter(|id| *id < vocab_size);
        if found.is_none() {
            self.wrong(key, &format!("a token id below {vocab_size}"));
        }
        found
    }

    /// true or false, with a default.
    pub(super) fn flag(&mut self, key: &str, default: bool) -> bool {
        match self.values.get(key) {
            None => default,
            Some(Value::Bool(flag)) => *flag,
            Some(_) => {
                self.wrong(key, "true or false");
                default
            }
        }
    }

    /// The keys that begin with `prefix`.
    pub(super) fn under(&self, prefix: &str) -> impl Iterator<Item = &'a str> + use<'a> {
        let (values, prefix) = (self.values, prefix.to_owned());
        values.keys().map(String::as_str).filter(move |key| key.starts_with(&prefix))
    }
}
