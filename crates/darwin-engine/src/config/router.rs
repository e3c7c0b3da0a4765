//! How a router chooses.

/// How a router turns logits into a choice and gates.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RouterForm {
    /// The gates of the chosen experts sum to 1 before they are scaled (`norm_topk_prob`).
    pub normalised: bool,
    /// From logits to scores.
    pub scores: RouterScores,
    /// A bias for each expert is added to its score for the choice alone
    /// (`gate.e_score_correction_bias`).
    pub bias: bool,
    /// Experts are chosen out of the best groups.
    pub groups: Option<RouterGroups>,
    /// What gates are multiplied with (`routed_scaling_factor`).
    pub scaling: f32,
}

/// From a router's logits to scores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouterScores {
    /// Softmax over all experts.
    Softmax,
    /// Each for itself.
    Sigmoid,
}

/// Experts lie in groups of equal size, of which the best are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouterGroups {
    /// How many there are (`n_group`).
    pub count: usize,
    /// How many are kept (`topk_group`).
    pub kept: usize,
    /// A group counts as much as the sum of so many of its best experts.
    pub best: usize,
}

impl RouterForm {
    /// The usual one: the `k` most likely experts of the softmax.
    pub(crate) fn softmax(normalised: bool) -> Self {
        let scores = RouterScores::Softmax;
        Self { normalised, scores, bias: false, groups: None, scaling: 1.0 }
    }
}
