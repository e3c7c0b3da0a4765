//! `journal.jsonl`: one line per candidate. It holds nothing that differs between an
//! uninterrupted run and a resumed one; timings go to another file.
//!
//! Lines are chained: the last key of each is SHA-256 over the chain of the line before and the
//! line's own text, so that a changed, lost or added line shows.

use super::{Estimate, Origin};
use crate::hash::Hasher;
use crate::{Domain, Fingerprint, Split};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The first line of a journal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunHeader {
    /// [`super::SCHEMA`].
    pub schema: u32,
    /// Fingerprint of the origin.
    pub run: Fingerprint,
    /// Everything that decides the run: arithmetic, parents, items, configuration.
    pub origin: Origin,
    /// Seeds, named apart: run, masks, splits, calibration.
    pub seeds: BTreeMap<String, u64>,
}

/// The arms of a search (method 3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ArmName {
    /// The grid of t, refined.
    Line,
    /// CMA-ES over the small genome; nothing is known.
    Blind,
    /// CMA-ES over a share for each layer and part; nothing is known.
    BlindWide,
    /// Ascent along derivatives, then CMA-ES around its result.
    Guided,
    /// Linear maps solved from both parents' activations; the mother's weight is searched.
    #[serde(rename = "regmean")]
    RegMean,
    /// As `guided`, the derivatives permuted within their kind over layers and experts.
    Placebo,
    /// As `guided`, the mother's differences replaced by random numbers of the same norms.
    RandomMother,
    /// As `guided`, the derivatives with the other sign.
    Inverted,
    /// Random genes in the box of the small genome.
    Random,
    /// The published rule of the seed, literally.
    Card,
    /// The published rule of the seed's sibling, literally: scores of each tensor's values.
    CardV5,
    /// CMA-ES over the four genes of the published blind predecessor.
    V4,
}

impl ArmName {
    /// All arms, in the order of a table.
    pub const ALL: [Self; 12] = [
        Self::Line,
        Self::Blind,
        Self::BlindWide,
        Self::Guided,
        Self::RegMean,
        Self::Placebo,
        Self::RandomMother,
        Self::Inverted,
        Self::Random,
        Self::Card,
        Self::CardV5,
        Self::V4,
    ];

    /// The name used in files and tables.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Line => "line",
            Self::Blind => "blind",
            Self::BlindWide => "blind-wide",
            Self::Guided => "guided",
            Self::RegMean => "regmean",
            Self::Placebo => "placebo",
            Self::RandomMother => "random-mother",
            Self::Inverted => "inverted",
            Self::Random => "random",
            Self::Card => "card",
            Self::CardV5 => "card-v5",
            Self::V4 => "v4",
        }
    }

    /// Whether it climbs along derivatives.
    #[must_use]
    pub fn ascends(self) -> bool {
        matches!(self, Self::Guided | Self::Placebo | Self::RandomMother | Self::Inverted)
    }
}

/// On whose behalf a candidate is evaluated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Asker {
    /// Everybody: parents, the line, the diagnosis.
    Baseline,
    /// An arm.
    Arm(ArmName),
}

impl Asker {
    /// The name used in files and tables.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Baseline => "baseline",
            Self::Arm(arm) => arm.name(),
        }
    }
}

impl From<Asker> for String {
    fn from(asker: Asker) -> Self {
        asker.name().to_owned()
    }
}

impl TryFrom<String> for Asker {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        let arms = ArmName::ALL.into_iter().map(Self::Arm);
        let mut all = std::iter::once(Self::Baseline).chain(arms);
        all.find(|asker| asker.name() == name).ok_or_else(|| format!("there is no arm `{name}`"))
    }
}

/// Phase of the evolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Likelihood on the `proxy` split.
    Proxy,
    /// The benchmark on the `search` split.
    Real,
    /// Choice of the child on the `selection` split.
    Selection,
}

/// How an evaluation ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// With a score.
    Ok,
    /// Without one, and why; it counts as a step all the same.
    Failed(String),
}

/// One evaluated candidate (interface 8 of ARCHITECTURE.md).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JournalLine {
    /// [`super::SCHEMA`].
    pub schema: u32,
    /// The job, counted from 0 over the whole run.
    pub id: u64,
    /// The replicate, from 0: each has its own items and random numbers.
    pub replicate: usize,
    /// On whose behalf.
    pub arm: Asker,
    /// The phase.
    pub phase: Phase,
    /// Step within replicate, arm and phase, from 0.
    pub step: usize,
    /// Generation within arm and phase, from 0.
    pub generation: usize,
    /// Genes in the search's space; empty for fixed recipes and for shares of an ascent.
    pub genes: Vec<f64>,
    /// What the candidate is when it is not a genome (`father`, `t=0.3`, `ascent`).
    pub label: Option<String>,
    /// The recipe: its canonical form with logical parents, and their fingerprints.
    pub recipe_sha256: String,
    /// The items' content.
    pub items_sha256: String,
    /// The split.
    pub split: Split,
    /// Fitness, higher is better: the father's mean score in this phase and the weighted gains over
    /// him, less the fines of protected domains.
    pub fitness: f64,
    /// Score per domain: mean probability exp(-NLL) of the reference answer in the proxy phase,
    /// accuracy in the others.
    pub domains: BTreeMap<Domain, f64>,
    /// Gain over the father on the same items per domain, with its paired standard error.
    pub gains: BTreeMap<Domain, Estimate>,
    /// Items per domain.
    pub n: BTreeMap<Domain, usize>,
    /// Forward tokens spent; a pass with derivatives counts as several.
    pub tokens: u64,
    /// SHA-256 of the derivatives that were asked for, kept in `slopes/ID.safetensors`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slopes_sha256: Option<String>,
    /// How it ended.
    pub status: Status,
}

/// A journal's text, read and checked.
#[derive(Clone, Debug, PartialEq)]
pub struct JournalText {
    /// The first line; `None` where not even that is whole.
    pub header: Option<RunHeader>,
    /// The lines behind it, up to the first that is damaged.
    pub lines: Vec<JournalLine>,
    /// The chain behind the last whole line.
    pub chain: Chain,
    /// Bytes of whole lines from the beginning.
    pub whole: usize,
    /// Bytes of a last line that was cut off.
    pub torn: usize,
    /// The first damaged line, from 1, and what is wrong with it. What stands before it is good.
    pub damaged: Option<(usize, String)>,
}

impl JournalText {
    /// Reads a journal: a last line without its newline was cut off by a crash; any other line
    /// that is no JSON of its kind, or does not fit the chain, is damaged.
    #[must_use]
    pub fn read(bytes: &[u8]) -> Self {
        let end = bytes.iter().rposition(|b| *b == b'\n').map_or(0, |i| i + 1);
        let mut read = Self {
            header: None,
            lines: Vec::new(),
            chain: Chain::default(),
            whole: 0,
            torn: bytes.len() - end,
            damaged: None,
        };
        for (i, line) in bytes[..end].split_inclusive(|b| *b == b'\n').enumerate() {
            if let Err(what) = read.line(i, line.strip_suffix(b"\n").unwrap_or(line)) {
                read.damaged = Some((i + 1, what));
                break;
            }
            read.whole += line.len();
        }
        read
    }

    fn line(&mut self, i: usize, line: &[u8]) -> Result<(), String> {
        let mut chain = self.chain.clone();
        let text = chain.open(line)?;
        let schema = |schema: u32| {
            let other = schema != super::SCHEMA;
            if other {
                Err(format!("it has schema {schema}, not {}", super::SCHEMA))
            } else {
                Ok(())
            }
        };
        let unread = |e: serde_json::Error| format!("it cannot be read: {e}");
        if i == 0 {
            let header: RunHeader = serde_json::from_slice(&text).map_err(unread)?;
            schema(header.schema)?;
            self.header = Some(header);
        } else {
            let line: JournalLine = serde_json::from_slice(&text).map_err(unread)?;
            schema(line.schema)?;
            self.lines.push(line);
        }
        self.chain = chain;
        Ok(())
    }
}

/// The hash that chains the lines of a journal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chain(String);

/// What stands around the chain's 64 digits at the end of a line.
const BEFORE: &[u8] = b",\"chain\":\"";
const BEHIND: &[u8] = b"\"}";

impl Chain {
    /// A value as the journal's next line, with its newline.
    ///
    /// # Errors
    /// What `serde_json` brings for a value that is no JSON object.
    pub fn seal<T: Serialize>(&mut self, value: &T) -> serde_json::Result<Vec<u8>> {
        let mut line = serde_json::to_vec(value)?;
        if line.pop() != Some(b'}') {
            return Err(serde::ser::Error::custom("a line of a journal is an object"));
        }
        self.0 = self.next(&line);
        line.extend_from_slice(BEFORE);
        line.extend_from_slice(self.0.as_bytes());
        line.extend_from_slice(BEHIND);
        line.push(b'\n');
        Ok(line)
    }

    /// The object in a line, whose chain must be the next.
    fn open(&mut self, line: &[u8]) -> Result<Vec<u8>, String> {
        const UNCHAINED: &str = "it does not end with a `chain` of 64 digits";
        let rest = line.strip_suffix(BEHIND).ok_or(UNCHAINED)?;
        let (rest, digits) = rest.split_last_chunk::<64>().ok_or(UNCHAINED)?;
        let text = rest.strip_suffix(BEFORE).ok_or(UNCHAINED)?;
        let next = self.next(text);
        if next.as_bytes() != digits {
            return Err("its text or a line before it was changed (the chain does not fit)".into());
        }
        self.0 = next;
        let mut object = text.to_vec();
        object.push(b'}');
        Ok(object)
    }

    fn next(&self, line: &[u8]) -> String {
        let mut hasher = Hasher::default();
        hasher.update(self.0.as_bytes());
        hasher.update(line);
        hasher.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::SCHEMA;

    #[test]
    fn an_arm_has_one_name() {
        for arm in ArmName::ALL {
            let text = serde_json::to_string(&arm).expect("JSON");
            assert_eq!(text, format!("\"{}\"", arm.name()));
        }
    }

    fn journal() -> Vec<u8> {
        let of = |text: &str| Fingerprint::of("test", [("text", text)]);
        let origin = Origin::now([("father", &of("f"))], [("proxy", &of("i"))], of("o"));
        let seeds = [("run".to_owned(), 1)].into();
        let header = RunHeader { schema: SCHEMA, run: origin.fingerprint(), origin, seeds };
        let mut chain = Chain::default();
        let mut text = chain.seal(&header).expect("an object");
        for step in 0..3 {
            text.extend(chain.seal(&line(step)).expect("an object"));
        }
        text
    }

    fn line(step: usize) -> JournalLine {
        JournalLine {
            schema: SCHEMA,
            id: step as u64,
            replicate: 0,
            arm: Asker::Arm(ArmName::Blind),
            phase: Phase::Proxy,
            step,
            generation: 0,
            genes: vec![0.1 + 0.2, -1e-300],
            label: None,
            recipe_sha256: format!("r{step}"),
            items_sha256: "i".into(),
            split: Split::Proxy,
            fitness: 1.0 / 3.0,
            domains: BTreeMap::new(),
            gains: BTreeMap::new(),
            n: BTreeMap::new(),
            tokens: 9,
            slopes_sha256: None,
            status: Status::Ok,
        }
    }

    #[test]
    fn what_was_written_is_read() {
        let read = JournalText::read(&journal());
        assert_eq!((read.lines.len(), read.torn, &read.damaged), (3, 0, &None));
        assert_eq!(read.lines[2], line(2));
        assert_eq!(read.whole, journal().len());
        assert!(read.header.is_some());
        assert_eq!(JournalText::read(b"").header, None);
    }

    #[test]
    fn every_flipped_bit_is_seen_in_its_line() {
        let whole = journal();
        let number = |at: usize| whole[..at].iter().filter(|b| **b == b'\n').count() + 1;
        for at in 0..whole.len() - 1 {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            let read = JournalText::read(&bytes);
            let (line, _) = read.damaged.expect("a damaged line");
            // A newline that is gone joins two lines, one that is new parts one.
            assert!(line == number(at), "byte {at}: line {line}, not {}", number(at));
            assert_eq!(read.lines.len(), line.saturating_sub(2));
        }
    }

    #[test]
    fn a_lost_or_doubled_line_is_seen() {
        let whole = journal();
        let lines: Vec<&[u8]> = whole.split_inclusive(|b| *b == b'\n').collect();
        for (order, damaged) in
            [(vec![0, 1, 3], 3), (vec![0, 1, 1, 2, 3], 3), (vec![0, 2, 1, 3], 2), (vec![1, 2], 1)]
        {
            let bytes: Vec<u8> = order.iter().flat_map(|i| lines[*i]).copied().collect();
            assert_eq!(JournalText::read(&bytes).damaged.expect("damaged").0, damaged);
        }
    }

    #[test]
    fn a_last_line_may_be_cut_off_anywhere() {
        let whole = journal();
        for cut in 0..whole.len() {
            let read = JournalText::read(&whole[..cut]);
            assert_eq!(read.damaged, None, "cut at {cut}");
            assert_eq!(read.whole + read.torn, cut);
        }
    }
}
