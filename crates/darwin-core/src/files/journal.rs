//! `journal.jsonl`: one line per candidate. It holds nothing that differs between an
//! uninterrupted run and a resumed one; timings go to another file.

use crate::{Domain, Split};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The first line of a journal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunHeader {
    /// [`super::SCHEMA`].
    pub schema: u32,
    /// SHA-256 of everything that decides the run: configuration, parents, items.
    pub run_sha256: String,
    /// Seeds, named apart: run, masks, splits, calibration.
    pub seeds: BTreeMap<String, u64>,
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
    /// The arm.
    pub arm: String,
    /// The phase.
    pub phase: Phase,
    /// Step within arm and phase, from 0.
    pub step: usize,
    /// Generation within arm and phase, from 0.
    pub generation: usize,
    /// Genes in the search's (logit) space; empty for fixed recipes.
    pub genes: Vec<f64>,
    /// What the candidate is when it is not a genome (`father`, `t=0.3`, `card`).
    pub label: Option<String>,
    /// SHA-256 of the canonical recipe.
    pub recipe_sha256: String,
    /// SHA-256 over the item ids.
    pub items_sha256: String,
    /// The split.
    pub split: Split,
    /// Fitness, higher is better: penalties included.
    pub fitness: f64,
    /// Score per domain: -NLL in the proxy phase, accuracy in the others.
    pub domains: BTreeMap<Domain, f64>,
    /// Items per domain.
    pub n: BTreeMap<Domain, usize>,
    /// Forward tokens spent.
    pub tokens: u64,
    /// How it ended.
    pub status: Status,
}
