//! How Python prints values: what templates that were written for Python's Jinja expect of
//! `{{ x }}`, `x | string` and `x | tojson`.

use super::budget::too_deep;
use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Error, ErrorKind, Value};

/// Levels of lists and mappings within each other that are printed; JSON has no more either.
pub(super) const MAX_DEPTH: usize = 200;

/// `str(value)` of at most `limit` bytes, and what was begun where it would be longer; what is
/// undefined prints nothing.
pub(super) fn str(value: &Value, limit: usize) -> Result<String, Error> {
    match value.kind() {
        ValueKind::Undefined => Ok(String::new()),
        ValueKind::String => Ok(value.as_str().unwrap_or_default().to_owned()),
        _ => {
            let mut out = String::new();
            repr(value, 0, limit, &mut out)?;
            Ok(out)
        }
    }
}

/// `repr(value)`, ended where it becomes longer than the limit.
fn repr(value: &Value, depth: usize, limit: usize, out: &mut String) -> Result<(), Error> {
    if depth > MAX_DEPTH {
        return Err(too_deep());
    }
    match value.kind() {
        ValueKind::None => out.push_str("None"),
        ValueKind::Bool => out.push_str(if value.is_true() { "True" } else { "False" }),
        ValueKind::Number => out.push_str(&number(value, ["nan", "inf", "-inf"])),
        ValueKind::String => quoted(value.as_str().unwrap_or_default(), out),
        ValueKind::Seq | ValueKind::Iterable => {
            out.push('[');
            for (i, item) in value.try_iter()?.enumerate() {
                fits(out, limit)?;
                out.push_str(if i > 0 { ", " } else { "" });
                repr(&item, depth + 1, limit, out)?;
            }
            out.push(']');
        }
        ValueKind::Map => {
            out.push('{');
            for (i, (key, item)) in entries(value).enumerate() {
                fits(out, limit)?;
                out.push_str(if i > 0 { ", " } else { "" });
                repr(&key, depth + 1, limit, out)?;
                out.push_str(": ");
                repr(&item, depth + 1, limit, out)?;
            }
            out.push('}');
        }
        _ => out.push_str(&value.to_string()),
    }
    Ok(())
}

/// An error where the text is longer than the limit.
fn fits(out: &str, limit: usize) -> Result<(), Error> {
    match out.len() <= limit {
        true => Ok(()),
        false => {
            let reason = "it makes too much text, it loops or repeats itself";
            Err(Error::new(ErrorKind::InvalidOperation, reason))
        }
    }
}

fn entries(map: &Value) -> impl Iterator<Item = (Value, Value)> {
    let keys = map.try_iter().into_iter().flatten();
    keys.map(|key| {
        let value = map.get_item(&key).unwrap_or_default();
        (key, value)
    })
}

/// A number; `odd` names what is none, and the two infinities.
fn number(value: &Value, odd: [&str; 3]) -> String {
    match f64::try_from(value.clone()) {
        Ok(x) if !value.is_integer() => match x {
            _ if x.is_nan() => odd[0].to_owned(),
            f64::INFINITY => odd[1].to_owned(),
            f64::NEG_INFINITY => odd[2].to_owned(),
            _ => float(x),
        },
        _ => value.to_string(),
    }
}

/// The shortest digits that give the number back, with an exponent below 1e-4 and from 1e16 on.
fn float(x: f64) -> String {
    let scientific = format!("{x:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if !(-4..16).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{digits}e{sign}{:02}", exponent.unsigned_abs());
    }
    let plain = x.to_string();
    if plain.contains('.') { plain } else { plain + ".0" }
}

/// A string in quotes, single ones where it can be.
fn quoted(text: &str, out: &mut String) {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(quote);
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\\' => out.push_str("\\\\"),
            c if c == quote => out.extend(['\\', c]),
            c if c.is_control() => out.push_str(&format!("\\x{:02x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push(quote);
}

/// The test `iterable`: what Python's `iter` takes, of what is undefined too.
pub(super) fn is_iterable(value: &Value) -> bool {
    use ValueKind as K;
    matches!(value.kind(), K::Undefined | K::String | K::Seq | K::Map | K::Iterable)
}

/// The test `sequence`: what has a length and items, strings and mappings too.
pub(super) fn is_sequence(value: &Value) -> bool {
    use ValueKind as K;
    matches!(value.kind(), K::Undefined | K::String | K::Seq | K::Map)
}

/// The test `number`: true and false are numbers.
pub(super) fn is_number(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::Number | ValueKind::Bool)
}

/// The filter `tojson(ensure_ascii=False, indent=None, separators=None, sort_keys=False)`: Python's
/// `json.dumps`, nothing escaped for HTML; of at most `limit` bytes and a little more.
pub(super) fn tojson(
    value: &Value,
    mut arguments: Vec<Value>,
    limit: usize,
) -> Result<String, Error> {
    let keywords = match arguments.last() {
        Some(last) if last.is_kwargs() => arguments.pop(),
        _ => None,
    };
    let keywords = keywords.map(Kwargs::try_from).transpose()?;
    let option = |i: usize, name: &str| -> Result<Value, Error> {
        let named = match &keywords {
            Some(keywords) => keywords.get::<Option<Value>>(name)?,
            None => None,
        };
        Ok(named.or_else(|| arguments.get(i).cloned()).unwrap_or_default())
    };
    let ensure_ascii = option(0, "ensure_ascii")?.is_true();
    let indent = option(1, "indent")?;
    let indent = match indent.kind() {
        ValueKind::String => indent.as_str().map(|text| text.chars().take(64).collect()),
        ValueKind::Number => Some(" ".repeat(indent.as_usize().unwrap_or(0).min(64))),
        _ => None,
    };
    let separators = option(2, "separators")?;
    let separator = |i: usize, default: &str| -> String {
        let given = separators.get_item_by_index(i).ok();
        given.as_ref().and_then(Value::as_str).unwrap_or(default).to_owned()
    };
    let style = Json {
        ensure_ascii,
        item: separator(0, if indent.is_some() { "," } else { ", " }),
        key: separator(1, ": "),
        indent,
        sort_keys: option(3, "sort_keys")?.is_true(),
        limit,
    };
    if let Some(keywords) = &keywords {
        keywords.assert_all_used()?;
    }
    let mut out = String::new();
    style.write(value, 0, &mut out)?;
    Ok(out)
}

/// How JSON is laid out.
struct Json {
    ensure_ascii: bool,
    indent: Option<String>,
    item: String,
    key: String,
    sort_keys: bool,
    limit: usize,
}

impl Json {
    fn write(&self, value: &Value, depth: usize, out: &mut String) -> Result<(), Error> {
        fits(out, self.limit)?;
        if depth > MAX_DEPTH {
            return Err(too_deep());
        }
        match value.kind() {
            ValueKind::None => out.push_str("null"),
            ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => out.push_str(&number(value, ["NaN", "Infinity", "-Infinity"])),
            ValueKind::String => self.string(value.as_str().unwrap_or_default(), out),
            ValueKind::Seq | ValueKind::Iterable => {
                let items: Vec<Value> = value.try_iter()?.collect();
                self.list(['[', ']'], &items, depth, out, |item, out| {
                    self.write(item, depth + 1, out)
                })?;
            }
            ValueKind::Map => {
                let mut entries: Vec<(Value, Value)> = entries(value).collect();
                if self.sort_keys {
                    entries.sort_by(|a, b| a.0.cmp(&b.0));
                }
                self.list(['{', '}'], &entries, depth, out, |(key, value), out| {
                    self.string(&key_text(key), out);
                    out.push_str(&self.key);
                    self.write(value, depth + 1, out)
                })?;
            }
            kind => {
                let reason = format!("a value of kind {kind} has no JSON");
                return Err(Error::new(ErrorKind::InvalidOperation, reason));
            }
        }
        Ok(())
    }

    fn list<T>(
        &self,
        ends: [char; 2],
        items: &[T],
        depth: usize,
        out: &mut String,
        write: impl Fn(&T, &mut String) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let new_line = |depth: usize, out: &mut String| {
            if let Some(indent) = &self.indent {
                out.push('\n');
                (0..depth).for_each(|_| out.push_str(indent));
            }
        };
        out.push(ends[0]);
        for (i, item) in items.iter().enumerate() {
            if i > 0 {
                out.push_str(&self.item);
            }
            new_line(depth + 1, out);
            write(item, out)?;
        }
        if !items.is_empty() {
            new_line(depth, out);
        }
        out.push(ends[1]);
        Ok(())
    }

    fn string(&self, text: &str, out: &mut String) {
        out.push('"');
        for c in text.chars() {
            match c {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\u{8}' => out.push_str("\\b"),
                '\u{c}' => out.push_str("\\f"),
                c if c < ' ' || self.ensure_ascii && c > '~' => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        out.push_str(&format!("\\u{unit:04x}"));
                    }
                }
                c => out.push(c),
            }
        }
        out.push('"');
    }
}

/// A key of an object: names as they are, other scalars as JSON writes them.
fn key_text(key: &Value) -> String {
    match key.kind() {
        ValueKind::String => key.as_str().unwrap_or_default().to_owned(),
        ValueKind::None => "null".to_owned(),
        ValueKind::Bool => key.is_true().to_string(),
        _ => number(key, ["NaN", "Infinity", "-Infinity"]),
    }
}
