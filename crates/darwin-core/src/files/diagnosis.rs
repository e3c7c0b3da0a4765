//! `diagnosis.json`: what would change if a share changed, measured at the line's best point, and
//! what became of it (method 1.6, 2).

use super::{ArmName, Estimate, Origin};
use crate::{Domain, ExpertIdx, LayerIdx, Part};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Derivatives of the goal and of domains by the mother's share.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DiagnosisFile {
    /// [`super::SCHEMA`].
    pub schema: u32,
    /// The run's origin.
    pub origin: Origin,
    /// The share of the mother at which it was measured: the best point of the line.
    pub t: f64,
    /// Items per domain.
    pub n: BTreeMap<Domain, usize>,
    /// Correlation over all groups between the goal's derivatives on two disjoint halves of them.
    pub repeatability: f64,
    /// By layer and part, from the input to the output.
    pub parts: Vec<PartSlope>,
    /// The routed experts whose derivatives are furthest from 0 in standard errors.
    pub experts: Vec<ExpertSlope>,
    /// Rank correlation over layers of the swaps of whole layers with the derivative; absent where
    /// it is undefined.
    pub swaps_correlation: Option<f64>,
    /// The arm whose champion's shares and gain stand here: the child's arm where its recipe has a
    /// share for each group, else the first that ascended; absent where none did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arm: Option<ArmName>,
    /// What derivatives and the measurement say that this champion gains over the line's best point;
    /// absent where it has no share for each group.
    pub child: Option<Prediction>,
    /// Forward tokens that it cost.
    pub forward_tokens: u64,
}

/// A part's derivatives: what a step of all its shares by 1 would change, by the slope at the point.
/// Above 0 the mother's is better.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PartSlope {
    /// Its layer; none for embedding, final norm and head.
    pub layer: Option<LayerIdx>,
    /// Which part.
    pub part: Part,
    /// Of the goal: mean probability of the reference answers, weighted over domains.
    pub goal: Estimate,
    /// Of each domain.
    pub domains: BTreeMap<Domain, Estimate>,
    /// Curvature of the goal.
    pub curvature: f64,
    /// The champion's shares in it: least, mean and most; absent where it has none for each group.
    pub shares: Option<[f64; 3]>,
}

/// A routed expert's derivative of the goal.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExpertSlope {
    /// Its layer.
    pub layer: LayerIdx,
    /// Which expert.
    pub expert: ExpertIdx,
    /// Of its matrices and its row of the router together.
    pub goal: Estimate,
    /// The champion's mean share of it.
    pub share: Option<f64>,
}

/// A gain foretold and measured, on the scale of the mean probability.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Prediction {
    /// By the quadratic model at the line's best point.
    pub predicted: f64,
    /// By the derivatives added up along the ascent that led to it, each step by those of the items
    /// that came after it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub along: Option<f64>,
    /// In the last comparison on the proxy.
    pub measured: f64,
}
