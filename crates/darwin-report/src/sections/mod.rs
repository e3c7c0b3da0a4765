//! The sections of the report, in the order that a reader wants. Each turns files into words,
//! tables and pictures; none writes HTML.

pub(crate) mod advantage;
pub(crate) mod curves;
pub(crate) mod diagnosis;
pub(crate) mod health;
pub(crate) mod lineage;
pub(crate) mod loads;
pub(crate) mod recipe;
pub(crate) mod results;
pub(crate) mod scores;
pub(crate) mod trace;
pub(crate) mod verdict;

use crate::run::Part;
use serde::Serialize;

/// A section: what could be made, and sentences about what could not.
#[derive(Debug, Serialize)]
pub(crate) struct Section<T> {
    /// Why something is missing.
    pub(crate) missing: Vec<String>,
    /// The contents.
    pub(crate) body: Option<T>,
}

impl<T> From<Part<T>> for Section<T> {
    fn from(part: Part<T>) -> Self {
        match part {
            Ok(body) => Self { missing: Vec::new(), body: Some(body) },
            Err(sentence) => Self { missing: vec![sentence], body: None },
        }
    }
}

/// The sentences of several parts, each once.
pub(crate) fn sentences<'a>(parts: impl IntoIterator<Item = Option<&'a String>>) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    for sentence in parts.into_iter().flatten() {
        if !out.contains(sentence) {
            out.push(sentence.clone());
        }
    }
    out
}
