//! Chat templates: Jinja as transformers sets it up for them.

use super::budget::{self, Budget};
use super::{damaged, guards, read_json, rewrite, unreadable};
use crate::Error;
use darwin_core::fs::{MAX_TEXT_BYTES, read_text_bounded};
use darwin_core::hash::sha256_hex;
use darwin_core::panics::caught;
use jiff::SignedDuration;
use jiff::civil::DateTime;
use minijinja::{Environment, ErrorKind, Value as Jinja};
use serde_json::{Map, Value};
use std::io;
use std::path::{Path, PathBuf};

/// Steps after which a template is stopped; a conversation of a thousand messages takes about a
/// hundredth.
const FUEL: u64 = 20_000_000;

/// Bytes of output after which a template is stopped, beside what the conversation allows:
/// published templates print a few kilobytes of their own.
const MAX_BYTES: usize = 1 << 20;

/// Bytes of output for each byte of the conversation.
const BYTES_PER_BYTE: usize = 16;

/// Templates of one model.
const MAX_TEMPLATES: usize = 64;

/// Levels of macros and loops within each other while a template is rendered, a macro counted as
/// four.
const MAX_RECURSION: usize = 240;

/// The templates of a model that have been parsed: one, or several with names.
#[derive(Clone, Debug)]
pub(super) struct Templates {
    pub(super) path: PathBuf,
    pub(super) sha256: String,
    environment: Environment<'static>,
    /// Names and sources as they stand in the file.
    sources: Vec<(String, String)>,
    /// The special tokens of `tokenizer_config.json` by their keys: templates may print them.
    specials: Map<String, Value>,
}

/// A template to render, by name.
pub(super) struct Template<'a> {
    of: &'a Templates,
    name: &'a str,
}

impl Templates {
    /// The templates of a folder: `chat_template.jinja`, else the key `chat_template` of
    /// `tokenizer_config.json` (a template, or a list of named ones).
    pub(super) fn find(folder: &Path) -> Result<Option<Self>, Error> {
        let file = folder.join("chat_template.jinja");
        let config_path = folder.join("tokenizer_config.json");
        let config = read_json(&config_path)?.unwrap_or(Value::Null);
        let (path, sources) = match read_text_bounded(&file, MAX_TEXT_BYTES) {
            Ok(source) => (file, vec![("default".to_owned(), source)]),
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(unreadable(&file, &e)),
            Err(_) => match config.get("chat_template") {
                None | Some(Value::Null) => return Ok(None),
                Some(key) => match sources(key) {
                    Some(sources) => (config_path, sources),
                    None => {
                        let reason = "`chat_template` is neither a template nor a list of \
                                      templates with `name` and `template`";
                        return Err(damaged(&config_path, reason.to_owned()));
                    }
                },
            },
        };
        Self::parse(path, sources, specials(&config)).map(Some)
    }

    /// Templates by name, and the special tokens that they may print.
    pub(super) fn parse(
        path: PathBuf,
        sources: Vec<(String, String)>,
        specials: Map<String, Value>,
    ) -> Result<Self, Error> {
        let mut environment = environment();
        let sha256 = sha256_hex(
            sources.iter().map(|(_, s)| s.as_str()).collect::<Vec<_>>().join("\0").as_bytes(),
        );
        if sources.len() > MAX_TEMPLATES {
            let reason = format!("{} chat templates, allowed are {MAX_TEMPLATES}", sources.len());
            return Err(damaged(&path, reason));
        }
        for (name, source) in &sources {
            let wrong = |why: String| damaged(&path, format!("not a chat template: {why}"));
            caught(|| {
                let guarded = rewrite::guarded(&without_generation_tags(source))?;
                environment.add_template_owned(name.clone(), guarded)
            })
            .map_err(wrong)?
            .map_err(|e| wrong(sentence(&e)))?;
        }
        Ok(Self { path, sha256, environment, sources, specials })
    }

    /// The template for a conversation: `tool_use` where there are tools and it exists, else
    /// `default`.
    pub(super) fn choose(&self, tools: bool) -> Result<Template<'_>, Error> {
        let has = |name: &&str| self.sources.iter().any(|(n, _)| n == name);
        let wanted = if tools { &["tool_use", "default"][..] } else { &["default"] };
        match wanted.iter().copied().find(has) {
            Some(name) => Ok(Template { of: self, name }),
            None => {
                let names: Vec<&str> = self.sources.iter().map(|(n, _)| n.as_str()).collect();
                let reason = format!(
                    "none of the chat templates is called `default`, there are {}",
                    names.join(", ")
                );
                Err(damaged(&self.path, reason))
            }
        }
    }
}

impl Template<'_> {
    /// The template's text, for which transformers asks before it continues a message.
    pub(super) fn mentions(&self, word: &str) -> bool {
        self.of.sources.iter().any(|(name, source)| name == self.name && source.contains(word))
    }

    /// Renders with these variables; special tokens stand behind them. `now` is what the caller's
    /// clock shows, in seconds since 1970 began on it; without it there is no `strftime_now`.
    pub(super) fn render(
        &self,
        variables: Map<String, Value>,
        now: Option<i64>,
    ) -> Result<String, Error> {
        let mut all = self.of.specials.clone();
        all.extend(variables);
        let given = all.iter().map(|(key, value)| key.len() + bytes_of(value)).sum::<usize>();
        let max_bytes = MAX_BYTES.saturating_add(given.saturating_mul(BYTES_PER_BYTE));
        let context = Jinja::from_serialize(&all);
        let mut environment = self.of.environment.clone();
        let budget = Budget::for_input(given as u64);
        environment.add_global(budget::NAME, Jinja::from_object(budget));
        if let Some(now) = now {
            let clock = move |format: String| strftime(&format, now);
            environment.add_function("strftime_now", clock);
        }
        let mut out = Limited { bytes: Vec::new(), max: max_bytes };
        let rendered = caught(|| {
            environment
                .get_template(self.name)
                .and_then(|t| t.render_captured_to(context, &mut out).map(drop))
        });
        let failed = |why: String| Error::Chat {
            path: self.of.path.clone(),
            reason: format!("chat template fails: {why}"),
        };
        match rendered {
            Err(panic) => Err(failed(panic)),
            Ok(Ok(())) => String::from_utf8(out.bytes).map_err(|e| failed(e.to_string())),
            Ok(Err(e)) if e.kind() == ErrorKind::OutOfFuel => {
                Err(failed(format!("stopped after {FUEL} steps, it loops or the chat is too long")))
            }
            Ok(Err(e)) if e.kind() == ErrorKind::WriteFailure && out.bytes.len() >= max_bytes => {
                Err(failed(format!("stopped after {max_bytes} bytes of output")))
            }
            Ok(Err(e)) => Err(failed(sentence(&e))),
        }
    }
}

/// About the bytes of a value as JSON.
fn bytes_of(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len() + 2,
        Value::Array(items) => items.iter().map(|item| bytes_of(item) + 1).sum::<usize>() + 2,
        Value::Object(entries) => {
            entries.iter().map(|(key, item)| key.len() + 4 + bytes_of(item)).sum::<usize>() + 2
        }
        _ => 8,
    }
}

/// What minijinja says, with the line, its causes behind it.
fn sentence(error: &minijinja::Error) -> String {
    let mut text = match error.detail() {
        Some(detail) if error.kind() == ErrorKind::InvalidOperation => detail.to_owned(),
        Some(detail) => format!("{}: {detail}", error.kind()),
        None => error.kind().to_string(),
    };
    if let Some(line) = error.line() {
        text.push_str(&format!(" (line {line})"));
    }
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        text.push_str(&format!(": {inner}"));
        cause = inner.source();
    }
    text
}

/// The environment of guarded sources, whose whitespace is settled already.
fn environment() -> Environment<'static> {
    let mut environment = Environment::empty();
    environment.set_keep_trailing_newline(true);
    environment.set_fuel(Some(FUEL));
    environment.set_recursion_limit(MAX_RECURSION);
    environment.set_debug(false);
    guards::add_to(&mut environment);
    environment
}

/// `datetime.now().strftime(format)` of a clock.
fn strftime(format: &str, now: i64) -> Result<String, minijinja::Error> {
    let wrong = |e: jiff::Error| {
        let detail = format!("strftime_now(`{format}`): {e}");
        minijinja::Error::new(ErrorKind::InvalidOperation, detail)
    };
    if format.len() > 256 || format.contains(|c: char| c.is_ascii_digit()) {
        let detail = "strftime_now takes a short format without widths".to_owned();
        return Err(minijinja::Error::new(ErrorKind::InvalidOperation, detail));
    }
    let date = DateTime::constant(1970, 1, 1, 0, 0, 0, 0);
    let date = date.checked_add(SignedDuration::from_secs(now)).map_err(wrong)?;
    jiff::fmt::strtime::format(format, date).map_err(wrong)
}

/// The tags that mark what the assistant said, which only trainers want to know, become blocks of
/// a scope of their own: they print the same.
fn without_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(at) = rest.find("{%") {
        let (before, tag) = rest.split_at(at + 2);
        out.push_str(before);
        let inner = tag.trim_start_matches(['-', '+']);
        let name = inner.trim_start();
        out.push_str(&tag[..tag.len() - name.len()]);
        rest = name;
        for (found, instead) in [("generation", "with"), ("endgeneration", "endwith")] {
            let after = name.strip_prefix(found);
            let ends = |after: &&str| {
                let end = after.trim_start();
                end.trim_start_matches(['-', '+']).starts_with("%}")
            };
            if let Some(after) = after.filter(ends) {
                out.push_str(instead);
                rest = after;
            }
        }
    }
    out + rest
}

/// Templates by name of the key `chat_template`.
fn sources(key: &Value) -> Option<Vec<(String, String)>> {
    if let Some(source) = key.as_str() {
        return Some(vec![("default".to_owned(), source.to_owned())]);
    }
    let entry = |entry: &Value| {
        let text = |key: &str| Some(entry.get(key)?.as_str()?.to_owned());
        Some((text("name")?, text("template")?))
    };
    key.as_array()?.iter().map(entry).collect()
}

/// The special tokens of `tokenizer_config.json`: strings, or objects with `content`.
fn specials(config: &Value) -> Map<String, Value> {
    let mut found = Map::new();
    for (key, token) in config.as_object().into_iter().flatten() {
        let content = token.as_str().or_else(|| token.get("content")?.as_str());
        if let Some(content) = content.filter(|_| key.ends_with("_token")) {
            found.insert(key.clone(), content.into());
        }
    }
    found
}

/// Output up to a number of bytes.
struct Limited {
    bytes: Vec<u8>,
    max: usize,
}

impl io::Write for Limited {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = self.max - self.bytes.len();
        self.bytes.extend_from_slice(&bytes[..bytes.len().min(room)]);
        if bytes.len() > room { Err(io::Error::other("too long")) } else { Ok(bytes.len()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
