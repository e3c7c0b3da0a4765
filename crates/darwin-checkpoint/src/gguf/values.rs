//! Values of the metadata.

use super::scan::Scan;
use crate::Error;
use std::fmt;

/// A value of the metadata.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Unsigned(u64),
    Signed(i64),
    Float32(f32),
    Float64(f64),
    Bool(bool),
    Text(String),
    Texts(Vec<String>),
    Integers(Vec<i32>),
    /// A list of numbers of another type; only its length is kept.
    List(u64),
}

/// The format's number of a value's type.
mod types {
    pub(super) const U8: u32 = 0;
    pub(super) const I8: u32 = 1;
    pub(super) const U16: u32 = 2;
    pub(super) const I16: u32 = 3;
    pub(super) const U32: u32 = 4;
    pub(super) const I32: u32 = 5;
    pub(super) const F32: u32 = 6;
    pub(super) const BOOL: u32 = 7;
    pub(super) const TEXT: u32 = 8;
    pub(super) const LIST: u32 = 9;
    pub(super) const U64: u32 = 10;
    pub(super) const I64: u32 = 11;
    pub(super) const F64: u32 = 12;
}

/// The longest list that is kept: many times the tokens or merges of a vocabulary.
const MAX_LIST: u64 = 1 << 22;

impl Value {
    /// Reads the type and the value of a key.
    pub(super) fn read(scan: &mut Scan<'_>, key: &str) -> Result<Self, Error> {
        let what = format!("the value of key `{key}`");
        let kind = scan.u32(&what)?;
        match kind {
            types::LIST => list(scan, key, &what),
            _ => scalar(scan, key, kind, &what),
        }
    }

    /// A whole number.
    pub(super) fn as_u64(&self) -> Option<u64> {
        match *self {
            Self::Unsigned(n) => Some(n),
            Self::Signed(n) => u64::try_from(n).ok(),
            _ => None,
        }
    }

    /// A number. A float32 is the shortest decimal that it is nearest to: what was in the config
    /// that it was converted from.
    pub(super) fn as_f64(&self) -> Option<f64> {
        match *self {
            Self::Unsigned(n) => Some(n as f64),
            Self::Signed(n) => Some(n as f64),
            Self::Float32(x) => x.to_string().parse().ok(),
            Self::Float64(x) => Some(x),
            _ => None,
        }
    }
}

fn scalar(scan: &mut Scan<'_>, key: &str, kind: u32, what: &str) -> Result<Value, Error> {
    Ok(match kind {
        types::U8 => Value::Unsigned(scan.array::<1>(what)?[0].into()),
        types::I8 => Value::Signed((scan.array::<1>(what)?[0] as i8).into()),
        types::U16 => Value::Unsigned(u16::from_le_bytes(scan.array(what)?).into()),
        types::I16 => Value::Signed(i16::from_le_bytes(scan.array(what)?).into()),
        types::U32 => Value::Unsigned(scan.u32(what)?.into()),
        types::I32 => Value::Signed(i32::from_le_bytes(scan.array(what)?).into()),
        types::F32 => Value::Float32(f32::from_le_bytes(scan.array(what)?)),
        types::U64 => Value::Unsigned(scan.u64(what)?),
        types::I64 => Value::Signed(i64::from_le_bytes(scan.array(what)?)),
        types::F64 => Value::Float64(f64::from_le_bytes(scan.array(what)?)),
        types::TEXT => Value::Text(scan.text(what)?),
        types::BOOL => match scan.array::<1>(what)?[0] {
            0 => Value::Bool(false),
            1 => Value::Bool(true),
            other => return Err(damaged(scan, key, &format!("is {other}, needed is 0 or 1"))),
        },
        _ => return Err(unknown(scan, key, kind)),
    })
}

fn list(scan: &mut Scan<'_>, key: &str, what: &str) -> Result<Value, Error> {
    let (kind, count) = (scan.u32(what)?, scan.u64(what)?);
    let size = match kind {
        types::U8 | types::I8 | types::BOOL => 1,
        types::U16 | types::I16 => 2,
        types::U32 | types::I32 | types::F32 => 4,
        types::U64 | types::I64 | types::F64 | types::TEXT => 8,
        types::LIST => return Err(damaged(scan, key, "is a list of lists, which is not read")),
        _ => return Err(unknown(scan, key, kind)),
    };
    scan.expect(count.saturating_mul(size), what)?;
    if count > MAX_LIST && matches!(kind, types::TEXT | types::I32) {
        let text = format!("is a list of {count} values, allowed are {MAX_LIST}");
        return Err(damaged(scan, key, &text));
    }
    match kind {
        types::TEXT => {
            (0..count).map(|_| scan.text(what)).collect::<Result<_, _>>().map(Value::Texts)
        }
        types::I32 => {
            let number = |_| scan.array(what).map(i32::from_le_bytes);
            (0..count).map(number).collect::<Result<_, _>>().map(Value::Integers)
        }
        _ => {
            scan.skip(count * size, what)?;
            Ok(Value::List(count))
        }
    }
}

fn unknown(scan: &Scan<'_>, key: &str, kind: u32) -> Error {
    damaged(scan, key, &format!("has type {kind}, known are 0 to {}", types::F64))
}

fn damaged(scan: &Scan<'_>, key: &str, found: &str) -> Error {
    Error::one(
        format!("{}: key `{key}` {found}", scan.file()),
        "the file is damaged, or newer than this program: get it again, or convert the model anew",
    )
}

/// For messages; long values are cut.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unsigned(n) => write!(f, "{n}"),
            Self::Signed(n) => write!(f, "{n}"),
            Self::Float32(x) => write!(f, "{x}"),
            Self::Float64(x) => write!(f, "{x}"),
            Self::Bool(b) => write!(f, "{b}"),
            Self::Text(text) => write!(f, "`{}`", text.chars().take(60).collect::<String>()),
            Self::Texts(list) => write!(f, "a list of {} texts", list.len()),
            Self::Integers(list) => write!(f, "a list of {} numbers", list.len()),
            Self::List(count) => write!(f, "a list of {count} values"),
        }
    }
}
