//! Items of one split.

use crate::Error;
use crate::item_line::{Line, read_text};
use darwin_core::hash::sha256_hex;
use darwin_core::{Domain, Fingerprint, Split, nearest};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// A prompt format (method 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Format {
    /// The answer follows at once.
    Direct,
    /// The generation prompt ends with `<think>`; the answer follows `</think>`.
    Think,
}

impl Format {
    /// The name used in item files.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Think => "think",
        }
    }
}

/// One item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Its id; a hash of the content in Darwin's own files.
    pub id: String,
    /// Its domain.
    pub domain: Domain,
    /// The generator or source within the domain.
    pub family: String,
    /// What is asked.
    pub question: String,
    /// The right answer.
    pub target: String,
    /// The reference reasoning between `<think>` and `</think>`.
    pub trace: Option<String>,
    /// The formats that it is asked in.
    pub formats: Vec<Format>,
}

impl Item {
    /// Think where the item has it, else direct.
    #[must_use]
    pub fn main_format(&self) -> Format {
        if self.formats.contains(&Format::Think) { Format::Think } else { Format::Direct }
    }

    /// Everything that an item is, by name.
    fn parts(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let fixed = [
            ("id", self.id.as_str()),
            ("domain", self.domain.as_str()),
            ("family", &self.family),
            ("question", &self.question),
            ("target", &self.target),
        ];
        let trace = self.trace.iter().map(|trace| ("trace", trace.as_str()));
        let formats = self.formats.iter().map(|format| ("format", format.name()));
        fixed.into_iter().chain(trace).chain(formats)
    }

    fn content_hash(&self) -> String {
        let trace = self.trace.as_deref().unwrap_or_default();
        let parts = [self.domain.as_str(), &self.question, &self.target, trace];
        sha256_hex(parts.join("\0").as_bytes())
    }
}

/// The items of one split, without duplicates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ItemSet {
    items: Vec<Item>,
    split: Split,
    duplicates: usize,
    fingerprint: Fingerprint,
}

impl ItemSet {
    /// Reads JSON lines, plain or gzipped:
    /// `{"id","domain","family","question","target","trace"?,"formats":["direct","think"]}`.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Line`] naming file, line and key; [`Error::Empty`].
    pub fn open(path: &Path, split: Split) -> Result<Self, Error> {
        let text = read_text(path)?;
        let items = Line::parse_all(path, &text)
            .map(|line| parse_item(&line?))
            .collect::<Result<_, _>>()?;
        let set = Self::from_items(items, split);
        if set.items.is_empty() {
            return Err(Error::Empty { name: path.display().to_string() });
        }
        Ok(set)
    }

    /// A set of items in the order given; those whose id or content came before are dropped and
    /// counted.
    #[must_use]
    pub fn from_items(items: Vec<Item>, split: Split) -> Self {
        let (mut ids, mut contents) = (BTreeSet::new(), BTreeSet::new());
        let before = items.len();
        let items: Vec<Item> = items
            .into_iter()
            .filter(|i| ids.insert(i.id.clone()) && contents.insert(i.content_hash()))
            .collect();
        let mut parts = vec![("split", split.name())];
        items.iter().for_each(|item| parts.extend(item.parts()));
        let fingerprint = Fingerprint::of("items", parts);
        Self { duplicates: before - items.len(), items, split, fingerprint }
    }

    /// The first `n` items of every domain in the order of the SHA-256 of their ids.
    #[must_use]
    pub fn take_per_domain(&self, n: usize) -> Self {
        self.take(|_| n)
    }

    /// The first items of every domain, as many as asked for, in the order of the SHA-256 of their
    /// ids.
    #[must_use]
    pub fn take(&self, n: impl Fn(&Domain) -> usize) -> Self {
        let mut taken = BTreeMap::new();
        let kept = self.by_hash().into_iter().filter(|item| {
            let count = taken.entry(item.domain.clone()).or_insert(0);
            *count += 1;
            *count <= n(&item.domain)
        });
        Self::from_items(kept.cloned().collect(), self.split)
    }

    /// Some of the items, by position, in that order.
    ///
    /// # Panics
    /// If there is no such item.
    #[must_use]
    pub fn select(&self, indices: &[u32]) -> Self {
        let items = indices.iter().map(|i| self.items[*i as usize].clone());
        Self::from_items(items.collect(), self.split)
    }

    fn by_hash(&self) -> Vec<&Item> {
        let mut order: Vec<&Item> = self.items.iter().collect();
        order.sort_by_cached_key(|item| sha256_hex(item.id.as_bytes()));
        order
    }

    /// The set's identity: SHA-256 over the split and everything that each item is, in order.
    #[must_use]
    pub fn fingerprint(&self) -> &Fingerprint {
        &self.fingerprint
    }

    /// The items.
    #[must_use]
    pub fn items(&self) -> &[Item] {
        &self.items
    }

    /// The split they belong to.
    #[must_use]
    pub fn split(&self) -> Split {
        self.split
    }

    /// Duplicates that were dropped.
    #[must_use]
    pub fn duplicates(&self) -> usize {
        self.duplicates
    }

    /// Items per domain.
    #[must_use]
    pub fn domains(&self) -> BTreeMap<Domain, usize> {
        let mut counts = BTreeMap::new();
        for item in &self.items {
            *counts.entry(item.domain.clone()).or_insert(0) += 1;
        }
        counts
    }
}

fn parse_item(line: &Line<'_>) -> Result<Item, Error> {
    let item = Item {
        id: line.text("id")?.to_owned(),
        domain: parse_domain(line)?,
        family: line.optional_text("family")?.unwrap_or_default().to_owned(),
        question: line.text("question")?.to_owned(),
        target: line.text("target")?.to_owned(),
        trace: line.optional_text("trace")?.map(str::to_owned),
        formats: parse_formats(line)?,
    };
    if item.formats.contains(&Format::Think) && item.trace.is_none() {
        return Err(line.wrong(
            "key `trace` is missing although `formats` has \"think\"".to_owned(),
            "give the reference reasoning, or only the format \"direct\"",
        ));
    }
    Ok(item)
}

fn parse_domain(line: &Line<'_>) -> Result<Domain, Error> {
    let name = line.text("domain")?;
    name.parse().map_err(|_| {
        let hint = match nearest(name, Domain::KNOWN) {
            Some(known) => format!("did you mean `{known}`? Own domains are named `x-…`"),
            None => format!("use one of {} or a name `x-…`", Domain::KNOWN.join(", ")),
        };
        line.wrong(format!("key `domain` is `{name}`, which is no known domain"), &hint)
    })
}

fn parse_formats(line: &Line<'_>) -> Result<Vec<Format>, Error> {
    let hint = "allowed are \"direct\" and \"think\"";
    let Some(list) = line.optional_list("formats")? else { return Ok(vec![Format::Direct]) };
    let formats = list
        .iter()
        .map(|value| match value.as_str() {
            Some("direct") => Ok(Format::Direct),
            Some("think") => Ok(Format::Think),
            _ => Err(line.wrong(format!("key `formats` holds {}", text_of(value)), hint)),
        })
        .collect::<Result<Vec<_>, _>>()?;
    if formats.is_empty() {
        return Err(line.wrong("key `formats` is empty".to_owned(), hint));
    }
    Ok(formats)
}

fn text_of(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), |s| format!("`{s}`"))
}
