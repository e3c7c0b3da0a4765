//! Safetensors headers, validated once: whatever leaves this module can be trusted.

use crate::{Dtype, Problem};
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::path::Path;

/// The largest header accepted, as in the safetensors library.
pub const MAX_HEADER_BYTES: u64 = 100_000_000;

/// A tensor in a shard; its byte range (from the start of the file) lies inside the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) name: String,
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<usize>,
    pub(crate) bytes: Range<u64>,
}

/// A validated header and its raw bytes (for hashing).
pub(crate) struct Header {
    pub(crate) entries: Vec<Entry>,
    pub(crate) raw: Vec<u8>,
}

/// Reads and checks the header of an open shard; every problem found is reported.
pub(crate) fn read_header(path: &Path, file: &mut File) -> Result<Header, Vec<Problem>> {
    let file_name = path.display();
    let redo = "the file is damaged or cut short: download it again";
    let one = |text: String| vec![Problem::new(text, redo)];
    let length =
        file.metadata().map_err(|e| one(format!("{file_name}: cannot read its size: {e}")))?.len();
    let mut prefix = [0; 8];
    file.read_exact(&mut prefix).map_err(|_| {
        one(format!("{file_name}: {length} bytes are too few for a safetensors file"))
    })?;
    let header_length = u64::from_le_bytes(prefix);
    if header_length > length - 8 {
        return Err(one(format!(
            "{file_name}: its header claims {header_length} bytes, the file has {length}"
        )));
    }
    if header_length > MAX_HEADER_BYTES {
        return Err(one(format!(
            "{file_name}: its header claims {header_length} bytes, allowed are {MAX_HEADER_BYTES}"
        )));
    }
    let mut raw = vec![0; header_length as usize];
    file.read_exact(&mut raw)
        .map_err(|e| one(format!("{file_name}: cannot read its header: {e}")))?;
    let pairs: Pairs = serde_json::from_slice(&raw)
        .map_err(|e| one(format!("{file_name}: its header is not the JSON of safetensors: {e}")))?;
    let entries = validate(&file_name.to_string(), pairs.0, 8 + header_length, length)?;
    Ok(Header { entries, raw })
}

fn validate(
    file: &str,
    pairs: Vec<(String, serde_json::Value)>,
    data_start: u64,
    file_length: u64,
) -> Result<Vec<Entry>, Vec<Problem>> {
    let mut problems = Vec::new();
    let mut entries = Vec::with_capacity(pairs.len());
    for (name, value) in pairs {
        if name == "__metadata__" {
            continue;
        }
        match entry(&name, &value, data_start, file_length) {
            Ok(e) => entries.push(e),
            Err(found) => problems.push(Problem::new(
                format!("{file}: tensor `{name}`: {found}"),
                "the file is damaged or cut short: download it again",
            )),
        }
    }
    check_disjoint(file, &mut entries, &mut problems);
    if problems.is_empty() { Ok(entries) } else { Err(problems) }
}

fn entry(
    name: &str,
    value: &serde_json::Value,
    data_start: u64,
    file_length: u64,
) -> Result<Entry, String> {
    let raw: RawEntry =
        RawEntry::deserialize(value).map_err(|e| format!("its header entry is malformed ({e})"))?;
    let dtype =
        Dtype::from_name(&raw.dtype).ok_or_else(|| format!("unknown dtype `{}`", raw.dtype))?;
    let elements = raw
        .shape
        .iter()
        .try_fold(1_u64, |n, d| n.checked_mul(*d))
        .ok_or_else(|| format!("shape {:?} overflows", raw.shape))?;
    let size = elements
        .checked_mul(dtype.size() as u64)
        .ok_or_else(|| format!("shape {:?} overflows", raw.shape))?;
    let [begin, end] = raw.data_offsets;
    if end < begin || end - begin != size {
        return Err(format!(
            "offsets {begin}..{end} do not hold shape {:?} of {dtype} ({size} bytes)",
            raw.shape
        ));
    }
    if end > file_length - data_start {
        return Err(format!(
            "ends at byte {end} of the data, the file has {} (truncated)",
            file_length - data_start
        ));
    }
    Ok(Entry {
        name: name.to_owned(),
        dtype,
        shape: raw.shape.iter().map(|d| *d as usize).collect(),
        bytes: data_start + begin..data_start + end,
    })
}

fn check_disjoint(file: &str, entries: &mut [Entry], problems: &mut Vec<Problem>) {
    entries.sort_by_key(|e| (e.bytes.start, e.bytes.end));
    for pair in entries.windows(2) {
        if pair[1].bytes.start < pair[0].bytes.end {
            problems.push(Problem::new(
                format!("{file}: tensors `{}` and `{}` overlap", pair[0].name, pair[1].name),
                "the file was written by a broken program: get it from its source again",
            ));
        }
    }
    let mut names: Vec<&str> = entries.iter().map(|e| e.name.as_str()).collect();
    names.sort_unstable();
    for pair in names.windows(2) {
        if pair[0] == pair[1] {
            problems.push(Problem::new(
                format!("{file}: tensor `{}` appears twice", pair[0]),
                "the file was written by a broken program: get it from its source again",
            ));
        }
    }
}

#[derive(serde::Deserialize)]
struct RawEntry {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: [u64; 2],
}

/// A JSON object as pairs, so that duplicate keys stay visible.
struct Pairs(Vec<(String, serde_json::Value)>);

impl<'de> Deserialize<'de> for Pairs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AsPairs;
        impl<'de> Visitor<'de> for AsPairs {
            type Value = Pairs;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(AsPairs)
    }
}
