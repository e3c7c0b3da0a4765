//! The model families that the engine runs. A new family is a file here and an entry in
//! [`FAMILIES`].

pub(crate) mod qwen3_5_moe;

use crate::{Config, Error};
use darwin_checkpoint::{Problem, TensorSource};
use serde_json::Value;

/// A family of checkpoints.
pub(crate) struct Family {
    /// The values of `model_type` it answers to.
    model_types: &'static [&'static str],
    /// Reads its numbers from `config.json`; the second argument names the model.
    config: fn(&Value, &str) -> Result<Config, Error>,
}

/// All families.
const FAMILIES: &[Family] =
    &[Family { model_types: &["qwen3_5_moe", "qwen3_5_moe_text"], config: Config::from_json }];

/// The numbers of a source, read by its family.
pub(crate) fn read_config(source: &dyn TensorSource) -> Result<Config, Error> {
    let found = source.config().get("model_type").and_then(Value::as_str).unwrap_or("");
    match FAMILIES.iter().find(|f| f.model_types.contains(&found)) {
        Some(family) => (family.config)(source.config(), source.name()),
        None => {
            let known: Vec<_> = FAMILIES.iter().flat_map(|f| f.model_types).copied().collect();
            Err(Error::Model(vec![Problem::new(
                format!("{}: config.json: `model_type` is `{found}`", source.name()),
                format!("the engine runs {}", known.join(", ")),
            )]))
        }
    }
}
