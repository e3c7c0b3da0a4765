//! What a checkpoint is, from headers alone.

use crate::checkpoint::main_dtype;
use crate::{Checkpoint, Dtype, Role, TensorSource};
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;

/// One role's share of a model.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct RoleSummary {
    /// Tensors in the files.
    pub tensors: usize,
    /// Parameters.
    pub parameters: u64,
    /// Bytes.
    pub bytes: u64,
    /// Tensors of each dtype.
    pub dtypes: BTreeMap<String, usize>,
}

/// A checkpoint at a glance.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Inspection {
    /// The folder.
    pub model: String,
    /// The `architectures` entry.
    pub architecture: String,
    /// The `model_type` entry.
    pub model_type: String,
    /// Decoder layers.
    pub num_layers: usize,
    /// How many layers of each kind (`linear_attention`, `full_attention`), where the config says.
    pub layer_kinds: BTreeMap<String, usize>,
    /// Routed experts per layer and experts per token, in a mixture of experts.
    pub experts: Option<(usize, usize)>,
    /// All parameters, vision and MTP included.
    pub parameters: u64,
    /// Parameters that one text token uses: of the routed experts only k of E, of the embedding
    /// one row; no vision, no MTP.
    pub active_parameters: u64,
    /// Bytes of tensors.
    pub bytes: u64,
    /// `fused`, `per-expert` or `dense`.
    pub layout: String,
    /// Dtype of most bytes.
    pub dtype: String,
    /// Shards.
    pub shards: usize,
    /// By role.
    pub roles: BTreeMap<Role, RoleSummary>,
    /// Side files' names.
    pub side_files: Vec<String>,
    /// Names that the family does not know.
    pub unknown: Vec<String>,
}

/// Summarises a checkpoint; no weight is read.
///
/// # Errors
/// [`crate::Error::Io`] where the folder cannot be listed.
pub fn inspect(model: &Checkpoint) -> Result<Inspection, crate::Error> {
    let text = model.text_config();
    let number = |key: &str| text.get(key).and_then(Value::as_u64).map(|n| n as usize);
    let experts = number("num_experts").zip(number("num_experts_per_tok"));
    let roles = roles(model);
    Ok(Inspection {
        model: model.name().to_owned(),
        architecture: first_architecture(model.config()),
        model_type: string(model.config(), "model_type"),
        num_layers: model.manifest().num_layers(),
        layer_kinds: layer_kinds(text),
        experts,
        parameters: roles.values().map(|r| r.parameters).sum(),
        active_parameters: active(model, experts),
        bytes: model.tensor_bytes(),
        layout: match (experts, model.layout().is_per_expert()) {
            (None, _) => "dense",
            (_, true) => "per-expert",
            _ => "fused",
        }
        .to_owned(),
        dtype: main_dtype(model.manifest()).torch_name().to_owned(),
        shards: model.num_shards(),
        unknown: unknown(model),
        roles,
        side_files: model
            .side_files()?
            .iter()
            .filter_map(|p| p.file_name().map(|n| n.to_string_lossy().into_owned()))
            .collect(),
    })
}

fn string(config: &Value, key: &str) -> String {
    config.get(key).and_then(Value::as_str).unwrap_or("").to_owned()
}

pub(crate) fn first_architecture(config: &Value) -> String {
    config["architectures"].get(0).and_then(Value::as_str).unwrap_or("").to_owned()
}

fn layer_kinds(text: &Value) -> BTreeMap<String, usize> {
    let mut kinds = BTreeMap::new();
    for kind in text["layer_types"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        *kinds.entry(kind.to_owned()).or_default() += 1;
    }
    kinds
}

fn roles(model: &Checkpoint) -> BTreeMap<Role, RoleSummary> {
    let mut roles: BTreeMap<Role, RoleSummary> = BTreeMap::new();
    for (i, stored) in model.layout().stored.iter().enumerate() {
        let info = model.manifest().get(stored.id);
        let dtype = model.stored_dtype(i);
        let parameters: u64 = stored.shape.iter().map(|d| *d as u64).product();
        let role = roles.entry(info.role).or_default();
        role.tensors += 1;
        role.parameters += parameters;
        role.bytes += model.stored_bytes(i);
        *role.dtypes.entry(Dtype::torch_name(dtype).to_owned()).or_default() += 1;
    }
    roles
}

fn active(model: &Checkpoint, experts: Option<(usize, usize)>) -> u64 {
    model
        .manifest()
        .tensors()
        .iter()
        .map(|t| match t.role {
            Role::Vision | Role::Mtp => 0,
            Role::Embedding => t.cols() as u64,
            Role::RoutedExpert => experts
                .map_or(t.elements() as u64, |(all, k)| (t.elements() / all.max(1) * k) as u64),
            _ => t.elements() as u64,
        })
        .sum()
}

fn unknown(model: &Checkpoint) -> Vec<String> {
    let stored = model.layout().stored.iter();
    stored
        .filter(|s| model.manifest().get(s.id).role == Role::Other)
        .map(|s| s.name.clone())
        .collect()
}
