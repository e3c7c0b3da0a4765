//! YAML as a tree that knows where everything stands.
//!
//! Scalars are kept as text and read by what the schema expects, so that YAML 1.1 and 1.2 spell
//! the same recipe: `1e-5` is a number, `yes` and `on` are true where a switch is expected.

use saphyr_parser::{Event, Parser, ScalarStyle, Span, StrInput};
use std::collections::BTreeMap;

/// Line and column, both from 1.
pub(super) type Mark = (usize, usize);

/// A problem and where it is.
type Wrong = (Mark, String);

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

    /// The number of a plain scalar, as YAML 1.2 or Python would read it.
    pub(super) fn number(&self) -> Option<f64> {
        let text = self.text()?.trim().replace('_', "");
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
            "true" | "yes" | "on" => Some(true),
            "false" | "no" | "off" => Some(false),
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

/// Reads the only document of a text.
pub(super) fn parse(text: &str) -> Result<Node, Wrong> {
    let mut tree = Tree { parser: Parser::new_from_str(text), anchors: BTreeMap::new(), nodes: 0 };
    loop {
        let (event, span) = tree.next()?;
        match event {
            Event::StreamStart | Event::DocumentStart(_) => {}
            Event::StreamEnd => {
                return Err((mark(&span), "the recipe is empty".to_owned()));
            }
            event => {
                let root = tree.node(event, &span)?;
                return tree.end().map(|()| root);
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
                Err((at, format!("not valid YAML: {}", error.info())))
            }
            None => Err(((1, 1), "not valid YAML: it ends too early".to_owned())),
        }
    }

    fn end(&mut self) -> Result<(), Wrong> {
        loop {
            match self.next()? {
                (Event::StreamEnd, _) => return Ok(()),
                (Event::DocumentStart(_), span) => {
                    let text = "a second document begins here; a recipe is one document";
                    return Err((mark(&span), text.to_owned()));
                }
                _ => {}
            }
        }
    }

    fn node(&mut self, event: Event<'a>, span: &Span) -> Result<Node, Wrong> {
        let at = mark(span);
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            return Err((at, "the document is too large for a recipe".to_owned()));
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
                return node.ok_or_else(|| (at, "an alias to nothing".to_owned()));
            }
            _ => return Err((at, "not valid YAML: a value was expected".to_owned())),
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
                return Err((key.mark, "a key must be text".to_owned()));
            };
            if entries.iter().any(|(other, ..)| *other == name) {
                return Err((key.mark, format!("the key `{name}` comes twice")));
            }
            let (event, span) = self.next()?;
            let value = self.node(event, &span)?;
            entries.push((name, key.mark, value));
        }
    }
}
