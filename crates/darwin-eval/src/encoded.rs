//! Items as token ids, tokenised once per tokenizer.

use crate::{Error, Format, Item, ItemSet};
use darwin_core::{Domain, Split};
use darwin_engine::{ScoreItem, Text};

/// A prompt with its reference answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prompted {
    /// The chat prompt, generation prompt included.
    pub prompt: Vec<u32>,
    /// What should follow, with the stop token: the target, or trace, `</think>` and target.
    pub answer: Vec<u32>,
}

impl Prompted {
    /// Tokens of both.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.prompt.len() + self.answer.len()
    }

    /// Prompt and answer as one sequence.
    #[must_use]
    pub fn sequence(&self) -> Vec<u32> {
        [self.prompt.as_slice(), &self.answer].concat()
    }

    /// The pair as the engine scores it.
    #[must_use]
    pub fn score_item(&self) -> ScoreItem {
        ScoreItem { prompt: self.prompt.clone(), answer: self.answer.clone() }
    }

    /// At most `max` tokens: the answer is cut at its end, then the prompt at its beginning.
    fn truncate(&mut self, max: usize) {
        self.answer.truncate(max);
        let surplus = self.tokens().saturating_sub(max).min(self.prompt.len());
        self.prompt.drain(..surplus);
    }
}

/// One item in its formats.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncodedItem {
    /// The item's id.
    pub id: String,
    /// Its domain.
    pub domain: Domain,
    /// The right answer as text.
    pub target: String,
    /// The question alone: no template, no special token (for probes, method 1.4).
    pub question: Vec<u32>,
    /// The direct format, where the item has it.
    pub direct: Option<Prompted>,
    /// The think format, where the item has it.
    pub think: Option<Prompted>,
}

impl EncodedItem {
    /// The main format: think where the item has it, else direct.
    ///
    /// # Panics
    /// Never: an item has at least one format.
    #[must_use]
    pub fn main(&self) -> &Prompted {
        self.think.as_ref().or(self.direct.as_ref()).expect("an item has a format")
    }

    /// Which format is the main one.
    #[must_use]
    pub fn main_format(&self) -> Format {
        if self.think.is_some() { Format::Think } else { Format::Direct }
    }
}

/// A whole set, tokenised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded {
    items: Vec<EncodedItem>,
    split: Split,
    sha256: String,
    stop: Vec<u32>,
}

impl Encoded {
    /// Tokenises a set.
    ///
    /// # Errors
    /// Whatever the tokenizer or template brings; [`Error::NoStopToken`].
    pub fn new(set: &ItemSet, text: &Text) -> Result<Self, Error> {
        let stop = text.stop_ids();
        let end = *stop.first().ok_or(Error::NoStopToken)?;
        let items = set
            .items()
            .iter()
            .map(|item| encode_item(item, text, end))
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Self { items, split: set.split(), sha256: set.fingerprint().to_string(), stop })
    }

    /// Items that are token ids already; `sha256` names them.
    #[must_use]
    pub fn from_items(
        items: Vec<EncodedItem>,
        split: Split,
        sha256: impl Into<String>,
        stop: Vec<u32>,
    ) -> Self {
        Self { items, split, sha256: sha256.into(), stop }
    }

    /// Those of some of a set's items: `set` is [`ItemSet::select`] of the same positions.
    pub(crate) fn select(&self, set: &ItemSet, indices: &[u32]) -> Self {
        let items = indices.iter().map(|i| self.items[*i as usize].clone()).collect();
        let stop = self.stop.clone();
        Self { items, split: self.split, sha256: set.fingerprint().to_string(), stop }
    }

    /// The same items, each cut to at most `max` tokens (method 0: 512 in calibration).
    #[must_use]
    pub fn truncated(mut self, max: usize) -> Self {
        for item in &mut self.items {
            item.question.truncate(max);
            for prompted in [&mut item.direct, &mut item.think].into_iter().flatten() {
                prompted.truncate(max);
            }
        }
        self
    }

    /// The items, in the set's order.
    #[must_use]
    pub fn items(&self) -> &[EncodedItem] {
        &self.items
    }

    /// The split they belong to.
    #[must_use]
    pub fn split(&self) -> Split {
        self.split
    }

    /// The set's hash.
    #[must_use]
    pub fn sha256(&self) -> &str {
        &self.sha256
    }

    /// Tokens that end a generation; the first one ends every reference answer.
    #[must_use]
    pub fn stop_ids(&self) -> &[u32] {
        &self.stop
    }

    /// Forward tokens of one likelihood pass over the main formats: nothing follows an answer's last
    /// token, so it is not run.
    #[must_use]
    pub fn tokens(&self) -> u64 {
        self.items.iter().map(|i| i.main().tokens().saturating_sub(1) as u64).sum()
    }

    /// The main formats as the engine scores them.
    #[must_use]
    pub fn score_items(&self) -> Vec<ScoreItem> {
        self.items.iter().map(|i| i.main().score_item()).collect()
    }
}

fn encode_item(item: &Item, text: &Text, end: u32) -> Result<EncodedItem, Error> {
    let encode = |format| item.formats.contains(&format).then(|| prompted(item, format, text, end));
    Ok(EncodedItem {
        id: item.id.clone(),
        domain: item.domain.clone(),
        target: item.target.clone(),
        question: text.encode(&item.question)?,
        direct: encode(Format::Direct).transpose()?,
        think: encode(Format::Think).transpose()?,
    })
}

fn prompted(item: &Item, format: Format, text: &Text, end: u32) -> Result<Prompted, Error> {
    let thinking = format == Format::Think;
    let mut prompt = text.chat(&item.question, thinking)?;
    if thinking && !prompt.trim_end().ends_with("<think>") {
        prompt.push_str("<think>");
    }
    let answer = match format {
        Format::Direct => item.target.clone(),
        Format::Think => {
            format!("{}</think>{}", item.trace.as_deref().unwrap_or_default(), item.target)
        }
    };
    let mut answer = text.encode(&answer)?;
    answer.push(end);
    Ok(Prompted { prompt: text.encode(&prompt)?, answer })
}
