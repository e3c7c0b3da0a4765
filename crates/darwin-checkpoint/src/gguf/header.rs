//! The header of a GGUF file, validated once: metadata and where each tensor lies. Whatever leaves
//! this module can be trusted to lie inside the file.

use super::kind::{Kind, SUPPORTED, type_name};
use super::scan::Scan;
use super::values::Value;
use crate::error::Problems;
use crate::header::MAX_TENSORS;
use crate::shards::MAX_BYTES;
use crate::{Error, MAX_HEADER_BYTES, Problem};
use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;
use std::path::Path;

/// The first four bytes.
const MAGIC: [u8; 4] = *b"GGUF";

/// Versions of the format that are read; version 1 had lengths of 32 bits.
const VERSIONS: [u32; 2] = [2, 3];

/// Where `general.alignment` says nothing else.
const ALIGNMENT: u64 = 32;

/// As many dimensions as ggml has.
const MAX_DIMS: u32 = 4;

/// The most keys of the metadata; files have some dozens.
const MAX_KEYS: u64 = 1 << 16;

const DAMAGED: &str = "the file is damaged or cut short: download it again";
const BROKEN: &str = "the file was written by a broken program: get it from its source again";

/// A tensor of the file; its byte range lies inside the file.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) kind: Kind,
    /// Rows first, as everywhere but in the file.
    pub(super) shape: Vec<usize>,
    pub(super) bytes: Range<u64>,
}

/// A validated header.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) metadata: BTreeMap<String, Value>,
    pub(super) entries: Vec<Entry>,
}

/// A tensor as the file states it, unchecked.
struct Stated {
    name: String,
    dims: Vec<u64>,
    kind: u32,
    offset: u64,
}

/// Reads and checks the header of an open file.
pub(super) fn read_header(path: &Path, file: &File) -> Result<Header, Error> {
    let name = path.display().to_string();
    let length = file.metadata().map_err(|e| Error::io("read", path, e))?.len();
    at_most(&name, "bytes", length, MAX_BYTES)?;
    let mut scan = Scan::new(&name, file, length, MAX_HEADER_BYTES);
    start(&mut scan)?;
    let (tensors, pairs) = (scan.u64("the number of tensors")?, scan.u64("the number of keys")?);
    let metadata = metadata(&mut scan, pairs)?;
    let stated: Vec<Stated> =
        (0..tensors).map(|i| tensor(&mut scan, i)).collect::<Result<_, _>>()?;
    let alignment = alignment(&name, &metadata)?;
    let data_start = scan.position().next_multiple_of(alignment);
    let mut problems = Problems::default();
    problems.extend(unreadable(&name, &stated));
    let mut entries = Vec::new();
    for stated in &stated {
        let Some(kind) = Kind::from_number(stated.kind) else { continue };
        match place(stated, kind, alignment, data_start, length) {
            Ok(entry) => entries.push(entry),
            Err(found) => problems
                .push(Problem::new(format!("{name}: tensor `{}`: {found}", stated.name), DAMAGED)),
        }
    }
    check_disjoint(&name, &entries, &mut problems);
    if problems.is_empty() {
        check_gaps(&name, &entries, alignment, data_start..length, &mut problems);
    }
    problems.into_result(()).map_err(Error::Invalid)?;
    Ok(Header { metadata, entries })
}

/// Magic and version.
fn start(scan: &mut Scan<'_>) -> Result<(), Error> {
    let file = scan.file().to_owned();
    let magic = scan.array::<4>("its first bytes")?;
    if magic != MAGIC {
        let text = format!("{file}: begins with {magic:?}, a GGUF file with {MAGIC:?} (`GGUF`)");
        return Err(Error::one(text, "give a GGUF file, or a folder with a checkpoint"));
    }
    let version = scan.u32("its version")?;
    if VERSIONS.contains(&version) {
        return Ok(());
    }
    if VERSIONS.contains(&version.swap_bytes()) {
        let text = format!("{file}: is a GGUF file for machines whose bytes lie the other way");
        return Err(Error::one(text, "get the little-endian file of this model"));
    }
    Err(Error::one(
        format!("{file}: is GGUF version {version}, supported are 2 and 3"),
        "convert the model again with a current program",
    ))
}

fn metadata(scan: &mut Scan<'_>, pairs: u64) -> Result<BTreeMap<String, Value>, Error> {
    let mut metadata = BTreeMap::new();
    for i in 0..pairs {
        at_most(scan.file(), "keys", i + 1, MAX_KEYS)?;
        let key = scan.text(&format!("the name of key {i}"))?;
        let value = Value::read(scan, &key)?;
        if metadata.contains_key(&key) {
            return Err(Error::one(format!("{}: key `{key}` appears twice", scan.file()), BROKEN));
        }
        metadata.insert(key, value);
    }
    Ok(metadata)
}

fn tensor(scan: &mut Scan<'_>, i: u64) -> Result<Stated, Error> {
    at_most(scan.file(), "tensors", i + 1, MAX_TENSORS as u64)?;
    let name = scan.text(&format!("the name of tensor {i}"))?;
    let what = format!("the header entry of tensor `{name}`");
    let dims = scan.u32(&what)?;
    if !(1..=MAX_DIMS).contains(&dims) {
        return Err(Error::one(
            format!(
                "{}: tensor `{name}` has {dims} dimensions, allowed are 1 to {MAX_DIMS}",
                scan.file()
            ),
            DAMAGED,
        ));
    }
    let dims = (0..dims).map(|_| scan.u64(&what)).collect::<Result<_, _>>()?;
    Ok(Stated { name, dims, kind: scan.u32(&what)?, offset: scan.u64(&what)? })
}

fn alignment(file: &str, metadata: &BTreeMap<String, Value>) -> Result<u64, Error> {
    match metadata.get("general.alignment") {
        None => Ok(ALIGNMENT),
        Some(Value::Unsigned(n)) if n.is_power_of_two() && *n <= 1 << 20 => Ok(*n),
        Some(other) => Err(Error::one(
            format!(
                "{file}: key `general.alignment` is {other}, needed is a power of two up to 2^20"
            ),
            DAMAGED,
        )),
    }
}

/// One problem for each type that cannot be read.
fn unreadable(file: &str, stated: &[Stated]) -> Vec<Problem> {
    let mut kinds: BTreeMap<u32, Vec<&str>> = BTreeMap::new();
    for tensor in stated.iter().filter(|t| Kind::from_number(t.kind).is_none()) {
        kinds.entry(tensor.kind).or_default().push(&tensor.name);
    }
    let problem = |(kind, names): (&u32, &Vec<&str>)| {
        let which = match names[..] {
            [only] => format!("tensor `{only}` is"),
            _ => format!("{} tensors, the first `{}`, are", names.len(), names[0]),
        };
        Problem::new(
            format!("{file}: {which} {}, supported are {SUPPORTED}", type_name(*kind)),
            "get the model as F16, BF16, Q8_0, Q4_0 or Q4_1, or as safetensors",
        )
    };
    kinds.iter().map(problem).collect()
}

fn place(
    stated: &Stated,
    kind: Kind,
    alignment: u64,
    data_start: u64,
    file_length: u64,
) -> Result<Entry, String> {
    let dims = &stated.dims;
    let (block, block_bytes) = (kind.block() as u64, kind.block_bytes() as u64);
    if dims.contains(&0) {
        return Err(format!("its shape {dims:?} has a 0"));
    }
    if !dims[0].is_multiple_of(block) {
        return Err(format!(
            "rows of {} are no whole blocks of {block} ({})",
            dims[0],
            kind.name()
        ));
    }
    let size = dims
        .iter()
        .try_fold(1_u64, |n, d| n.checked_mul(*d))
        .and_then(|elements| (elements / block).checked_mul(block_bytes))
        .ok_or_else(|| format!("its shape {dims:?} overflows"))?;
    if !stated.offset.is_multiple_of(alignment) {
        return Err(format!(
            "begins at byte {} of the data, no multiple of {alignment}",
            stated.offset
        ));
    }
    let start = data_start.checked_add(stated.offset);
    let end = start.and_then(|start| start.checked_add(size));
    let (Some(start), Some(end)) = (start, end) else {
        return Err(format!("its offset {} overflows", stated.offset));
    };
    if end > file_length {
        return Err(format!("ends at byte {end}, the file has {file_length} (truncated)"));
    }
    Ok(Entry {
        name: stated.name.clone(),
        kind,
        shape: dims.iter().rev().map(|d| *d as usize).collect(),
        bytes: start..end,
    })
}

fn at_most(file: &str, what: &str, found: u64, allowed: u64) -> Result<(), Error> {
    if found <= allowed {
        return Ok(());
    }
    Err(Error::one(format!("{file}: has {found} {what} or more, allowed are {allowed}"), DAMAGED))
}

/// Between tensors there is nothing but what aligns the next, as ggml demands.
fn check_gaps(
    file: &str,
    entries: &[Entry],
    alignment: u64,
    data: Range<u64>,
    problems: &mut Problems,
) {
    let mut sorted: Vec<&Range<u64>> = entries.iter().map(|entry| &entry.bytes).collect();
    sorted.sort_by_key(|bytes| bytes.start);
    let ends = sorted.iter().map(|bytes| bytes.end);
    let starts = sorted.iter().map(|bytes| bytes.start).chain([data.end]);
    for (end, start) in std::iter::once(data.start).chain(ends).zip(starts) {
        let hidden = start.saturating_sub(end);
        if hidden >= alignment {
            let text = format!("{file}: {hidden} bytes from byte {end} on belong to no tensor");
            problems.push(Problem::new(text, BROKEN));
        }
    }
}

fn check_disjoint(file: &str, entries: &[Entry], problems: &mut Problems) {
    let mut sorted: Vec<&Entry> = entries.iter().collect();
    sorted.sort_by_key(|e| (e.bytes.start, e.bytes.end));
    for pair in sorted.windows(2) {
        if pair[1].bytes.start < pair[0].bytes.end {
            let text = format!("{file}: tensors `{}` and `{}` overlap", pair[0].name, pair[1].name);
            problems.push(Problem::new(text, BROKEN));
        }
    }
    sorted.sort_by(|a, b| a.name.cmp(&b.name));
    for pair in sorted.windows(2) {
        if pair[0].name == pair[1].name {
            let text = format!("{file}: tensor `{}` appears twice", pair[0].name);
            problems.push(Problem::new(text, BROKEN));
        }
    }
}
