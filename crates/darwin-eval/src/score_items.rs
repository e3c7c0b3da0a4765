//! Items of `darwin score`: JSON lines with `prompt` and `answer` as text, or `prompt_ids` and
//! `answer_ids` as token ids (then no tokenizer is needed).

use crate::Error;
use crate::item_line::{Line, kind, read_text};
use darwin_engine::{ScoreItem, Text};
use serde_json::Value;
use std::path::Path;

/// One line: its `id`, if it has one, and its tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct Scorable {
    /// The line's `id` as it stands there.
    pub id: Option<Value>,
    /// Line in the file, from 1.
    pub line: usize,
    /// Prompt and answer.
    pub item: ScoreItem,
}

/// Reads the items; `text` is asked for only where a line has texts, and at most once.
///
/// # Errors
/// [`Error::Io`]; [`Error::Line`] naming file, line and key; [`Error::Empty`]; whatever `text`
/// brings.
pub fn read(
    path: &Path,
    text: impl FnOnce() -> Result<Text, darwin_engine::Error>,
) -> Result<Vec<Scorable>, Error> {
    let content = read_text(path)?;
    let lines = Line::parse_all(path, &content)?;
    let mut open = Some(text);
    let mut tokenizer = None;
    let mut items = Vec::with_capacity(lines.len());
    for line in &lines {
        let as_text = line.get("prompt_ids").is_none() && line.get("answer_ids").is_none();
        if let Some(open) = open.take_if(|_| as_text) {
            tokenizer = Some(open()?);
        }
        items.push(scorable(line, tokenizer.as_ref())?);
    }
    if items.is_empty() {
        return Err(Error::Empty { name: path.display().to_string() });
    }
    Ok(items)
}

fn scorable(line: &Line<'_>, text: Option<&Text>) -> Result<Scorable, Error> {
    let has = |key| line.get(key).is_some();
    let as_ids = has("prompt_ids") || has("answer_ids");
    if as_ids && (has("prompt") || has("answer")) {
        return Err(line.wrong(
            "has both texts and token ids".to_owned(),
            "give `prompt` and `answer`, or `prompt_ids` and `answer_ids`",
        ));
    }
    let item = match text {
        Some(text) if !as_ids => ScoreItem {
            prompt: text.encode(line.text("prompt")?)?,
            answer: text.encode(line.text("answer")?)?,
        },
        _ => ScoreItem { prompt: ids(line, "prompt_ids")?, answer: ids(line, "answer_ids")? },
    };
    check(line, &item, as_ids)?;
    Ok(Scorable { id: line.get("id").cloned(), line: line.number(), item })
}

fn check(line: &Line<'_>, item: &ScoreItem, as_ids: bool) -> Result<(), Error> {
    for (key, tokens) in [("prompt", &item.prompt), ("answer", &item.answer)] {
        if tokens.is_empty() {
            let suffix = if as_ids { "_ids" } else { "" };
            return Err(line.wrong(
                format!("key `{key}{suffix}` holds no tokens"),
                "prompt and answer need at least one token each",
            ));
        }
    }
    Ok(())
}

fn ids(line: &Line<'_>, key: &str) -> Result<Vec<u32>, Error> {
    let hint = "token ids are whole numbers from 0";
    let list = line
        .optional_list(key)?
        .ok_or_else(|| line.wrong(format!("key `{key}` is missing"), "give a list of token ids"))?;
    list.iter()
        .map(|value| {
            let id = value.as_u64().and_then(|id| u32::try_from(id).ok());
            id.ok_or_else(|| {
                let found = if value.is_number() { value.to_string() } else { kind(value).into() };
                line.wrong(format!("key `{key}` holds {found}, not a token id"), hint)
            })
        })
        .collect()
}
