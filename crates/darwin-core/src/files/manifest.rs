//! `manifest.json` in a merged checkpoint: what was done to each tensor, from where and why
//! (method 4).

use crate::Fingerprint;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What was done to a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Computed from several models.
    Blend,
    /// Copied from one model, values unchanged.
    Copy,
    /// Copied byte for byte from the structural parent because no method applies to it.
    Passthrough,
}

/// A parameter's value and whether the user gave it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Setting {
    /// The value, as in YAML.
    pub value: serde_json::Value,
    /// True when the method's default was used.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub default: bool,
}

/// A tensor of an input model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SourceRef {
    /// The model as named in the recipe.
    pub model: String,
    /// The tensor's (canonical) name there; experts of a per-expert layout count as one tensor.
    pub tensor: String,
    /// Parameters of this model for this tensor.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub parameters: BTreeMap<String, Setting>,
}

/// An input model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputRef {
    /// What it is in the recipe: `father`, `mother`, `base`, else `model1`, `model2`, ... in the
    /// order of mention.
    pub role: String,
    /// Weights, config and tokenizer, those of an adapter on it included; absent in a dry run.
    pub fingerprint: Option<Fingerprint>,
    /// `owner/name@commit`, where it lies in the Hub's cache.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hub: Option<String>,
}

/// One output tensor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ManifestLine {
    /// Its name in the output; `…experts.*.…` for a group of per-expert tensors.
    pub tensor: String,
    /// Its role (`routed_expert`, `router`, …).
    pub role: String,
    /// What was done.
    pub action: Action,
    /// The method's name.
    pub method: String,
    /// `tensor` or `expert`: what the method's statistics are taken over.
    pub unit: String,
    /// Parameters shared by all models.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub parameters: BTreeMap<String, Setting>,
    /// From where.
    pub sources: Vec<SourceRef>,
    /// Why: the rule that decided.
    pub reason: String,
    /// Dtype written.
    pub dtype: String,
    /// Shape written.
    pub shape: Vec<usize>,
}

/// `manifest.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MergeManifest {
    /// [`super::SCHEMA`].
    pub schema: u32,
    /// Name and version of the program.
    pub darwin: String,
    /// [`crate::ARITHMETIC`] of the program.
    pub arithmetic: u32,
    /// The recipe: its canonical form with logical parents (`father`, `mother`, `base`) and their
    /// fingerprints; empty in a dry run, which reads no weights.
    pub recipe_sha256: String,
    /// How it was computed: `native` (f32, rounded once) or `mergekit` (its rounding and masks).
    #[serde(default = "native")]
    pub numerics: String,
    /// The input models, by the names that the recipe has for them.
    pub inputs: BTreeMap<String, InputRef>,
    /// One line for every output tensor.
    pub tensors: Vec<ManifestLine>,
    /// Input tensors that are not in the output, with the reason; nothing is dropped silently.
    #[serde(default)]
    pub left_out: BTreeMap<String, String>,
    /// By model and block of experts (`layers.3.mlp`), which of the model's experts was taken for
    /// each of the output's; blocks whose order is the model's own are not named.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub aligned: BTreeMap<String, BTreeMap<String, Vec<usize>>>,
}

/// What manifests without the entry were computed with.
fn native() -> String {
    "native".to_owned()
}
