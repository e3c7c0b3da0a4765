//! Reading JSON lines, plain or gzipped, with errors that name file, line and key.

use crate::Error;
use flate2::read::MultiGzDecoder;
use serde_json::{Map, Value};
use std::fs::File;
use std::io::{BufReader, Cursor, Read};
use std::path::Path;

/// The text of a file; gzip is recognised by its first two bytes.
pub(crate) fn read_text(path: &Path) -> Result<String, Error> {
    let io = |source| Error::Io { path: path.to_owned(), source };
    let mut file = BufReader::new(File::open(path).map_err(io)?);
    let mut magic = Vec::new();
    file.by_ref().take(2).read_to_end(&mut magic).map_err(io)?;
    let zipped = magic == [0x1f, 0x8b];
    let whole = Cursor::new(magic).chain(file);
    let mut text = String::new();
    if zipped {
        MultiGzDecoder::new(whole).read_to_string(&mut text).map_err(io)?;
    } else {
        let mut whole = whole;
        whole.read_to_string(&mut text).map_err(io)?;
    }
    Ok(text)
}

/// One parsed line.
pub(crate) struct Line<'a> {
    path: &'a Path,
    number: usize,
    keys: Map<String, Value>,
}

impl<'a> Line<'a> {
    /// All lines of a text that are not blank.
    pub(crate) fn parse_all(path: &'a Path, text: &str) -> Result<Vec<Self>, Error> {
        text.lines()
            .enumerate()
            .filter(|(_, line)| !line.trim().is_empty())
            .map(|(i, line)| Self::parse(path, i + 1, line))
            .collect()
    }

    fn parse(path: &'a Path, number: usize, line: &str) -> Result<Self, Error> {
        let wrong = |what: String| Error::line(path, number, what, "write one JSON object a line");
        match serde_json::from_str(line) {
            Ok(Value::Object(keys)) => Ok(Self { path, number, keys }),
            Ok(other) => Err(wrong(format!("found {}, not an object", kind(&other)))),
            Err(error) => Err(wrong(format!("not JSON: {error}"))),
        }
    }

    /// Its place in the file, from 1.
    pub(crate) fn number(&self) -> usize {
        self.number
    }

    /// The error for a key of this line.
    pub(crate) fn wrong(&self, what: String, hint: &str) -> Error {
        Error::line(self.path, self.number, what, hint)
    }

    /// The value of a key, if the line has it and it is not null.
    pub(crate) fn get(&self, key: &str) -> Option<&Value> {
        self.keys.get(key).filter(|v| !v.is_null())
    }

    /// The text under a key, if there.
    pub(crate) fn optional_text(&self, key: &str) -> Result<Option<&str>, Error> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(self.wrong(
                format!("key `{key}` is {}, not a string", kind(other)),
                "put the value in quotes",
            )),
        }
    }

    /// The text under a key that must be there.
    pub(crate) fn text(&self, key: &str) -> Result<&str, Error> {
        self.optional_text(key)?.ok_or_else(|| {
            self.wrong(format!("key `{key}` is missing"), "every item needs this key, a string")
        })
    }

    /// The list under a key, if there.
    pub(crate) fn optional_list(&self, key: &str) -> Result<Option<&[Value]>, Error> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Array(list)) => Ok(Some(list)),
            Some(other) => Err(self
                .wrong(format!("key `{key}` is {}, not a list", kind(other)), "write it as [...]")),
        }
    }
}

/// What a JSON value is, with its article.
pub(crate) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
