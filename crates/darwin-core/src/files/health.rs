//! `health.json`: the child against both parents (method 5).

use super::profile::{Estimate, ModelRef};
use crate::{Domain, Part};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Worth knowing.
    Note,
    /// Look at it.
    Warn,
    /// The child fails.
    Fail,
}

/// The verdict: the worst severity found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Nothing above a note.
    Pass,
    /// At least one warning.
    Warn,
    /// At least one failure: exit code 1.
    Fail,
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    /// How bad.
    pub severity: Severity,
    /// Which check: `interference`, `function_loss`, `inherited_dead`, `new_dead`, `nan`,
    /// `accounting`, `norm_drift`, `generation`.
    pub check: String,
    /// The layer, where one is meant.
    pub layer: Option<usize>,
    /// The component, where one is meant.
    pub component: Option<String>,
    /// The domain, where one is meant.
    pub domain: Option<Domain>,
    /// By how much.
    pub size: Option<f64>,
    /// The sentence, as on the card: "L23 interference: child importance 2.3x parent, …".
    pub text: String,
    /// What to try.
    pub advice: String,
}

/// One layer of the child beside both parents.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LayerHealth {
    /// Index from 0.
    pub layer: usize,
    /// Importance per component: [father, mother, child].
    pub importance: BTreeMap<Part, [Estimate; 3]>,
    /// Mean Jaccard index of the child's selected experts with the father's and the mother's.
    pub router_jaccard: Option<[f64; 2]>,
    /// Distance of the child's layer output from the segment between the parents' outputs, over
    /// the length of the segment.
    pub off_segment: f64,
    /// Dead experts of father, mother, child; absent where undecidable.
    pub dead: Option<[Vec<usize>; 3]>,
    /// Relative expert loads of the child.
    pub relative_load: Vec<f64>,
}

/// `health.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Health {
    /// [`super::SCHEMA`].
    pub schema: u32,
    /// The father.
    pub father: ModelRef,
    /// The mother.
    pub mother: ModelRef,
    /// The child.
    pub child: ModelRef,
    /// The verdict.
    pub verdict: Verdict,
    /// What was found, worst first.
    pub findings: Vec<Finding>,
    /// Checks that were run, with what they looked at.
    pub checks: BTreeMap<String, String>,
    /// One entry per layer.
    pub layers: Vec<LayerHealth>,
    /// NLL per domain: [father, mother, child].
    pub nll: BTreeMap<Domain, [Estimate; 3]>,
    /// Mean KL(parent || child) of the next-token distribution, nats: [father, mother].
    pub kl: [Estimate; 2],
    /// Share of positions with the parent's top token: [father, mother].
    pub same_top: [Estimate; 2],
}
