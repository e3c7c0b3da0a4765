//! `profile.json` and `comparison.json` (method 1). Per-sample counters lie beside them in
//! `samples.safetensors`, so that profiles of shards add up exactly.

use super::Origin;
use crate::stats::Interval;
use crate::{Domain, Fingerprint, Part, Split};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A mean with its standard error over samples (never over tokens).
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// The mean; not a number, `null` in the file, where it is undefined.
    #[serde(with = "crate::stats::nullable")]
    pub value: f64,
    /// Its standard error over samples; likewise.
    #[serde(with = "crate::stats::nullable")]
    pub se: f64,
}

impl Estimate {
    /// The normal interval `value` +- `z` `se`.
    #[must_use]
    pub fn interval(&self, z: f64) -> Interval {
        Interval::normal(self.value, self.se, z)
    }
}

/// Which model a file speaks of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelRef {
    /// The name it was given on the command line or in the configuration.
    pub name: String,
    /// The `architectures` entry of its config.
    pub architecture: String,
    /// Weights, config and tokenizer.
    pub fingerprint: Fingerprint,
    /// SHA-256 of `tokenizer.json`, empty where there is none.
    pub tokenizer_sha256: String,
    /// SHA-256 of the chat template, empty where there is none.
    pub template_sha256: String,
}

/// Which samples a profile was measured on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CalibrationRef {
    /// SHA-256 over the split and the samples' domains and tokens, in order.
    pub items_sha256: String,
    /// The split they come from.
    pub split: Split,
    /// Samples after duplicates were dropped.
    pub samples: usize,
    /// Tokens, all positions that are counted.
    pub tokens: u64,
    /// Samples per domain.
    pub domains: BTreeMap<Domain, usize>,
}

/// A model's profile: the "model MRI" of phase 0.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Profile {
    /// [`super::SCHEMA`].
    pub schema: u32,
    /// The model.
    pub model: ModelRef,
    /// What it was made from; a profile of another origin is made anew.
    pub origin: Origin,
    /// What it was measured on.
    pub calibration: CalibrationRef,
    /// Name and version of the engine, and its arithmetic.
    pub engine: String,
    /// Dtype of the weights.
    pub dtype: String,
    /// Routed experts per layer.
    pub num_experts: usize,
    /// Experts per token.
    pub num_experts_per_tok: usize,
    /// One entry per decoder layer.
    pub layers: Vec<LayerProfile>,
    /// Mean negative log-likelihood per domain (nats per answer).
    pub nll: BTreeMap<Domain, Estimate>,
    /// Golden layer of each probe by the literal distance (method 1.4); never decides alone.
    pub golden_layers: BTreeMap<String, usize>,
    /// Forward tokens that the profile cost.
    pub forward_tokens: u64,
}

/// One decoder layer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LayerProfile {
    /// Index from 0.
    pub layer: usize,
    /// `linear_attention` or `full_attention`.
    pub kind: String,
    /// Loads and what follows from them (method 1.1); absent in a dense layer.
    pub experts: Option<ExpertLoads>,
    /// Router quantities (method 1.2); absent in a dense layer.
    pub routing: Option<Routing>,
    /// Importance per component, ||u|| / ||h_in|| (method 1.4).
    pub importance: BTreeMap<Part, Estimate>,
    /// Share of a full-attention mixer's output per head.
    pub head_importance: Vec<f64>,
    /// 1 - mean cos(h_in, h_out).
    pub block_influence: Estimate,
    /// Distance of each probe from the generic set.
    pub probes: BTreeMap<String, ProbeDistance>,
    /// (entropy of weights' histogram in bits, sd, L2/sqrt(n)) averaged over the layer's tensors.
    pub static_stats: [f64; 3],
}

/// Expert loads (method 1.1). Vectors have one entry per expert.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExpertLoads {
    /// Tokens routed to each expert.
    pub tokens: Vec<u64>,
    /// Relative load f_j E / k (1 = uniform).
    pub relative_load: Vec<f64>,
    /// Mean gate weight over all tokens.
    pub gate_mass: Vec<f64>,
    /// One-sided 95 % upper bound of the relative load.
    pub upper: Vec<f64>,
    /// One-sided 95 % lower bound of the relative load.
    pub lower: Vec<f64>,
    /// Design effect of the loads over samples.
    pub deff: f64,
    /// T / deff.
    pub n_eff: f64,
    /// Experts with an upper bound below 0.01; empty and meaningless when `undecidable` is set.
    pub dead: Vec<usize>,
    /// Experts with an upper bound below 0.1.
    pub cold: Vec<usize>,
    /// Experts with a lower bound above 5.
    pub hot: Vec<usize>,
    /// Experts dead in most domains and loaded above 1 in one, with that domain.
    pub specialists: BTreeMap<usize, Domain>,
    /// Set when the sample is too small to call anything dead: tokens needed.
    pub undecidable: Option<u64>,
    /// Literal measurements.
    pub literal: LiteralLoad,
    /// Relative load per domain.
    pub by_domain: BTreeMap<Domain, Vec<f64>>,
    /// Dead experts per domain, where decidable.
    pub dead_by_domain: BTreeMap<Domain, Vec<usize>>,
}

/// The published definitions of a dead expert, each as the share of experts below 5 %.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LiteralLoad {
    /// Share of experts whose token rate is below 5 %.
    pub token_rate_below: f64,
    /// What no router can go below: max(0, 1 - 20k/E).
    pub token_rate_floor: f64,
    /// Share of experts whose selection share is below 5 %.
    pub selection_share_below: f64,
    /// max(0, 1 - 20/E).
    pub selection_share_floor: f64,
    /// Share of experts selected in fewer than 5 % of the samples.
    pub sample_presence_below: f64,
}

/// Routing entropies and margins (method 1.2), in bits unless said otherwise.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Routing {
    /// Mean over tokens of H(full softmax); max log2 E.
    pub token_entropy: Estimate,
    /// Mean H of the renormalised gates; max log2 k.
    pub gate_entropy: Estimate,
    /// H of the loads; max log2 E.
    pub load_entropy: f64,
    /// 2^load_entropy.
    pub effective_experts: f64,
    /// load_entropy / log2(active experts); max 1.
    pub load_entropy_normalised: f64,
    /// H(mean p) - mean H(p) of the full softmax.
    pub specialisation: f64,
    /// Squared coefficient of variation of the load.
    pub cv2: f64,
    /// max rho - 1.
    pub max_vio: f64,
    /// 5, 25, 50, 75, 95 % quantiles of the margin z_(k) - z_(k+1), in logits.
    pub margin_quantiles: [f64; 5],
}

/// Distance of a probe's hidden states from the generic set's (method 1.4).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ProbeDistance {
    /// 1 - cos of the means (literal).
    pub literal: f64,
    /// Root mean squared standardised difference (robust).
    pub robust: f64,
    /// 5 and 95 % quantiles of the robust statistic on random halves of the generic set.
    pub null_band: [f64; 2],
    /// The robust statistic on the layer's update.
    pub update_robust: f64,
    /// Dimensions left out for a vanishing sd.
    pub dimensions_dropped: usize,
}

/// `comparison.json`: parent against parent (method 1.5, 1.6).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// [`super::SCHEMA`].
    pub schema: u32,
    /// The father.
    pub father: ModelRef,
    /// The mother.
    pub mother: ModelRef,
    /// What it was made from; a comparison of another origin is made anew.
    pub origin: Origin,
    /// What it was measured on.
    pub calibration: CalibrationRef,
    /// Domain weights of the goal.
    pub weights: BTreeMap<Domain, f64>,
    /// Mean NLL per domain of the father.
    pub father_nll: BTreeMap<Domain, Estimate>,
    /// Mean NLL per domain of the mother.
    pub mother_nll: BTreeMap<Domain, Estimate>,
    /// One entry per decoder layer.
    pub layers: Vec<LayerComparison>,
    /// Rank correlation over layers of each observational score with the causal advantage.
    pub rank_correlations: BTreeMap<String, f64>,
    /// Sentences about what stands out; empty for identical parents.
    pub flags: Vec<String>,
    /// Forward tokens that the comparison cost, both profiles excluded.
    pub forward_tokens: u64,
}

/// One layer of a comparison.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LayerComparison {
    /// Index from 0.
    pub layer: usize,
    /// Weight differences per component.
    pub deltas: BTreeMap<Part, ComponentDelta>,
    /// Whether the optimal assignment of experts is the identity; absent in a dense layer.
    pub experts_aligned: Option<bool>,
    /// Mean Jaccard index of the selected sets on shared tokens.
    pub jaccard: Option<Estimate>,
    /// Mean KL(p_F || p_M) of the routers, bits.
    pub router_kl: Option<Estimate>,
    /// Total variation between the loads.
    pub load_tv: Option<f64>,
    /// Dead in the mother and alive in the father, share of experts; absent where undecidable.
    pub dead_in_mother_only: Option<f64>,
    /// Dead in the father and alive in the mother, share of experts; absent where undecidable.
    pub dead_in_father_only: Option<f64>,
    /// Causal donor advantage of the mother (method 1.6), nats per answer: above 0 = mother better.
    pub advantage: Advantage,
}

/// Weight differences of one component in one layer (method 1.5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ComponentDelta {
    /// ||M - F|| / ||F||.
    pub relative: f64,
    /// exp(entropy of the normalised singular values) of the delta, summed tensors' mean.
    pub effective_rank: f64,
    /// Share of elements with equal sign.
    pub sign_agreement: f64,
}

/// Causal donor advantage (method 1.6).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Advantage {
    /// Weighted over domains.
    pub total: Estimate,
    /// Per domain.
    pub by_domain: BTreeMap<Domain, Estimate>,
    /// Forward direction A: father with this layer from the mother.
    pub into_father: Estimate,
    /// Backward direction B: mother with this layer from the father.
    pub into_mother: Estimate,
    /// Per component, only where the layer's |A| > 2 se.
    pub components: BTreeMap<Part, Estimate>,
}

impl Profile {
    /// Whether the profile can be of a model of so many layers: a kept file is read from a disk.
    ///
    /// # Errors
    /// What does not fit, as a sentence without a subject.
    pub fn check(&self, layers: usize) -> Result<(), String> {
        in_order(layers, self.layers.iter().map(|layer| layer.layer))?;
        match self.golden_layers.iter().find(|(_, layer)| **layer >= layers) {
            Some((probe, layer)) => Err(format!("its golden layer of `{probe}` is {layer}")),
            None => Ok(()),
        }
    }
}

impl Comparison {
    /// Whether the comparison can be of models of so many layers.
    ///
    /// # Errors
    /// What does not fit, as a sentence without a subject.
    pub fn check(&self, layers: usize) -> Result<(), String> {
        in_order(layers, self.layers.iter().map(|layer| layer.layer))
    }
}

fn in_order(layers: usize, found: impl ExactSizeIterator<Item = usize>) -> Result<(), String> {
    let number = found.len();
    if number == layers && found.enumerate().all(|(i, layer)| i == layer) {
        return Ok(());
    }
    Err(format!("its {number} layers are not the model's {layers} in order"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_undefined_estimate_comes_back() {
        let estimate = Estimate { value: f64::NAN, se: 0.25 };
        let text = serde_json::to_string(&estimate).unwrap();
        assert_eq!(text, r#"{"value":null,"se":0.25}"#);
        let back: Estimate = serde_json::from_str(&text).unwrap();
        assert!(back.value.is_nan() && back.se == 0.25);
        let defined = Estimate { value: -1.0 / 3.0, se: f64::MIN_POSITIVE };
        let text = serde_json::to_string(&defined).unwrap();
        assert_eq!(serde_json::from_str::<Estimate>(&text).unwrap(), defined);
    }
}
