//! The parts of a `tokenizer.json` within limits, before the `tokenizers` library builds them.

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use std::fmt;

/// Added tokens; the library takes them in one by one, in time that grows with their square.
const MAX_ADDED: usize = 16_384;

/// Bytes of all added tokens, of which a search automaton is made.
const MAX_ADDED_BYTES: usize = 1 << 20;

/// Bytes of one token.
const MAX_TOKEN: usize = 4096;

/// Tokens of a vocabulary, and merges.
const MAX_ENTRIES: usize = 4 << 20;

/// Bytes of a vocabulary of pieces with scores, of which a tree with a node for each byte is made.
const MAX_PIECES_BYTES: usize = 4 << 20;

/// Bytes of any text in the rules, and entries of any list.
const MAX_TEXT: usize = 4096;
const MAX_LIST: usize = 256;

/// Rules of one kind.
const MAX_RULES: usize = 64;

/// How many times longer rules of replacement may make a text, together.
const MAX_GROWTH: usize = 64;

/// Repetitions of an expression, those within each other multiplied.
const MAX_REPEATS: u64 = 10_000;

/// Bytes of a table of normalised characters, and of one entry.
const MAX_TABLE: usize = 4 << 20;
const MAX_TABLE_ENTRY: usize = 256;

#[derive(Deserialize)]
struct Parts {
    #[serde(default)]
    added_tokens: Option<Vec<Added>>,
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    #[serde(default)]
    post_processor: Value,
    #[serde(default)]
    decoder: Value,
    model: Model,
}

#[derive(Deserialize)]
struct Added {
    content: String,
}

#[derive(Deserialize)]
struct Model {
    #[serde(default)]
    continuing_subword_prefix: Option<String>,
    #[serde(default)]
    end_of_word_suffix: Option<String>,
    #[serde(default)]
    unk_token: Option<String>,
    #[serde(default)]
    vocab: Entries,
    #[serde(default)]
    #[expect(dead_code, reason = "it is read for its limits alone")]
    merges: Option<Entries>,
}

/// What the bytes of a `tokenizer.json` ask for is within limits.
pub(super) fn check(bytes: &[u8]) -> Result<(), String> {
    let commas = bytes.iter().filter(|byte| **byte == b',').count();
    if commas > 2 * MAX_ENTRIES {
        return Err(format!("it has {commas} entries, allowed are {}", 2 * MAX_ENTRIES));
    }
    let parts: Parts = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
    let added = parts.added_tokens.unwrap_or_default();
    if added.len() > MAX_ADDED {
        return Err(format!("it has {} added tokens, allowed are {MAX_ADDED}", added.len()));
    }
    let total: usize = added.iter().map(|token| token.content.len()).sum();
    if total > MAX_ADDED_BYTES || added.iter().any(|token| token.content.len() > MAX_TOKEN) {
        return Err(format!(
            "its added tokens have {total} bytes, allowed are {MAX_ADDED_BYTES}, and {MAX_TOKEN} \
             for each"
        ));
    }
    let model = parts.model;
    for (key, text) in [
        ("continuing_subword_prefix", &model.continuing_subword_prefix),
        ("end_of_word_suffix", &model.end_of_word_suffix),
        ("unk_token", &model.unk_token),
    ] {
        if text.as_ref().is_some_and(|text| text.len() > MAX_LIST) {
            return Err(format!("`{key}` has more than {MAX_LIST} bytes"));
        }
    }
    if model.vocab.pieces && model.vocab.bytes > MAX_PIECES_BYTES {
        return Err(format!(
            "its vocabulary has {} bytes, allowed are {MAX_PIECES_BYTES}",
            model.vocab.bytes
        ));
    }
    for (key, rules) in [
        ("normalizer", &parts.normalizer),
        ("pre_tokenizer", &parts.pre_tokenizer),
        ("post_processor", &parts.post_processor),
        ("decoder", &parts.decoder),
    ] {
        let mut seen = Seen { rules: 0, growth: 1 };
        seen.check(rules).map_err(|why| format!("`{key}` {why}"))?;
    }
    Ok(())
}

/// The rules of one part so far.
struct Seen {
    rules: usize,
    growth: usize,
}

impl Seen {
    fn check(&mut self, value: &Value) -> Result<(), String> {
        match value {
            Value::String(text) if text.len() > MAX_TEXT => {
                Err(format!("holds a text of {} bytes, allowed are {MAX_TEXT}", text.len()))
            }
            Value::Array(items) if items.len() > MAX_LIST => {
                Err(format!("holds a list of {}, allowed are {MAX_LIST}", items.len()))
            }
            Value::Array(items) => items.iter().try_for_each(|item| self.check(item)),
            Value::Object(entries) => {
                if entries.len() > MAX_LIST {
                    return Err(format!("holds {} entries, allowed are {MAX_LIST}", entries.len()));
                }
                if let Some(kind) = value["type"].as_str() {
                    self.rule(kind, value)?;
                }
                for (key, entry) in entries {
                    match (key.as_str(), entry.as_str()) {
                        ("precompiled_charsmap", Some(table)) => table_of_characters(table)?,
                        ("Regex", Some(expression)) => repeats(expression)?,
                        _ => self.check(entry)?,
                    }
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn rule(&mut self, kind: &str, rule: &Value) -> Result<(), String> {
        self.rules += 1;
        if self.rules > MAX_RULES {
            return Err(format!("has more than {MAX_RULES} rules"));
        }
        match kind {
            "FixedLength" if rule["length"].as_u64().is_none_or(|length| length == 0) => {
                Err(format!("has a `FixedLength` of {}, needed is a number from 1", rule["length"]))
            }
            "Replace" => {
                let content = rule["content"].as_str().map_or(0, str::len);
                let grown = match rule["pattern"]["String"].as_str() {
                    Some(text) if !text.is_empty() => content.div_ceil(text.len()),
                    // an expression can match nothing before each character
                    _ => content + 1,
                };
                self.growth = self.growth.saturating_mul(grown.max(1));
                if self.growth > MAX_GROWTH {
                    return Err(format!(
                        "makes a text up to {} times as long, allowed are {MAX_GROWTH}",
                        self.growth
                    ));
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

/// An expression whose counted repetitions stay small when they are written out.
fn repeats(expression: &str) -> Result<(), String> {
    if expression.len() > MAX_TEXT {
        return Err(format!(
            "holds an expression of {} bytes, allowed are {MAX_TEXT}",
            expression.len()
        ));
    }
    let mut product = 1u64;
    for counts in expression.split('{').skip(1) {
        let counts = counts.split('}').next().unwrap_or_default();
        let numbers = counts.split(',').filter_map(|n| n.trim().parse::<u64>().ok());
        product = product.saturating_mul(numbers.max().unwrap_or(1).max(1));
    }
    if product > MAX_REPEATS {
        return Err(format!(
            "holds an expression with {product} repetitions, allowed are {MAX_REPEATS}"
        ));
    }
    Ok(())
}

/// A table as sentencepiece writes it: the size of a tree, the tree, texts that end with zeros.
fn table_of_characters(table: &str) -> Result<(), String> {
    let wrong = |what: &str| Err(format!("has a `precompiled_charsmap` {what}"));
    if table.len() > MAX_TABLE {
        return wrong("that is too large");
    }
    let Some(bytes) = base64(table) else { return wrong("that is not base64") };
    let Some((size, rest)) = bytes.split_first_chunk::<4>() else {
        return wrong("without a table");
    };
    let size = u32::from_le_bytes(*size) as usize;
    if size == 0 || !size.is_multiple_of(4) || size > rest.len() {
        return wrong("whose size is wrong");
    }
    let (tree, texts) = rest.split_at(size);
    if texts.split(|byte| *byte == 0).any(|text| text.len() > MAX_TABLE_ENTRY) {
        return wrong("with an entry that is too long");
    }
    let Ok(texts) = std::str::from_utf8(texts) else { return wrong("that is not text") };
    let units: Vec<u32> =
        tree.as_chunks::<4>().0.iter().map(|unit| u32::from_le_bytes(*unit)).collect();
    if is_sound(&units, texts) { Ok(()) } else { wrong("that points outside of itself") }
}

/// Whether every walk through the double array stays in it and ends at a text.
fn is_sound(units: &[u32], texts: &str) -> bool {
    let offset = |unit: u32| ((unit >> 10) << ((unit & (1 << 9)) >> 6)) as usize;
    let mut seen = vec![false; units.len()];
    let mut open = vec![offset(units[0])];
    while let Some(base) = open.pop() {
        for byte in 1..256 {
            // any byte may come, and the unit there is looked at
            let Some(unit) = units.get(base ^ byte) else { return false };
            let label = unit & (1 << 31 | 0xff);
            if label as usize != byte || std::mem::replace(&mut seen[base ^ byte], true) {
                continue;
            }
            let next = base ^ byte ^ offset(*unit);
            if unit >> 8 & 1 == 1 {
                let Some(leaf) = units.get(next) else { return false };
                let at = (leaf & !(1 << 31)) as usize;
                if at > texts.len() || !texts.is_char_boundary(at) {
                    return false;
                }
            }
            open.push(next);
        }
    }
    true
}

/// The bytes of standard base64 with its padding.
fn base64(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut count) = (0u32, 0);
    for byte in text.trim_end_matches('=').bytes() {
        let six = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(six);
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push((bits >> count) as u8);
        }
    }
    Some(out)
}

/// The number and bytes of a vocabulary's or a list's entries, none of which are kept.
#[derive(Default)]
struct Entries {
    bytes: usize,
    /// Whether it is a list of pieces with scores.
    pieces: bool,
}

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Count)
    }
}

struct Count;

impl<'de> Visitor<'de> for Count {
    type Value = Entries;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a mapping or a list")
    }

    fn visit_unit<E>(self) -> Result<Entries, E> {
        Ok(Entries::default())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
        let (mut count, mut bytes) = (0usize, 0);
        while let Some(token) = map.next_key::<Length>()? {
            map.next_value::<IgnoredAny>()?;
            add(&mut count, &mut bytes, token.0)?;
        }
        Ok(Entries { bytes, pieces: false })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Entries, A::Error> {
        let (mut count, mut bytes) = (0usize, 0);
        while let Some(Length(length)) = seq.next_element::<Length>()? {
            add(&mut count, &mut bytes, length)?;
        }
        Ok(Entries { bytes, pieces: true })
    }
}

fn add<E: serde::de::Error>(count: &mut usize, bytes: &mut usize, length: usize) -> Result<(), E> {
    *count += 1;
    *bytes += length;
    if *count > MAX_ENTRIES {
        return Err(E::custom(format_args!("more than {MAX_ENTRIES} tokens or merges")));
    }
    if length > 2 * MAX_TOKEN {
        return Err(E::custom(format_args!("a token of {length} bytes")));
    }
    Ok(())
}

/// The bytes of a text, or of all texts in a list.
struct Length(usize);

impl<'de> Deserialize<'de> for Length {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Measure)
    }
}

struct Measure;

impl<'de> Visitor<'de> for Measure {
    type Value = Length;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a token")
    }

    fn visit_str<E>(self, text: &str) -> Result<Length, E> {
        Ok(Length(text.len()))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Length, E> {
        Ok(Length(0))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Length, E> {
        Ok(Length(0))
    }

    fn visit_u64<E>(self, _: u64) -> Result<Length, E> {
        Ok(Length(0))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Length, A::Error> {
        let mut total = 0usize;
        let mut count = 0;
        while let Some(Length(length)) = seq.next_element::<Length>()? {
            total += length;
            count += 1;
            if count > 2 {
                return Err(A::Error::custom("a token or merge of more than two parts"));
            }
        }
        Ok(Length(total))
    }
}
