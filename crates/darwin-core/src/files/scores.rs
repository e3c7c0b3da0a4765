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

/// What a model gains on the goal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GoalGain {
    /// The weighted mean of the goal's accuracies.
    pub score: f64,
    /// The parent whose weighted mean is higher.
    pub better_parent: String,
    /// The difference to that parent, paired by item.
    pub gain: Estimate,
}

/// What a model lost in a protected domain.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Protection {
    /// Difference of accuracies to the father, paired by item; below 0 is a loss.
    pub difference: Estimate,
    /// What may be lost.
    pub margin: f64,
    /// One-sided p of a loss of the margin or more: below 0.05 the domain is not inferior.
    pub p_inferior: f64,
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
    /// What it gains on the goal over the better parent; absent for parents.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub goal: Option<GoalGain>,
    /// What it lost in each protected domain; empty for parents.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub protected: BTreeMap<Domain, Protection>,
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
    /// What each domain weighs in the goal; domains that are not named weigh nothing.
    #[serde(default)]
    pub weights: BTreeMap<Domain, f64>,
    /// One entry per model.
    pub models: Vec<ModelScores>,
}
