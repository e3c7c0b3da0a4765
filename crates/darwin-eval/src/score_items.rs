//! Items of `darwin score`: JSON lines with `prompt` and `answer` as text, with a whole `text`, or
//! with `prompt_ids` and `answer_ids` as token ids (then no tokenizer is needed).

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
    /// Prompt and answer. Of a whole text the answer is all but its beginning: the special tokens
    /// that the tokenizer puts before it, or its first token where there are none.
    pub item: ScoreItem,
    /// Bytes of what is scored, where it is text.
    pub bytes: Option<usize>,
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
    let mut open = Some(text);
    let mut tokenizer = None;
    let mut items = Vec::new();
    for line in Line::parse_all(path, &content) {
        let line = line?;
        let as_text = line.get("prompt_ids").is_none() && line.get("answer_ids").is_none();
        if let Some(open) = open.take_if(|_| as_text) {
            tokenizer = Some(open()?);
        }
        items.push(scorable(&line, tokenizer.as_ref())?);
    }
    if items.is_empty() {
        return Err(Error::Empty { name: path.display().to_string() });
    }
    Ok(items)
}

fn scorable(line: &Line<'_>, text: Option<&Text>) -> Result<Scorable, Error> {
    let has = |key| line.get(key).is_some();
    let kinds =
        [has("prompt_ids") || has("answer_ids"), has("prompt") || has("answer"), has("text")];
    if kinds.iter().filter(|kind| **kind).count() > 1 {
        return Err(line.wrong(
            "has more than one kind of item".to_owned(),
            "give `prompt` and `answer`, or `text`, or `prompt_ids` and `answer_ids`",
        ));
    }
    let (item, bytes) = match text {
        Some(text) if kinds[2] => whole(line, text)?,
        Some(text) if !kinds[0] => {
            let answer = line.text("answer")?;
            let prompt = text.encode(line.text("prompt")?)?;
            (ScoreItem { prompt, answer: text.encode(answer)? }, Some(answer.len()))
        }
        _ => {
            let (prompt, answer) = (ids(line, "prompt_ids")?, ids(line, "answer_ids")?);
            (ScoreItem { prompt, answer }, None)
        }
    };
    check(line, &item, kinds[0])?;
    Ok(Scorable { id: line.get("id").cloned(), line: line.number(), item, bytes })
}

/// A whole text, scored from its second token on or, where special tokens stand before it, from
/// its first.
fn whole(line: &Line<'_>, text: &Text) -> Result<(ScoreItem, Option<usize>), Error> {
    let content = line.text("text")?;
    let (mut prompt, special) = text.encode_alone(content)?;
    let answer = prompt.split_off(special.max(1).min(prompt.len()));
    if answer.is_empty() {
        let hint = "a text is scored from its second token on";
        return Err(line.wrong("key `text` holds fewer than two tokens".to_owned(), hint));
    }
    let unscored = if special == 0 { text.decode(&prompt, false).len() } else { 0 };
    Ok((ScoreItem { prompt, answer }, Some(content.len().saturating_sub(unscored))))
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
