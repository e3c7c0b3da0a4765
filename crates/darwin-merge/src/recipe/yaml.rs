//! YAML as a tree that knows where everything stands.
//!
//! Scalars are kept as text and read by what the schema expects, so that YAML 1.1 and 1.2 spell
//! the same recipe: `1e-5` is a number, `yes` and `on` are true where a switch is expected.
//!
//! A text may come from a stranger: its size, its depth, its nodes and its letters are bounded, and
//! what an alias stands for counts each time.

mod tree;

pub(super) use tree::{parse, parse_all};

use super::shortened;

/// Line and column, both from 1.
pub(super) type Mark = (usize, usize);

/// Where a problem is, what it is, and what to do.
type Wrong = (Mark, String, String);

fn wrong(at: Mark, text: impl Into<String>) -> Wrong {
    let hint = "see mergekit's documentation for the format of recipes";
    (at, text.into(), hint.to_owned())
}

/// A key, where it stands, and its value.
type Entry = (String, Mark, Node);

/// A node with its place.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) mark: Mark,
    pub(super) kind: NodeKind,
}

/// What a node holds.
#[derive(Clone, Debug)]
pub(super) enum NodeKind {
    /// Text, and whether it was quoted.
    Scalar(String, bool),
    Sequence(Vec<Node>),
    /// Keys in order; keys are scalars.
    Mapping(Vec<Entry>),
}

impl Node {
    /// The text of a scalar.
    pub(super) fn text(&self) -> Option<&str> {
        match &self.kind {
            NodeKind::Scalar(text, _) => Some(text),
            _ => None,
        }
    }

    /// Whether nothing was written: `key:`, `~`, `null`.
    pub(super) fn is_null(&self) -> bool {
        matches!(&self.kind, NodeKind::Scalar(text, false)
            if matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL"))
    }

    /// A whole number from 0.
    pub(super) fn index(&self) -> Option<usize> {
        let value = self.number()?;
        let whole = value >= 0.0 && value.fract() == 0.0 && value < f64::from(u32::MAX);
        whole.then_some(value as usize)
    }

    /// The number of a scalar, quoted or not: as YAML 1.1 reads it where it is plain (`010` is 8,
    /// `1:30` is 90), else as Python does (`1e-5`, `1_000`).
    pub(super) fn number(&self) -> Option<f64> {
        let NodeKind::Scalar(text, quoted) = &self.kind else { return None };
        let text = text.trim().replace('_', "");
        if !quoted && let Some(value) = yaml_1_1(&text) {
            return Some(value);
        }
        match text.as_str() {
            ".nan" | ".NaN" | ".NAN" => Some(f64::NAN),
            ".inf" | ".Inf" | ".INF" | "+.inf" => Some(f64::INFINITY),
            "-.inf" | "-.Inf" | "-.INF" => Some(f64::NEG_INFINITY),
            text => text.parse().ok(),
        }
    }

    /// The switch of a plain scalar, YAML 1.1's spellings included.
    pub(super) fn switch(&self) -> Option<bool> {
        match self.text()?.to_ascii_lowercase().as_str() {
            "true" | "yes" | "on" | "y" | "t" => Some(true),
            "false" | "no" | "off" | "n" | "f" => Some(false),
            _ => None,
        }
    }

    /// What a person would call it, for messages.
    pub(super) fn describe(&self) -> String {
        match &self.kind {
            NodeKind::Scalar(..) if self.is_null() => "nothing".to_owned(),
            NodeKind::Scalar(text, _) => format!("`{}`", shortened(text)),
            NodeKind::Sequence(_) => "a list".to_owned(),
            NodeKind::Mapping(_) => "a mapping".to_owned(),
        }
    }
}

/// Numbers that YAML 1.1 writes otherwise than Python: binary, octal, hexadecimal, base 60.
fn yaml_1_1(text: &str) -> Option<f64> {
    let (sign, digits) = match text.strip_prefix('-') {
        Some(rest) => (-1.0, rest),
        None => (1.0, text.strip_prefix('+').unwrap_or(text)),
    };
    let radix = |digits: &str, radix| {
        let plain = digits.bytes().all(|byte| byte.is_ascii_alphanumeric());
        u64::from_str_radix(digits, radix).ok().filter(|_| plain).map(|n| n as f64)
    };
    let value = if let Some(rest) = digits.strip_prefix("0b") {
        radix(rest, 2)
    } else if let Some(rest) = digits.strip_prefix("0x") {
        radix(rest, 16)
    } else if digits.contains(':') {
        base_60(digits)
    } else {
        digits.strip_prefix('0').and_then(|rest| radix(rest, 8))
    };
    value.map(|value| sign * value)
}

/// `1:30` is 90.
fn base_60(digits: &str) -> Option<f64> {
    let mut value = 0.0;
    for part in digits.split(':') {
        let plain = part.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
        value = value * 60.0 + part.parse::<f64>().ok().filter(|_| plain)?;
    }
    Some(value)
}
