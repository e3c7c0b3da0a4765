//! From the events of a parser to a tree, within limits.

use super::{Entry, Mark, Node, NodeKind, Wrong, wrong};
use crate::recipe::shortened;
use darwin_core::fs::MAX_TEXT_BYTES;
use saphyr_parser::{Event, Parser, ScalarStyle, Span, StrInput};
use std::collections::{BTreeMap, BTreeSet};

/// Lists and mappings within one another, those behind aliases included: recipes have about ten.
const MAX_DEPTH: usize = 64;

/// Nodes of a text, counted each time that an alias stands for them.
const MAX_NODES: usize = 1 << 18;

/// Bytes of all scalars, counted in the same way.
const MAX_LETTERS: usize = 4 * MAX_TEXT_BYTES as usize;

/// Documents of a text.
const MAX_DOCUMENTS: usize = 100;

/// Reads the only document of a text.
pub(in crate::recipe) fn parse(text: &str) -> Result<Node, Wrong> {
    let mut tree = Tree::new(text)?;
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
pub(in crate::recipe) fn parse_all(text: &str) -> Result<Vec<Node>, Wrong> {
    let mut tree = Tree::new(text)?;
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
                if documents.len() > MAX_DOCUMENTS {
                    let text = format!("there are more than {MAX_DOCUMENTS} documents");
                    return Err(wrong(mark(&span), text));
                }
            }
        }
    }
}

/// What a node takes, with all that is in it.
#[derive(Clone, Copy, Default)]
struct Size {
    nodes: usize,
    letters: usize,
    /// Lists and mappings within one another.
    height: usize,
}

struct Tree<'a> {
    parser: Parser<'a, StrInput<'a>>,
    anchors: BTreeMap<usize, (Node, Size)>,
    /// Of all that was made; its height is how deep the next node lies.
    made: Size,
}

fn mark(span: &Span) -> Mark {
    (span.start.line(), span.start.col() + 1)
}

impl<'a> Tree<'a> {
    fn new(text: &'a str) -> Result<Self, Wrong> {
        if text.len() as u64 > MAX_TEXT_BYTES {
            let found = format!("the text has {} bytes, allowed are {MAX_TEXT_BYTES}", text.len());
            return Err(wrong((1, 1), found));
        }
        let parser = Parser::new_from_str(text);
        Ok(Self { parser, anchors: BTreeMap::new(), made: Size::default() })
    }

    fn next(&mut self) -> Result<(Event<'a>, Span), Wrong> {
        match self.parser.next_event() {
            Some(Ok(found)) => Ok(found),
            Some(Err(error)) => {
                let at = (error.marker().line(), error.marker().col() + 1);
                Err(wrong(at, format!("not valid YAML: {}", shortened(error.info()))))
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

    /// Counts what is made, and refuses what is too much.
    fn count(&mut self, at: Mark, size: Size) -> Result<(), Wrong> {
        self.made.nodes = self.made.nodes.saturating_add(size.nodes);
        self.made.letters = self.made.letters.saturating_add(size.letters);
        if self.made.nodes > MAX_NODES || self.made.letters > MAX_LETTERS {
            return Err(wrong(at, "the document is too large for a recipe"));
        }
        if self.made.height + size.height > MAX_DEPTH {
            let text = format!("lists and mappings are more than {MAX_DEPTH} deep");
            return Err(wrong(at, text));
        }
        Ok(())
    }

    fn node(&mut self, event: Event<'a>, span: &Span) -> Result<Node, Wrong> {
        let at = mark(span);
        let before = self.made;
        let (anchor, kind) = match event {
            Event::Scalar(text, style, anchor, _) => {
                self.count(at, Size { nodes: 1, letters: text.len(), height: 0 })?;
                let quoted = style != ScalarStyle::Plain;
                (anchor, NodeKind::Scalar(text.into_owned(), quoted))
            }
            Event::SequenceStart(anchor, ..) => {
                self.enter(at)?;
                (anchor, NodeKind::Sequence(self.sequence()?))
            }
            Event::MappingStart(anchor, ..) => {
                self.enter(at)?;
                (anchor, NodeKind::Mapping(self.mapping()?))
            }
            Event::Alias(anchor) => {
                let size = self.anchors.get(&anchor).map(|(_, size)| *size);
                self.count(at, size.unwrap_or_default())?;
                let node = self.anchors.get(&anchor).map(|(node, _)| node.clone());
                return node.ok_or_else(|| wrong(at, "an alias to nothing"));
            }
            _ => return Err(wrong(at, "not valid YAML: a value was expected")),
        };
        self.made.height = before.height;
        let node = Node { mark: at, kind };
        if anchor > 0 {
            let size = Size {
                nodes: self.made.nodes - before.nodes,
                letters: self.made.letters - before.letters,
                height: height(&node),
            };
            self.count(at, Size { height: 0, ..size })?;
            self.anchors.insert(anchor, (node.clone(), size));
        }
        Ok(node)
    }

    /// Goes into a list or a mapping.
    fn enter(&mut self, at: Mark) -> Result<(), Wrong> {
        self.count(at, Size { nodes: 1, letters: 0, height: 1 })?;
        self.made.height += 1;
        Ok(())
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
        let mut names = BTreeSet::new();
        loop {
            let (event, span) = self.next()?;
            if matches!(event, Event::MappingEnd) {
                return Ok(entries);
            }
            let key = self.node(event, &span)?;
            let Some(name) = key.text().map(str::to_owned) else {
                return Err(wrong(key.mark, "a key must be text"));
            };
            if !names.insert(name.clone()) {
                let text = format!("the key `{}` comes twice", shortened(&name));
                return Err(wrong(key.mark, text));
            }
            let (event, span) = self.next()?;
            let value = self.node(event, &span)?;
            entries.push((name, key.mark, value));
        }
    }
}

/// Lists and mappings within one another; no more than [`MAX_DEPTH`].
fn height(node: &Node) -> usize {
    match &node.kind {
        NodeKind::Scalar(..) => 0,
        NodeKind::Sequence(items) => 1 + items.iter().map(height).max().unwrap_or(0),
        NodeKind::Mapping(entries) => {
            1 + entries.iter().map(|(.., value)| height(value)).max().unwrap_or(0)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        match parse_all(text) {
            Ok(_) => "read".to_owned(),
            Err((_, text, _)) => text,
        }
    }

    /// Chains of anchors: each stands `times` times in the next.
    fn chain(links: usize, times: usize, open: &str, close: &str) -> String {
        let mut text = format!("a0: &a0 {open}x{close}\n");
        for i in 1..links {
            let inner = vec![format!("*a{}", i - 1); times].join(",");
            text.push_str(&format!("a{i}: &a{i} {open}{inner}{close}\n"));
        }
        text
    }

    #[test]
    fn what_is_deep_is_refused_however_it_is_written() {
        let deep = |part: &str, times: usize| format!("a:\n  {}x\n", part.repeat(times));
        for text in [
            deep("- ", 14_000),
            deep("- ", 1_000_000),
            format!("{}a\n", "? ".repeat(7_000)),
            deep("[", 200),
            deep("[", 60_000),
            deep("{a: ", 60_000),
            deep("- ? ", 20_000),
            deep("!!t - ", 20_000),
            deep("&a - ", 20_000),
            chain(65, 1, "[", "]"),
            chain(10_000, 1, "[", "]"),
            chain(10, 1, &"[".repeat(20), &"]".repeat(20)),
        ] {
            let found = refused(&text);
            let deep = found.contains("more than 64 deep") || found.contains("not valid YAML");
            assert!(deep, "{}: {found}", &text[..40]);
        }
        let nested = format!("{}x{}", "[".repeat(64), "]".repeat(64));
        assert_eq!(refused(&nested), "read");
        assert!(refused(&format!("[{nested}]")).contains("more than 64 deep"));
        assert_eq!(refused(&chain(60, 1, "[", "]")), "read");
    }

    #[test]
    fn aliases_count_for_what_they_stand_for() {
        let large = "the document is too large for a recipe";
        assert_eq!(refused(&chain(8, 10, "[", "]")), large);
        let text = "x".repeat(100_000);
        let aliases = vec!["*a"; 1_000].join(",");
        assert_eq!(refused(&format!("- &a {text}\n- [{aliases}]\n")), large);
        // Each of them holds all the others.
        let anchors: String = (0..60).map(|i| format!("&a{i} [")).collect();
        let items = vec!["x"; 100_000].join(",");
        assert_eq!(refused(&format!("{anchors}{items}{}", "]".repeat(60))), large);
        assert_eq!(refused("a: &a [x, y]\nb: [*a, *a]\n"), "read");
        assert_eq!(refused("a: *b\n"), "not valid YAML: while parsing node, found unknown anchor");
    }

    #[test]
    fn many_keys_are_read_or_refused_at_once() {
        let keys = |count: usize| (0..count).map(|i| format!("k{i}: 1\n")).collect::<String>();
        let start = std::time::Instant::now();
        assert_eq!(refused(&keys(100_000)), "read");
        assert_eq!(refused(&keys(150_000)), "the document is too large for a recipe");
        assert_eq!(refused(&format!("{}k7: 2\n", keys(50_000))), "the key `k7` comes twice");
        assert!(start.elapsed().as_secs() < 20, "keys are compared in pairs");
        let large = "#".repeat(MAX_TEXT_BYTES as usize + 1);
        assert!(refused(&large).contains("the text has 4194305 bytes"));
        assert!(refused(&"--- a\n".repeat(200)).contains("more than 100 documents"));
    }

    proptest::proptest! {
        /// Whatever the text, there is an answer.
        #[test]
        fn any_text_gets_an_answer(text in "([-?:\\[\\]{},&*!|>#%@ \n\t'\"]|[a-c]|: |- |&a |\\*a|--- ){0,60}") {
            let _ = parse(&text);
            let _ = parse_all(&text);
        }
    }
}
