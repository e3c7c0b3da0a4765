//! What a search asks for and what it is told: plain values, so that a job can be done anywhere.

use darwin_core::Domain;
use darwin_core::Split;
use darwin_core::files::{Asker, Estimate, Phase};
use darwin_merge::Recipe;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The father's and the mother's names in the recipes of jobs.
pub const FATHER: &str = "father";
/// The mother's.
pub const MOTHER: &str = "mother";
/// The mother's stand-in of `random-mother`: the father and random differences.
pub const RANDOM_MOTHER: &str = "random_mother";

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// The probability of the reference answers.
    Likelihood,
    /// Exact match of generated answers.
    ExactMatch,
    /// The probability, and its derivatives by share along the recipe's mother less the father.
    Slopes,
}

/// Some items of a split, by position in the run's set of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// The split.
    pub split: Split,
    /// Positions, ascending.
    pub indices: Vec<u32>,
}

/// A candidate to evaluate: a recipe of logical parents, an evaluator, its items.
#[derive(Clone, Debug)]
pub struct Job {
    /// Counted from 0 over the whole run.
    pub id: u64,
    /// The replicate, from 0.
    pub replicate: usize,
    /// On whose behalf.
    pub asker: Asker,
    /// The phase.
    pub phase: Phase,
    /// Step within replicate, asker and phase.
    pub step: usize,
    /// What is asked.
    pub ask: Ask,
}

/// What is asked of a candidate.
#[derive(Clone, Debug)]
pub struct Ask {
    /// Generation within asker and phase.
    pub generation: usize,
    /// Genes, where it has some.
    pub genes: Vec<f64>,
    /// What it is otherwise.
    pub label: Option<String>,
    /// The candidate.
    pub recipe: Arc<Recipe>,
    /// What is measured.
    pub work: Work,
    /// On which items.
    pub items: Window,
    /// What is known of the candidate on other items: its fitness is that of all of them.
    pub known: Option<Arc<Scored>>,
}

impl Ask {
    /// Asks about a candidate of which nothing is known, without genes and label.
    #[must_use]
    pub fn new(recipe: Arc<Recipe>, work: Work, items: Window) -> Self {
        let (genes, label, known) = (Vec::new(), None, None);
        Self { generation: 0, genes, label, recipe, work, items, known }
    }
}

/// What became of a job.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// Forward tokens; a pass with derivatives counts as several.
    pub tokens: u64,
    /// The scores, or why there are none.
    pub outcome: Result<Scored, String>,
}

/// Scores by domain, and derivatives where they were asked for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scored {
    /// By domain.
    pub domains: BTreeMap<Domain, Tally>,
    /// Derivatives of each domain's mean probability.
    pub slopes: Option<Arc<Slopes>>,
}

/// A domain's score.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Tally {
    /// Items.
    pub n: usize,
    /// Mean score: probability of the reference answer, or accuracy.
    pub score: f64,
    /// Mean gain over the father on the same items, with its paired standard error.
    pub gain: Estimate,
}

/// Derivatives of the mean probability of the reference answer by each group's share, by domain.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Slopes {
    /// By domain.
    pub domains: BTreeMap<Domain, Slope>,
}

/// One domain's.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Slope {
    /// The derivative (groups), for a share of 1.
    pub value: Vec<f32>,
    /// Its standard error over items (groups).
    pub se: Vec<f32>,
}

impl Scored {
    /// Of these items and others together.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        let mut domains = self.domains.clone();
        for (domain, more) in &other.domains {
            let tally = domains.entry(domain.clone()).or_default();
            *tally = tally.and(more);
        }
        Self { domains, slopes: None }
    }
}

impl Tally {
    /// Of a candidate's scores and the father's on the same items.
    #[must_use]
    pub fn paired(scores: &[f64], father: &[f64]) -> Self {
        let n = scores.len();
        let gains: Vec<f64> = scores.iter().zip(father).map(|(s, f)| s - f).collect();
        Self {
            n,
            score: scores.iter().sum::<f64>() / n.max(1) as f64,
            gain: darwin_eval::estimate(&gains),
        }
    }

    pub(crate) fn and(&self, other: &Self) -> Self {
        let (a, b) = (self.n as f64, other.n as f64);
        let total = (a + b).max(1.0);
        let mean = |x: f64, y: f64| (a * x + b * y) / total;
        Self {
            n: self.n + other.n,
            score: mean(self.score, other.score),
            gain: Estimate {
                value: mean(self.gain.value, other.gain.value),
                se: (a * self.gain.se).hypot(b * other.gain.se) / total,
            },
        }
    }
}
