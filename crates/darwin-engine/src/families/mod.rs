//! The model families that the engine runs: each file says how a family's `config.json` is read
//! into the forms of [`Config`]. A new family is a file here and an entry in [`FAMILIES`].

mod deepseek;
mod llama;
mod mistral;
mod mixtral;
mod olmoe;
mod qwen2;
mod qwen3;
mod qwen3_5;
mod qwen3_5_moe;
mod qwen3_moe;
mod qwen3_next;

use crate::config::Reader;
use crate::{Config, Error};
use darwin_checkpoint::{Problem, TensorSource};
use serde_json::Value;

/// A family of checkpoints.
pub(crate) struct Family {
    /// The values of `model_type` it answers to.
    model_types: &'static [&'static str],
    /// Its forms and numbers.
    config: fn(&mut Reader<'_>) -> Config,
}

/// All families. Each is among those of `darwin_checkpoint::FAMILIES`, which can be merged.
const FAMILIES: &[Family] = &[
    qwen3_5_moe::FAMILY,
    qwen3_5::FAMILY,
    qwen3_next::FAMILY,
    qwen3_moe::FAMILY,
    qwen3::FAMILY,
    qwen2::FAMILY,
    llama::FAMILY,
    mistral::FAMILY,
    olmoe::FAMILY,
    mixtral::FAMILY,
    deepseek::FAMILY,
];

/// The numbers of a source, read by its family.
pub(crate) fn read_config(source: &dyn TensorSource) -> Result<Config, Error> {
    Config::from_json(source.config(), source.name())
}

impl Config {
    /// Reads the numbers from a whole `config.json` (under `text_config` or flat) of the model
    /// called `name`.
    ///
    /// # Errors
    /// [`Error::Model`] with every key that is missing or cannot be run.
    pub fn from_json(config: &Value, name: &str) -> Result<Self, Error> {
        let found = config.get("model_type").and_then(Value::as_str).unwrap_or("");
        let Some(family) = FAMILIES.iter().find(|f| f.model_types.contains(&found)) else {
            let known: Vec<_> = FAMILIES.iter().flat_map(|f| f.model_types).copied().collect();
            return Err(Error::Model(vec![Problem::new(
                format!("{name}: config.json: `model_type` is `{found}`"),
                format!("the engine runs {}", known.join(", ")),
            )]));
        };
        let mut read = Reader::new(config, name);
        (family.config)(&mut read).checked(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What can be run can be merged: the two lists speak of the same model types.
    #[test]
    fn every_family_is_one_of_the_checkpoints_families() {
        let types = || darwin_checkpoint::FAMILIES.iter().flat_map(|family| family.types);
        for run in FAMILIES.iter().flat_map(|family| family.model_types) {
            let text = run.strip_suffix("_text").unwrap_or(run);
            assert!(types().any(|(known, _)| known == run || *known == text), "{run}");
        }
    }
}
