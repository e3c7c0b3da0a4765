//! Reads keys of `config.json` and collects what is wrong with them.

use super::LayerKind;
use darwin_checkpoint::Problem;
use serde_json::Value;

/// A config under reading: whole, or flat, or nested under `text_config`.
pub(crate) struct Reader<'a> {
    whole: &'a Value,
    text: &'a Value,
    prefix: &'static str,
    name: &'a str,
    problems: Vec<Problem>,
}

impl<'a> Reader<'a> {
    /// The reader of a whole `config.json` of the model called `name`.
    pub(crate) fn new(whole: &'a Value, name: &'a str) -> Self {
        let nested = whole.get("text_config");
        let prefix = if nested.is_some() { "text_config." } else { "" };
        Self { whole, text: nested.unwrap_or(whole), prefix, name, problems: Vec::new() }
    }

    /// Everything that was wrong.
    pub(crate) fn into_problems(self) -> Vec<Problem> {
        self.problems
    }

    /// Notes a key that cannot be run.
    pub(crate) fn wrong(&mut self, key: &str, found: impl std::fmt::Display, allowed: &str) {
        let text = format!(
            "{}: config.json: `{}{key}` is {found}, needed is {allowed}",
            self.name, self.prefix
        );
        self.problems.push(Problem::new(text, "restore config.json from the model's source"));
    }

    /// A key of the text model; `null` counts as missing.
    pub(crate) fn get(&self, key: &str) -> Option<&'a Value> {
        self.text.get(key).filter(|v| !v.is_null())
    }

    /// A whole number, where there is one.
    pub(crate) fn text_u64(&self, key: &str) -> Option<u64> {
        self.get(key).and_then(Value::as_u64)
    }

    /// `model_type` of the whole.
    pub(super) fn model_type(&self) -> String {
        self.whole.get("model_type").and_then(Value::as_str).unwrap_or_default().to_owned()
    }

    /// A whole number of at least 1; 1 where it is missing, after noting so.
    pub(crate) fn size(&mut self, key: &str) -> usize {
        self.checked_size(key, self.get(key), None)
    }

    /// A whole number of at least 1, with a default.
    pub(crate) fn size_or(&mut self, key: &str, default: usize) -> usize {
        self.checked_size(key, self.get(key), Some(default))
    }

    fn checked_size(&mut self, key: &str, found: Option<&Value>, default: Option<usize>) -> usize {
        match (found.map(Value::as_u64), default) {
            (None, Some(default)) => default,
            (Some(Some(n)), _) if (1..1 << 32).contains(&n) => n as usize,
            _ => {
                let shown = found.map_or("missing".to_owned(), Value::to_string);
                self.wrong(key, shown, "a whole number of at least 1");
                1
            }
        }
    }

    /// `num_hidden_layers`, few enough to be listed.
    pub(super) fn layers(&mut self) -> usize {
        let layers = self.size("num_hidden_layers");
        if layers > 1 << 16 {
            self.wrong("num_hidden_layers", layers, "at most 65536");
            return 1;
        }
        layers
    }

    /// A number above 0, with a default where it may be missing.
    pub(crate) fn number(&mut self, key: &str, default: Option<f64>) -> f64 {
        self.positive(key, self.get(key), default)
    }

    pub(super) fn positive(
        &mut self,
        key: &str,
        found: Option<&Value>,
        default: Option<f64>,
    ) -> f64 {
        match (found.map(Value::as_f64), default) {
            (None, Some(default)) => default,
            (Some(Some(x)), _) if x > 0.0 && x.is_finite() => x,
            _ => {
                let shown = found.map_or("missing".to_owned(), Value::to_string);
                self.wrong(key, shown, "a number above 0");
                1.0
            }
        }
    }

    /// Notes keys that are missing, for which the family has no default.
    pub(crate) fn needed(&mut self, keys: &[&str]) {
        for key in keys {
            if self.get(key).is_none() {
                self.wrong(key, "missing", "a whole number of at least 1");
            }
        }
    }

    /// Whether a key is there, be it `null`.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.text.get(key).is_some()
    }

    /// true or false, with a default.
    pub(crate) fn flag(&mut self, key: &str, default: bool) -> bool {
        match self.get(key) {
            None => default,
            Some(Value::Bool(found)) => *found,
            Some(other) => {
                self.wrong(key, other, "true or false");
                default
            }
        }
    }

    /// A list of whole numbers; empty where it is missing.
    pub(super) fn list(&mut self, key: &str) -> Vec<u64> {
        let Some(found) = self.get(key) else { return Vec::new() };
        let numbers =
            found.as_array().and_then(|list| list.iter().map(Value::as_u64).collect::<Option<_>>());
        numbers.unwrap_or_else(|| {
            self.wrong(key, found, "a list of layers");
            Vec::new()
        })
    }

    pub(super) fn tied(&self) -> bool {
        let key = "tie_word_embeddings";
        let found = self.whole.get(key).or(self.text.get(key));
        found.and_then(Value::as_bool).unwrap_or(false)
    }

    /// `layer_types`, each one of `allowed`; `default` where there is no such key.
    pub(super) fn layer_types(
        &mut self,
        allowed: &[LayerKind],
        default: impl FnOnce(&Self) -> Vec<LayerKind>,
    ) -> Vec<LayerKind> {
        let Some(list) = self.get("layer_types").and_then(Value::as_array) else {
            return default(self);
        };
        let names: Vec<_> = allowed.iter().map(|kind| kind.name()).collect();
        let mut kinds = Vec::new();
        for (i, value) in list.iter().enumerate() {
            let found = allowed.iter().find(|kind| value.as_str() == Some(kind.name()));
            if found.is_none() {
                self.wrong(&format!("layer_types[{i}]"), value, &names.join(" or "));
            }
            kinds.push(found.copied().unwrap_or(LayerKind::FullAttention));
        }
        kinds
    }

    /// Notes what the numbers ask for that no family of this engine computes.
    pub(super) fn supported(&mut self) {
        if let Some(act) = self.get("hidden_act").filter(|a| a.as_str() != Some("silu")) {
            self.wrong("hidden_act", act, "silu");
        }
        for key in ["residual_multiplier", "logits_scaling", "embedding_multiplier"] {
            if let Some(found) = self.get(key).filter(|f| f.as_f64() != Some(1.0)) {
                self.wrong(key, found, "1 or nothing");
            }
        }
    }
}
