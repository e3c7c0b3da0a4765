//! YAML as a tree that knows where everything stands.
//!
//! Scalars are kept as text and read by what the schema expects, so that YAML 1.1 and 1.2 spell
//! the same recipe: `1e-5` is a number, `yes` and `on` are true where a switch is expected.

use saphyr_parser::{Event, Parser, ScalarStyle, Span, StrInput};
use std::collections::BTreeMap;

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
            NodeKind::Scalar(text, _) => format!("`{text}`"),
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

/// Reads the only document of a text.
pub(super) fn parse(text: &str) -> Result<Node, Wrong> {
    let mut tree = Tree { parser: Parser::new_from_str(text), anchors: BTreeMap::new(), nodes: 0 };
    loop {
        let (event, span) = tree.next()?;
        match event {
            Event::StreamStart | Event::DocumentStart(_) => {}
            Event::StreamEnd => {
                return Err(wrong(mark(&span), "the recipe is empty"));
            }
            event => {
                let root = tree.node(event, &span)?;
                return tree.end().map(|()| root);
            }
        }
    }
}

/// Reads all documents of a text; empty ones are none.
pub(super) fn parse_all(text: &str) -> Result<Vec<Node>, Wrong> {
    let mut tree = Tree { parser: Parser::new_from_str(text), anchors: BTreeMap::new(), nodes: 0 };
    let mut documents = Vec::new();
    loop {
        let (event, span) = tree.next()?;
        match event {
            Event::StreamStart | Event::DocumentEnd => {}
            Event::DocumentStart(_) => tree.anchors.clear(),
            Event::StreamEnd if documents.is_empty() => {
                return Err(wrong(mark(&span), "the recipe is empty"));
            }
            Event::StreamEnd => return Ok(documents),
            event => {
                let node = tree.node(event, &span)?;
                documents.extend((!node.is_null()).then_some(node));
            }
        }
    }
}

/// A document with more nodes is an attack by aliases, not a recipe.
const MAX_NODES: usize = 1 << 20;

struct Tree<'a> {
    parser: Parser<'a, StrInput<'a>>,
    anchors: BTreeMap<usize, Node>,
    nodes: usize,
}

fn mark(span: &Span) -> Mark {
    (span.start.line(), span.start.col() + 1)
}

impl<'a> Tree<'a> {
    fn next(&mut self) -> Result<(Event<'a>, Span), Wrong> {
        match self.parser.next_event() {
            Some(Ok(found)) => Ok(found),
            Some(Err(error)) => {
                let at = (error.marker().line(), error.marker().col() + 1);
                Err(wrong(at, format!("not valid YAML: {}", error.info())))
            }
            None => Err(wrong((1, 1), "not valid YAML: it ends too early")),
        }
    }

    fn end(&mut self) -> Result<(), Wrong> {
        loop {
            match self.next()? {
                (Event::StreamEnd, _) => return Ok(()),
                (Event::DocumentStart(_), span) => {
                    let text = "document 2 begins here; a recipe is one document";
                    let hint = "write each document into a file of its own and merge in order";
                    return Err((mark(&span), text.to_owned(), hint.to_owned()));
                }
                _ => {}
            }
        }
    }

    fn node(&mut self, event: Event<'a>, span: &Span) -> Result<Node, Wrong> {
        let at = mark(span);
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            return Err(wrong(at, "the document is too large for a recipe"));
        }
        let (anchor, kind) = match event {
            Event::Scalar(text, style, anchor, _) => {
                let quoted = style != ScalarStyle::Plain;
                (anchor, NodeKind::Scalar(text.into_owned(), quoted))
            }
            Event::SequenceStart(anchor, ..) => (anchor, NodeKind::Sequence(self.sequence()?)),
            Event::MappingStart(anchor, ..) => (anchor, NodeKind::Mapping(self.mapping()?)),
            Event::Alias(anchor) => {
                let node = self.anchors.get(&anchor).cloned();
                return node.ok_or_else(|| wrong(at, "an alias to nothing"));
            }
            _ => return Err(wrong(at, "not valid YAML: a value was expected")),
        };
        let node = Node { mark: at, kind };
        if anchor > 0 {
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    fn sequence(&mut self) -> Result<Vec<Node>, Wrong> {
        let mut items = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd, _) => return Ok(items),
                (event, span) => items.push(self.node(event, &span)?),
            }
        }
    }

    fn mapping(&mut self) -> Result<Vec<Entry>, Wrong> {
        let mut entries: Vec<Entry> = Vec::new();
        loop {
            let (event, span) = self.next()?;
            if matches!(event, Event::MappingEnd) {
                return Ok(entries);
            }
            let key = self.node(event, &span)?;
            let Some(name) = key.text().map(str::to_owned) else {
                return Err(wrong(key.mark, "a key must be text"));
            };
            if entries.iter().any(|(other, ..)| *other == name) {
                return Err(wrong(key.mark, format!("the key `{name}` comes twice")));
            }
            let (event, span) = self.next()?;
            let value = self.node(event, &span)?;
            entries.push((name, key.mark, value));
        }
    }
}
