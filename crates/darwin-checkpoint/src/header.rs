//! Safetensors headers, validated once: whatever leaves this module can be trusted.
//!
//! The bytes of the tensors fill the file behind the header from its first byte to the last, as
//! the format's own library demands: what belongs to no tensor could be anything.

mod stated;

use crate::error::{Problems, cut};
use crate::{Dtype, Problem};
use serde::de::DeserializeSeed;
use stated::{Given, Loose, Stated, Tensors};
use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::path::Path;

/// The largest header accepted, as in the safetensors library.
pub const MAX_HEADER_BYTES: u64 = 100_000_000;

/// The most tensors of a file, and of a checkpoint: more than twice as many as the largest mixtures
/// of experts have with their scales.
pub const MAX_TENSORS: usize = 1 << 19;

/// The most dimensions of a tensor: those of a convolution over video, and some.
const MAX_DIMS: usize = 8;

/// The longest name of a tensor, bytes.
const MAX_NAME: usize = 1024;

/// The most rows or columns of a tensor that has no elements, one of its other dimensions being 0.
const MAX_EMPTY: u64 = 1 << 31;

const DAMAGED: &str = "the file is damaged or cut short: download it again";
const BROKEN: &str = "the file was written by a broken program: get it from its source again";

/// A tensor in a shard; its byte range (from the start of the file) lies inside the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) name: String,
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<usize>,
    pub(crate) bytes: Range<u64>,
}

/// Reads and checks the header of an open shard; every problem found is reported.
pub(crate) fn read_header(path: &Path, file: &mut File) -> Result<Vec<Entry>, Vec<Problem>> {
    let file_name = path.display();
    let one = |text: String| vec![Problem::new(text, DAMAGED)];
    let length =
        file.metadata().map_err(|e| one(format!("{file_name}: cannot read its size: {e}")))?.len();
    let mut prefix = [0; 8];
    file.read_exact(&mut prefix).map_err(|_| {
        one(format!("{file_name}: {length} bytes are too few for a safetensors file"))
    })?;
    let header_length = u64::from_le_bytes(prefix);
    if header_length > MAX_HEADER_BYTES && header_length > length {
        return Err(one(format!(
            "{file_name}: is not a safetensors file: its first bytes claim a header of \
             {header_length} bytes, the file has {length}"
        )));
    }
    if header_length > length.saturating_sub(8) {
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
    parse(&file_name.to_string(), &raw, length - 8 - header_length)
}

/// The tensors that a header lists for so many bytes behind it.
fn parse(file: &str, raw: &[u8], data_length: u64) -> Result<Vec<Entry>, Vec<Problem>> {
    let data_start = 8 + raw.len() as u64;
    let mut checked = Checked {
        file,
        data: data_start..data_start + data_length,
        entries: Vec::new(),
        problems: Problems::default(),
    };
    let mut json = serde_json::Deserializer::from_slice(raw);
    let read = Tensors(|given| checked.take(given)).deserialize(&mut json);
    if let Err(error) = read.and_then(|()| json.end()) {
        let text = format!("{file}: its header is not the JSON of safetensors: {error}");
        return Err(vec![Problem::new(text, DAMAGED)]);
    }
    checked.finish()
}

/// The entries of a header, checked one by one as they are read.
struct Checked<'a> {
    file: &'a str,
    /// Where the bytes of tensors lie in the file.
    data: Range<u64>,
    entries: Vec<Entry>,
    problems: Problems,
}

impl Checked<'_> {
    /// Takes an entry; a text where the header is refused as a whole.
    fn take(&mut self, given: Given) -> Result<(), String> {
        let Given { name, stated } = given;
        if self.entries.len() == MAX_TENSORS {
            return Err(format!("more than {MAX_TENSORS} tensors"));
        }
        match entry(&name, stated, &self.data) {
            Ok(entry) => self.entries.push(Entry { name, ..entry }),
            Err(found) => self.problems.push(Problem::new(
                format!("{}: tensor `{}`: {found}", self.file, cut(&name)),
                DAMAGED,
            )),
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Vec<Entry>, Vec<Problem>> {
        check_names(self.file, &self.entries, &mut self.problems);
        self.entries.sort_by_key(|e| (e.bytes.start, e.bytes.end));
        // Entries that were refused leave holes of their own.
        let whole = self.problems.is_empty();
        self.check_places(whole);
        self.problems.into_result(self.entries)
    }

    /// Every byte of the data belongs to one tensor.
    fn check_places(&mut self, whole: bool) {
        let mut end = self.data.start;
        let mut before: Option<&Entry> = None;
        for entry in &self.entries {
            let between = match before {
                Some(before) => format!("between `{}` and `{}`", before.name, entry.name),
                None => format!("before tensor `{}`", entry.name),
            };
            if entry.bytes.start < end {
                let other = before.map_or("", |before| &before.name);
                let text = format!("{}: tensors `{other}` and `{}` overlap", self.file, entry.name);
                self.problems.push(Problem::new(text, BROKEN));
            } else if entry.bytes.start > end && whole {
                let hidden = entry.bytes.start - end;
                let text = format!("{}: {hidden} bytes {between} belong to no tensor", self.file);
                self.problems.push(Problem::new(text, BROKEN));
            }
            end = end.max(entry.bytes.end);
            before = Some(entry);
        }
        if end < self.data.end && whole && self.problems.is_empty() {
            let hidden = self.data.end - end;
            let text =
                format!("{}: {hidden} bytes behind the last tensor belong to none", self.file);
            self.problems.push(Problem::new(text, BROKEN));
        }
    }
}

/// An entry without its name.
fn entry(name: &str, stated: Loose, data: &Range<u64>) -> Result<Entry, String> {
    if name.len() > MAX_NAME {
        return Err(format!("its name has {} bytes, allowed are {MAX_NAME}", name.len()));
    }
    let Stated { dtype, shape, offsets } = stated.checked()?;
    if shape.count > MAX_DIMS {
        return Err(format!("has {} dimensions, allowed are {MAX_DIMS}", shape.count));
    }
    let shape = shape.numbers;
    let dtype =
        Dtype::from_name(&dtype).ok_or_else(|| format!("unknown dtype `{}`", cut(&dtype)))?;
    let overflows = || format!("shape {shape:?} overflows");
    let elements = shape.iter().try_fold(1_u64, |n, d| n.checked_mul(*d)).ok_or_else(overflows)?;
    let size = elements.checked_mul(dtype.size() as u64).ok_or_else(overflows)?;
    let sides = shape.iter().filter(|d| **d > 0).try_fold(1_u64, |n, d| n.checked_mul(*d));
    if elements == 0 && sides.is_none_or(|sides| sides > MAX_EMPTY) {
        return Err(format!("shape {shape:?} has no elements and more than {MAX_EMPTY} rows"));
    }
    let [begin, end] = offsets;
    if end < begin || end - begin != size {
        return Err(format!(
            "offsets {begin}..{end} do not hold shape {shape:?} of {dtype} ({size} bytes)"
        ));
    }
    let length = data.end - data.start;
    if end > length {
        return Err(format!("ends at byte {end} of the data, the file has {length} (truncated)"));
    }
    Ok(Entry {
        name: String::new(),
        dtype,
        shape: shape.iter().map(|d| *d as usize).collect(),
        bytes: data.start + begin..data.start + end,
    })
}

fn check_names(file: &str, entries: &[Entry], problems: &mut Problems) {
    let mut names: Vec<&str> = entries.iter().map(|e| e.name.as_str()).collect();
    names.sort_unstable();
    for pair in names.windows(2) {
        if pair[0] == pair[1] {
            let text = format!("{file}: tensor `{}` appears twice", pair[0]);
            problems.push(Problem::new(text, BROKEN));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(header: &str, data: u64) -> Vec<String> {
        match parse("f", header.as_bytes(), data) {
            Ok(_) => Vec::new(),
            Err(problems) => problems.into_iter().map(|problem| problem.text).collect(),
        }
    }

    #[test]
    fn whatever_an_entry_is_the_others_are_read() {
        let good = r#""z":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"more":[[{}]]}"#;
        for (bad, part) in [
            ("7", "is a number, needed is an object"),
            ("\"x\"", "is a text"),
            ("[[[]],{}]", "is a list"),
            ("null", "is null"),
            (r#"{"shape":[1],"data_offsets":[0,1]}"#, "no `dtype`"),
            (r#"{"dtype":3,"shape":[1],"data_offsets":[0,1]}"#, "`dtype` is a number"),
            (r#"{"dtype":"U8","shape":{"a":1},"data_offsets":[0,1]}"#, "`shape` is an object"),
            (r#"{"dtype":"U8","shape":[-1],"data_offsets":[0,1]}"#, "`shape` is a list of more"),
            (r#"{"dtype":"U8","shape":[1.0],"data_offsets":[0,1]}"#, "`shape` is a list of more"),
            (r#"{"dtype":"U8","shape":[[1]],"data_offsets":[0,1]}"#, "`shape` is a list of more"),
            (r#"{"dtype":"U8","shape":[1],"data_offsets":[0]}"#, "`data_offsets` is a list of 1"),
            (r#"{"dtype":"U8","shape":[1],"data_offsets":[0,1,2]}"#, "is a list of 3"),
            (r#"{"dtype":"U8","dtype":"U8","shape":[1],"data_offsets":[0,1]}"#, "twice"),
            (r#"{"dtype":"U8","shape":[1,1,1,1,1,1,1,1,1],"data_offsets":[0,1]}"#, "9 dimensions"),
            (r#"{"dtype":"U8","shape":[4294967296,0],"data_offsets":[1,1]}"#, "no elements"),
            (r#"{"dtype":"U8","shape":[0,9999999999,999999],"data_offsets":[1,1]}"#, "no elements"),
        ] {
            let found = texts(&format!("{{\"a\":{bad},{good}}}"), 1);
            assert!(found.len() == 1 && found[0].contains(part), "{bad}: {found:?}");
            assert!(found[0].starts_with("f: tensor `a`: "), "{found:?}");
        }
        let none = format!("{{\"__metadata__\":{{\"a\":[1]}},\"a\":{},{good}}}", EMPTY);
        assert_eq!(texts(&none, 1), [""; 0]);
    }

    const EMPTY: &str = r#"{"dtype":"F32","shape":[7,0],"data_offsets":[1,1]}"#;

    #[test]
    fn no_byte_lies_outside_of_tensors() {
        let two = r#"{"a":{"dtype":"U8","shape":[2],"data_offsets":[A,B]},"b":{"dtype":"U8","shape":[1],"data_offsets":[C,D]}}"#;
        let with = |numbers: [&str; 4], data| {
            let places = ["A", "B", "C", "D"].into_iter().zip(numbers);
            texts(&places.fold(two.to_owned(), |text, (at, n)| text.replace(at, n)), data)
        };
        assert_eq!(with(["0", "2", "2", "3"], 3), [""; 0]);
        assert_eq!(with(["1", "3", "0", "1"], 3), [""; 0]);
        for (numbers, data, text) in [
            (["0", "2", "2", "3"], 7, "f: 4 bytes behind the last tensor belong to none"),
            (["0", "2", "4", "5"], 5, "f: 2 bytes between `a` and `b` belong to no tensor"),
            (["1", "3", "3", "4"], 4, "f: 1 bytes before tensor `a` belong to no tensor"),
            (["0", "2", "1", "2"], 2, "f: tensors `a` and `b` overlap"),
        ] {
            assert_eq!(with(numbers, data), [text]);
        }
        assert_eq!(texts("{}", 1), ["f: 1 bytes behind the last tensor belong to none"]);
    }

    #[test]
    fn names_numbers_of_tensors_and_problems_are_bounded() {
        let long = "x".repeat(MAX_NAME + 1);
        let entry = r#"{"dtype":"U8","shape":[0],"data_offsets":[0,0]}"#;
        let found = texts(&format!("{{\"{long}\":{entry}}}"), 0);
        assert!(found[0].len() < 300 && found[0].contains("1025 bytes"), "{found:?}");
        let many: Vec<String> = (0..MAX_TENSORS + 1).map(|i| format!("\"{i}\":{entry}")).collect();
        let found = texts(&format!("{{{}}}", many.join(",")), 0);
        assert!(found.len() == 1 && found[0].contains("more than 524288 tensors"), "{found:?}");
        let wrong: Vec<String> = (0..10_000).map(|i| format!("\"{i}\":{i}")).collect();
        let found = texts(&format!("{{{}}}", wrong.join(",")), 0);
        assert!(found.len() < 200, "{} problems", found.len());
    }

    proptest::proptest! {
        /// Entries that fill the data in any order are read; a hole or a byte too many is not.
        #[test]
        fn what_fills_the_data_is_read(sizes in proptest::collection::vec(0_u64..5, 1..8), more in 0_u64..3, turned: bool) {
            let mut at = 0;
            let mut entries: Vec<String> = sizes.iter().enumerate().map(|(i, size)| {
                let place = at..at + size;
                at += size;
                format!(r#""{i}":{{"dtype":"U8","shape":[{size}],"data_offsets":[{},{}]}}"#, place.start, place.end)
            }).collect();
            if turned {
                entries.reverse();
            }
            let found = parse("f", format!("{{{}}}", entries.join(",")).as_bytes(), at + more);
            proptest::prop_assert_eq!(found.is_ok(), more == 0);
        }

        /// Whatever the JSON, there is an answer.
        #[test]
        fn any_json_gets_an_answer(text in r#"\{("[a-c]":([0-9]|\{|\}|\[|\]|,|"dtype":|"U8"|"shape":|null){0,12},?){0,4}\}?"#) {
            let _ = parse("f", text.as_bytes(), 4);
        }
    }
}
