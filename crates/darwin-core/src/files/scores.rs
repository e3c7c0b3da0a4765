//! `scores.json`: what models scored, on which split, with how many items.

use super::profile::{Estimate, ModelRef};
use crate::{Domain, Split};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Correct answers out of n.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scored {
    /// Items.
    pub n: usize,
    /// Of them answered by exact match.
    pub correct: usize,
}

impl Scored {
    /// The share of correct answers; NaN without items.
    #[must_use]
    pub fn accuracy(self) -> f64 {
        self.correct as f64 / self.n as f64
    }
}

/// One model's score on one domain.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DomainScore {
    /// The domain's score: exact match, in the think format where the domain has one (method 6).
    pub exact: Scored,
    /// Exact match in the direct format, where the domain has two formats.
    pub direct: Option<Scored>,
    /// Negative log-likelihood, nats per answer, in the format of `exact`.
    pub nll: Estimate,
    /// Of the generated answers, how many never closed `<think>` (think format only).
    pub unclosed: usize,
}

/// One model's scores.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelScores {
    /// `father`, `mother`, `line`, `blind`, `guided`, …
    pub name: String,
    /// SHA-256 of the canonical recipe; empty for a parent.
    pub recipe_sha256: String,
    /// Scores by domain.
    pub domains: BTreeMap<Domain, DomainScore>,
    /// Mean of the domains' accuracies with its standard error.
    pub mean: Estimate,
    /// Per domain, exact McNemar p against the better parent.
    pub p_against_better_parent: BTreeMap<Domain, f64>,
}

/// `scores.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scores {
    /// [`super::SCHEMA`].
    pub schema: u32,
    /// The split; a split that was used for choosing is never a result.
    pub split: Split,
    /// SHA-256 over the ordered item ids.
    pub items_sha256: String,
    /// The parents.
    pub parents: Vec<ModelRef>,
    /// Protected domains (floors in the search).
    pub protected: Vec<Domain>,
    /// One entry per model.
    pub models: Vec<ModelScores>,
}
