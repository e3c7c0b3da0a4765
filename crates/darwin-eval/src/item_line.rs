//! Reading JSON lines, plain or gzipped, with errors that name file, line and key.

use crate::Error;
use darwin_core::fs::open_regular;
use flate2::read::MultiGzDecoder;
use serde_json::{Map, Value};
use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::path::Path;

/// Bytes of an item file, unpacked.
const MAX_BYTES: u64 = 256 << 20;

/// Bytes of one line.
const MAX_LINE: usize = 16 << 20;

/// Lines of an item file.
const MAX_LINES: usize = 4 << 20;

/// The text of a file; gzip is recognised by its first two bytes.
pub(crate) fn read_text(path: &Path) -> Result<String, Error> {
    read_at_most(path, MAX_BYTES)
}

fn read_at_most(path: &Path, max_bytes: u64) -> Result<String, Error> {
    let io = |source| Error::Io { path: path.to_owned(), source };
    let mut file = BufReader::new(open_regular(path).map_err(io)?);
    let zipped = file.fill_buf().map_err(io)?.starts_with(&[0x1f, 0x8b]);
    let mut text = String::new();
    let most = max_bytes + 1;
    let read = match zipped {
        true => MultiGzDecoder::new(file).take(most).read_to_string(&mut text),
        false => file.take(most).read_to_string(&mut text),
    };
    // the cut may lie within a character
    if text.len() as u64 > max_bytes || read.is_err() && text.len() as u64 + 4 > max_bytes {
        let unpacked = if zipped { "unpacked, " } else { "" };
        let what = format!("{unpacked}it holds more than {max_bytes} bytes; split it into files");
        return Err(io(std::io::Error::new(ErrorKind::InvalidInput, what)));
    }
    read.map_err(io)?;
    Ok(text)
}

/// One parsed line.
pub(crate) struct Line<'a> {
    path: &'a Path,
    number: usize,
    keys: Map<String, Value>,
}

impl<'a> Line<'a> {
    /// The lines of a text that are not blank, one at a time: a parsed line takes several times the
    /// memory of its text.
    pub(crate) fn parse_all<'t>(
        path: &'a Path,
        text: &'t str,
    ) -> impl Iterator<Item = Result<Self, Error>> + use<'a, 't> {
        let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
        lines.map(|(i, line)| Self::parse(path, i + 1, line))
    }

    fn parse(path: &'a Path, number: usize, line: &str) -> Result<Self, Error> {
        if line.len() > MAX_LINE || number > MAX_LINES {
            let what = match number > MAX_LINES {
                true => format!("the file has more than {MAX_LINES} lines"),
                false => format!("the line has {} bytes, allowed are {MAX_LINE}", line.len()),
            };
            return Err(Error::line(path, number, what, "split it"));
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use darwin_core::{Diagnose, Fault};
    use flate2::{Compression, write::GzEncoder};
    use std::io::Write;

    #[test]
    fn a_file_is_unpacked_up_to_its_limit() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("items.jsonl.gz");
        let zip = |text: &[u8]| {
            let mut zipped = GzEncoder::new(Vec::new(), Compression::best());
            zipped.write_all(text).expect("memory");
            darwin_core::fs::write_atomic(&path, &zipped.finish().expect("memory")).expect("disk");
        };
        zip(&[b'a'; 1000]);
        assert_eq!(read_at_most(&path, 1000).expect("it fits").len(), 1000);
        let error = read_at_most(&path, 999).expect_err("one byte more");
        assert_eq!(error.fault(), Fault::User);
        let source = std::error::Error::source(&error).expect("a reason").to_string();
        assert!(source.contains("unpacked, it holds more than 999 bytes"), "{source}");
        zip("aää".as_bytes());
        let error = read_at_most(&path, 2).expect_err("cut within a character");
        let source = std::error::Error::source(&error).expect("a reason").to_string();
        assert!(source.contains("more than 2 bytes"), "{source}");
        darwin_core::fs::write_atomic(&path, b"").expect("disk");
        assert_eq!(read_text(&path).expect("nothing"), "");
    }

    #[test]
    fn a_line_and_its_depth_are_bounded() {
        let path = Path::new("items.jsonl");
        let first = |text: &str| Line::parse_all(path, text).next().map(|l| l.map(drop));
        let long = format!("{{\"id\":\"{}\"}}", "a".repeat(MAX_LINE));
        let error = first(&long).expect("a line").expect_err("too long").to_string();
        assert!(error.contains("items.jsonl:1: the line has"), "{error}");
        let deep = "[".repeat(100_000);
        let error = first(&deep).expect("a line").expect_err("too deep").to_string();
        assert!(error.contains("recursion limit"), "{error}");
    }
}
