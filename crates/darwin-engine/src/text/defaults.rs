//! How a model's makers want it to be sampled.

use super::{damaged, read_json};
use crate::Error;
use serde_json::Value;
use std::path::Path;

/// What `generation_config.json` says; `None` where it says nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct GenerationDefaults {
    /// Whether tokens are drawn.
    pub do_sample: Option<bool>,
    /// As in [`crate::Sampling`].
    pub temperature: Option<f32>,
    /// As in [`crate::Sampling`].
    pub top_k: Option<usize>,
    /// As in [`crate::Sampling`].
    pub top_p: Option<f32>,
    /// As in [`crate::Sampling`].
    pub min_p: Option<f32>,
    /// As in [`crate::Sampling`].
    pub repetition_penalty: Option<f32>,
    /// Most new tokens.
    pub max_new_tokens: Option<usize>,
}

impl GenerationDefaults {
    /// Reads the file of a checkpoint folder, if there is one.
    ///
    /// # Errors
    /// [`Error::Text`] naming the file and the key that is of another kind.
    pub fn open(folder: &Path) -> Result<Self, Error> {
        let path = folder.join("generation_config.json");
        let config = read_json(&path)?.unwrap_or(Value::Null);
        let wrong = |key: &str, needed: &str| {
            damaged(&path, format!("`{key}` is {}, needed is {needed}", config[key]))
        };
        let found = |key: &str| config.get(key).filter(|value| !value.is_null());
        let number = |key: &str| -> Result<Option<f32>, Error> {
            let value = found(key).map(|v| v.as_f64().ok_or_else(|| wrong(key, "a number")));
            Ok(value.transpose()?.map(|x| x as f32))
        };
        let count = |key: &str| -> Result<Option<usize>, Error> {
            let value = found(key).map(|v| {
                let n = v.as_u64().and_then(|n| usize::try_from(n).ok());
                n.ok_or_else(|| wrong(key, "a whole number from 0"))
            });
            value.transpose()
        };
        let do_sample = found("do_sample")
            .map(|v| v.as_bool().ok_or_else(|| wrong("do_sample", "true or false")))
            .transpose()?;
        Ok(Self {
            do_sample,
            temperature: number("temperature")?,
            top_k: count("top_k")?,
            top_p: number("top_p")?,
            min_p: number("min_p")?,
            repetition_penalty: number("repetition_penalty")?,
            max_new_tokens: count("max_new_tokens")?,
        })
    }
}
