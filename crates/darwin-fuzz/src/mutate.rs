//! A small mutator that knows how the files are built.

use darwin_core::files::Chain;
use darwin_core::keyed::Rng;
use flate2::Compression;
use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;
use serde_json::Value;
use std::io::{Read, Write};

/// How inputs of a target are built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// JSON, YAML, a template.
    Text,
    /// Numbers of four and eight bytes among texts.
    Binary,
    /// The length of a JSON header, the header, data.
    Safetensors,
    /// A byte that chooses, then text or, where it is odd and a header fits, a safetensors file.
    Chosen,
    /// Lines of text, perhaps zipped.
    Zipped,
    /// Lines that are sealed one by one.
    Journal,
}

/// The longest input that is made.
const MAX_BYTES: usize = 1 << 18;

/// Texts that readers treat in their own way.
const WORDS: [&str; 40] = [
    "0",
    "-1",
    "1",
    "2",
    "-0.0",
    "2147483648",
    "4294967295",
    "9223372036854775807",
    "9223372036854775808",
    "18446744073709551615",
    "18446744073709551616",
    "4611686018427387906",
    "1e400",
    "1e-320",
    "1e18",
    "0.1",
    "NaN",
    ".inf",
    "null",
    "true",
    "\"\"",
    "[]",
    "{}",
    "[[]]",
    "{\"\":{}}",
    "\"\\u0000\"",
    "\"\\ud800\"",
    "\u{1f600}",
    "\u{feff}",
    "\n- ",
    "\n  ",
    ": ",
    "&a ",
    "*a",
    "---\n",
    "!!binary ",
    "../",
    "model.layers.7.mlp.experts.9.",
    "{{ ",
    "}}{% for x in range(9) %}",
];

const NUMBERS: [u64; 14] = [
    0,
    1,
    2,
    7,
    255,
    1 << 16,
    (1 << 31) - 1,
    1 << 31,
    (1 << 32) - 1,
    1 << 32,
    (1 << 53) + 1,
    (1 << 62) + 2,
    1 << 63,
    u64::MAX,
];

/// Another input, made from one seed or two.
///
/// # Panics
/// Never: memory takes what is written.
#[must_use]
pub fn mutate(form: Form, seeds: &[Vec<u8>], rng: &mut Rng) -> Vec<u8> {
    if seeds.is_empty() {
        return Vec::new();
    }
    let seed = &seeds[rng.below(seeds.len())];
    let other = &seeds[rng.below(seeds.len())];
    let mut out = match form {
        Form::Text => text(seed, other, rng),
        Form::Binary => binary(seed, other, rng),
        Form::Safetensors => safetensors(seed, other, rng),
        Form::Chosen => chosen(seed, other, rng),
        Form::Zipped => zipped(seed, other, rng),
        Form::Journal => journal(seed, other, rng),
    };
    out.truncate(MAX_BYTES);
    out
}

fn chance(rng: &mut Rng, percent: usize) -> bool {
    rng.below(100) < percent
}

/// How many edits: most inputs get few.
fn edits(rng: &mut Rng) -> usize {
    [1, 1, 1, 2, 2, 3, 5, 9][rng.below(8)]
}

fn text(seed: &[u8], other: &[u8], rng: &mut Rng) -> Vec<u8> {
    let mut out = seed.to_vec();
    for _ in 0..edits(rng) {
        match rng.below(8) {
            0 => bytes(&mut out, other, rng),
            1..=3 => replace_token(&mut out, rng),
            4 => copy_token(&mut out, other, rng),
            5 => repeat(&mut out, rng),
            6 => remove_line(&mut out, rng),
            _ => insert(&mut out, WORDS[rng.below(WORDS.len())].as_bytes(), rng),
        }
    }
    out
}

/// Where a token begins and ends: a number, a word or one sign.
fn token(text: &[u8], rng: &mut Rng) -> Option<(usize, usize)> {
    if text.is_empty() {
        return None;
    }
    let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-') || b > 127;
    let at = rng.below(text.len());
    if !inner(text[at]) {
        return Some((at, at + 1));
    }
    let begin = text[..at].iter().rposition(|b| !inner(*b)).map_or(0, |i| i + 1);
    let end = text[at..].iter().position(|b| !inner(*b)).map_or(text.len(), |i| at + i);
    Some((begin, end))
}

fn replace_token(out: &mut Vec<u8>, rng: &mut Rng) {
    // Numbers are what most bounds are about: some tries find one.
    let mut found = None;
    for _ in 0..4 {
        found = token(out, rng);
        if found.is_some_and(|(begin, _)| out[begin].is_ascii_digit()) {
            break;
        }
    }
    let Some((begin, end)) = found else { return };
    let number = std::str::from_utf8(&out[begin..end]).ok().and_then(|t| t.parse::<i64>().ok());
    let new = match number {
        Some(n) if chance(rng, 40) => {
            let n =
                [n.wrapping_add(1), n.wrapping_sub(1), n.wrapping_mul(2), n.wrapping_neg(), n / 2];
            n[rng.below(n.len())].to_string()
        }
        _ if chance(rng, 20) => String::new(),
        _ => WORDS[rng.below(WORDS.len())].to_owned(),
    };
    out.splice(begin..end, new.into_bytes());
}

/// A token of either seed in the place of another.
fn copy_token(out: &mut Vec<u8>, other: &[u8], rng: &mut Rng) {
    let from = if chance(rng, 50) { out.clone() } else { other.to_vec() };
    if let (Some((a, b)), Some((c, d))) = (token(&from, rng), token(out, rng)) {
        out.splice(c..d, from[a..b].iter().copied());
    }
}

/// A piece again, a few times or many.
fn repeat(out: &mut Vec<u8>, rng: &mut Rng) {
    let Some((begin, end)) = piece(out, rng) else { return };
    let piece = out[begin..end].to_vec();
    let times = [1, 1, 2, 20, 500][rng.below(5)];
    let times = times.min((MAX_BYTES / 4) / piece.len().max(1));
    out.splice(end..end, piece.repeat(times));
}

/// A line, a bracketed part or a short run of bytes.
fn piece(out: &[u8], rng: &mut Rng) -> Option<(usize, usize)> {
    let (begin, end) = token(out, rng)?;
    if chance(rng, 30) {
        return Some((begin, end));
    }
    let (open, close) = [(b'\n', b'\n'), (b'{', b'}'), (b'[', b']'), (b',', b',')][rng.below(4)];
    let from = out[..begin].iter().rposition(|b| *b == open)?;
    let to = out[end..].iter().position(|b| *b == close)? + end + 1;
    Some((from, to))
}

fn remove_line(out: &mut Vec<u8>, rng: &mut Rng) {
    if let Some((begin, end)) = piece(out, rng) {
        out.drain(begin..end);
    }
}

fn insert(out: &mut Vec<u8>, what: &[u8], rng: &mut Rng) {
    let at = rng.below(out.len() + 1);
    out.splice(at..at, what.iter().copied());
}

/// An edit of bytes that knows nothing.
fn bytes(out: &mut Vec<u8>, other: &[u8], rng: &mut Rng) {
    if out.is_empty() {
        return insert(out, other, rng);
    }
    let at = rng.below(out.len());
    match rng.below(6) {
        0 => out[at] ^= 1 << rng.below(8),
        1 => out[at] = rng.below(256) as u8,
        2 => out.truncate(at),
        3 if !other.is_empty() => {
            out.truncate(at);
            out.extend_from_slice(&other[rng.below(other.len())..]);
        }
        4 => {
            let end = (at + 1 + rng.below(16)).min(out.len());
            out.drain(at..end);
        }
        _ => {
            let n = 1 + rng.below(8);
            let new: Vec<u8> = (0..n).map(|_| rng.below(256) as u8).collect();
            insert(out, &new, rng);
        }
    }
}

fn binary(seed: &[u8], other: &[u8], rng: &mut Rng) -> Vec<u8> {
    let mut out = seed.to_vec();
    for _ in 0..edits(rng) {
        match rng.below(6) {
            0 => bytes(&mut out, other, rng),
            1 => replace_token(&mut out, rng),
            2 => repeat(&mut out, rng),
            _ => number(&mut out, rng),
        }
    }
    out
}

/// Another number where one seems to stand: four or eight bytes that are small when read so.
fn number(out: &mut [u8], rng: &mut Rng) {
    let width = if chance(rng, 60) { 8 } else { 4 };
    if out.len() < width {
        return;
    }
    // Headers come first and are short beside the data.
    let most = out.len() - width + 1;
    let reach = if chance(rng, 80) { most.min(2048) } else { most };
    let read = |out: &[u8], at: usize| {
        let mut wide = [0; 8];
        wide[..width].copy_from_slice(&out[at..at + width]);
        u64::from_le_bytes(wide)
    };
    let mut at = rng.below(reach);
    for _ in 0..64 {
        if (1..1 << 20).contains(&read(out, at)) {
            break;
        }
        at = rng.below(reach);
    }
    let old = read(out, at);
    let new = match rng.below(4) {
        0 => old.wrapping_add(1),
        1 => old.wrapping_sub(1),
        _ => NUMBERS[rng.below(NUMBERS.len())],
    };
    out[at..at + width].copy_from_slice(&new.to_le_bytes()[..width]);
}

/// The header of a safetensors file and its data.
fn parts(file: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = file.split_first_chunk::<8>()?;
    rest.split_at_checked(usize::try_from(u64::from_le_bytes(*length)).ok()?)
}

fn safetensors(seed: &[u8], other: &[u8], rng: &mut Rng) -> Vec<u8> {
    match (parts(seed), chance(rng, 85)) {
        (Some((header, data)), true) => {
            let other = parts(other).map_or(other, |(header, _)| header);
            let header = text(header, other, rng);
            let mut data = data.to_vec();
            if chance(rng, 20) {
                bytes(&mut data, other, rng);
            }
            [&(header.len() as u64).to_le_bytes()[..], &header, &data].concat()
        }
        _ => binary(seed, other, rng),
    }
}

fn chosen(seed: &[u8], other: &[u8], rng: &mut Rng) -> Vec<u8> {
    let Some((first, rest)) = seed.split_first() else { return other.to_vec() };
    let other = other.get(1..).unwrap_or_default();
    let as_header = first % 2 == 1 && parts(rest).is_some();
    let rest = if as_header { safetensors(rest, other, rng) } else { text(rest, other, rng) };
    let first = if chance(rng, 2) { rng.below(256) as u8 } else { *first };
    [&[first][..], &rest].concat()
}

fn unzipped(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    MultiGzDecoder::new(bytes).take(MAX_BYTES as u64).read_to_end(&mut out).ok()?;
    Some(out)
}

fn zipped(seed: &[u8], other: &[u8], rng: &mut Rng) -> Vec<u8> {
    let Some(plain) = unzipped(seed) else { return text(seed, other, rng) };
    if chance(rng, 40) {
        return binary(seed, other, rng);
    }
    let other = unzipped(other).unwrap_or_else(|| other.to_vec());
    let changed = text(&plain, &other, rng);
    let mut out = GzEncoder::new(Vec::new(), Compression::fast());
    out.write_all(&changed).expect("memory takes what is written");
    out.finish().expect("memory takes what is written")
}

/// Half of the journals are sealed again, line by line, so that what they say is read.
fn journal(seed: &[u8], other: &[u8], rng: &mut Rng) -> Vec<u8> {
    let changed = text(seed, other, rng);
    if chance(rng, 40) {
        return changed;
    }
    let mut chain = Chain::default();
    let mut out = Vec::new();
    for line in changed.split(|b| *b == b'\n').filter(|line| !line.is_empty()) {
        let sealed = match serde_json::from_slice::<Value>(line) {
            Ok(Value::Object(mut object)) => {
                object.remove("chain");
                chain.seal(&object).ok()
            }
            _ => None,
        };
        out.extend(sealed.unwrap_or_else(|| [line, b"\n"].concat()));
    }
    out
}
