//! What a checkpoint is, from headers alone.

use crate::checkpoint::main_dtype;
use crate::{AnyModel, Dtype, Role, StoredTensor, TensorSource};
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

/// Summarises a model; no weight is read.
///
/// # Errors
/// [`crate::Error::Io`] where the folder cannot be listed.
pub fn inspect(model: &AnyModel) -> Result<Inspection, crate::Error> {
    let text = model.config().get("text_config").unwrap_or(model.config());
    let stored = model.stored();
    let number = |key: &str| text.get(key).and_then(Value::as_u64).map(|n| n as usize);
    let experts = number("num_experts").zip(number("num_experts_per_tok"));
    let roles = roles(model, &stored);
    Ok(Inspection {
        model: model.name().to_owned(),
        architecture: first_architecture(model.config()),
        model_type: string(model.config(), "model_type"),
        num_layers: model.manifest().num_layers(),
        layer_kinds: layer_kinds(text),
        experts,
        parameters: roles.values().map(|r| r.parameters).sum(),
        active_parameters: active(model, experts),
        bytes: stored.iter().map(|s| s.bytes).sum(),
        layout: match model {
            AnyModel::Checkpoint(model) if experts.is_some() => {
                match model.layout().is_per_expert() {
                    true => "per-expert",
                    false => "fused",
                }
            }
            _ => "dense",
        }
        .to_owned(),
        dtype: match model {
            AnyModel::Checkpoint(model) => main_dtype(model.manifest()).torch_name(),
            AnyModel::Gguf(model) => model.main_type(),
        }
        .to_owned(),
        shards: match model {
            AnyModel::Checkpoint(model) => model.num_shards(),
            AnyModel::Gguf(_) => 1,
        },
        unknown: unknown(model, &stored),
        roles,
        side_files: side_files(model)?,
    })
}

fn side_files(model: &AnyModel) -> Result<Vec<String>, crate::Error> {
    let AnyModel::Checkpoint(model) = model else { return Ok(Vec::new()) };
    Ok(model.side_files()?.files.iter().map(|file| file.name().to_owned()).collect())
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

fn roles(model: &AnyModel, stored: &[StoredTensor<'_>]) -> BTreeMap<Role, RoleSummary> {
    let mut roles: BTreeMap<Role, RoleSummary> = BTreeMap::new();
    for tensor in stored {
        let parameters: u64 = tensor.shape.iter().map(|d| *d as u64).product();
        let role = roles.entry(model.manifest().get(tensor.id).role).or_default();
        role.tensors += 1;
        role.parameters += parameters;
        role.bytes += tensor.bytes;
        let dtype = Dtype::from_name(tensor.dtype).map_or(tensor.dtype, Dtype::torch_name);
        *role.dtypes.entry(dtype.to_owned()).or_default() += 1;
    }
    roles
}

fn active(model: &AnyModel, experts: Option<(usize, usize)>) -> u64 {
    model
        .manifest()
        .tensors()
        .iter()
        .map(|t| match t.role {
            Role::Vision | Role::Mtp => 0,
            Role::Embedding => t.cols() as u64,
            Role::RoutedExpert => experts.map_or(t.elements() as u64, |(all, k)| {
                (t.elements() / all.max(1)).saturating_mul(k) as u64
            }),
            _ => t.elements() as u64,
        })
        .fold(0, u64::saturating_add)
}

fn unknown(model: &AnyModel, stored: &[StoredTensor<'_>]) -> Vec<String> {
    let unknown = stored.iter().filter(|s| model.manifest().get(s.id).role == Role::Other);
    unknown.map(|s| s.name.to_owned()).collect()
}
