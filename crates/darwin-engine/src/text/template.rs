//! Chat templates: Jinja as transformers sets it up for them.

use super::{damaged, python, read_json, unreadable};
use crate::Error;
use darwin_core::hash::sha256_hex;
use jiff::SignedDuration;
use jiff::civil::DateTime;
use minijinja::value::Rest;
use minijinja::{Environment, ErrorKind, Value as Jinja, filters};
use minijinja_contrib::pycompat::unknown_method_callback;
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::io;
use std::path::{Path, PathBuf};

/// Steps after which a template is stopped; a conversation of a thousand messages takes about a
/// hundredth.
const FUEL: u64 = 20_000_000;

/// Bytes after which a template is stopped.
const MAX_BYTES: usize = 64 << 20;

/// The templates of a model that have been parsed: one, or several with names.
#[derive(Clone, Debug)]
pub(super) struct Templates {
    pub(super) path: PathBuf,
    pub(super) sha256: String,
    environment: Environment<'static>,
    names: Vec<String>,
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
        let (path, sources) = match std::fs::read_to_string(&file) {
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
        let mut names = Vec::new();
        for (name, source) in sources {
            environment
                .add_template_owned(name.clone(), without_generation_tags(&source))
                .map_err(|e| damaged(&path, format!("not a chat template: {}", sentence(&e))))?;
            names.push(name);
        }
        Ok(Self { path, sha256, environment, names, specials })
    }

    /// The template for a conversation: `tool_use` where there are tools and it exists, else
    /// `default`.
    pub(super) fn choose(&self, tools: bool) -> Result<Template<'_>, Error> {
        let has = |name: &&str| self.names.iter().any(|n| n == name);
        let wanted = if tools { &["tool_use", "default"][..] } else { &["default"] };
        match wanted.iter().copied().find(has) {
            Some(name) => Ok(Template { of: self, name }),
            None => {
                let reason = format!(
                    "none of the chat templates is called `default`, there are {}",
                    self.names.join(", ")
                );
                Err(damaged(&self.path, reason))
            }
        }
    }
}

impl Template<'_> {
    /// The template's text, for which transformers asks before it continues a message.
    pub(super) fn mentions(&self, word: &str) -> bool {
        let template = self.of.environment.get_template(self.name);
        template.is_ok_and(|t| t.source().contains(word))
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
        let context = Jinja::from_serialize(&all);
        let mut environment = Cow::Borrowed(&self.of.environment);
        if let Some(now) = now {
            let clock = move |format: String| strftime(&format, now);
            environment.to_mut().add_function("strftime_now", clock);
        }
        let mut out = Limited(Vec::new());
        let rendered = environment
            .get_template(self.name)
            .and_then(|t| t.render_captured_to(context, &mut out).map(drop));
        let failed = |why: String| Error::Chat {
            path: self.of.path.clone(),
            reason: format!("chat template fails: {why}"),
        };
        match rendered {
            Ok(_) => String::from_utf8(out.0).map_err(|e| failed(e.to_string())),
            Err(e) if e.kind() == ErrorKind::OutOfFuel => {
                Err(failed(format!("stopped after {FUEL} steps, it loops or the chat is too long")))
            }
            Err(e) if e.kind() == ErrorKind::WriteFailure && out.0.len() >= MAX_BYTES => {
                Err(failed(format!("stopped after {MAX_BYTES} bytes of output")))
            }
            Err(e) => Err(failed(sentence(&e))),
        }
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

fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_trim_blocks(true);
    environment.set_lstrip_blocks(true);
    environment.set_fuel(Some(FUEL));
    environment.set_unknown_method_callback(unknown_method_callback);
    environment.set_formatter(|out, _, value| {
        out.write_str(&python::str(value)).map_err(minijinja::Error::from)
    });
    environment.add_filter("tojson", |value: Jinja, arguments: Rest<Jinja>| {
        python::tojson(&value, arguments)
    });
    environment.add_filter("string", |value: Jinja| python::str(&value));
    for name in ["length", "count"] {
        environment.add_filter(name, |value: &Jinja| match value.is_undefined() {
            true => Ok(0),
            false => filters::length(value),
        });
    }
    environment.add_test("iterable", |value: Jinja| python::is_iterable(&value));
    environment.add_test("sequence", |value: Jinja| python::is_sequence(&value));
    environment.add_test("number", |value: Jinja| python::is_number(&value));
    environment.add_function("raise_exception", |why: String| -> Result<String, _> {
        Err(minijinja::Error::new(ErrorKind::InvalidOperation, why))
    });
    environment
}

/// `datetime.now().strftime(format)` of a clock.
fn strftime(format: &str, now: i64) -> Result<String, minijinja::Error> {
    let wrong = |e: jiff::Error| {
        let detail = format!("strftime_now(`{format}`): {e}");
        minijinja::Error::new(ErrorKind::InvalidOperation, detail)
    };
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

/// Output up to [`MAX_BYTES`].
struct Limited(Vec<u8>);

impl io::Write for Limited {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = MAX_BYTES - self.0.len();
        self.0.extend_from_slice(&bytes[..bytes.len().min(room)]);
        if bytes.len() > room { Err(io::Error::other("too long")) } else { Ok(bytes.len()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
