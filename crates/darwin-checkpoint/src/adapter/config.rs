//! `adapter_config.json`: rank, alpha, and what is refused.

use crate::error::{Problems, cut};
use crate::{Error, Problem};
use darwin_core::fs::read_bounded;
use regex::{Regex, RegexBuilder};
use serde_json::{Map, Value};
use std::path::Path;

/// What an adapter's configuration says about the arithmetic (PEFT `LoraConfig`).
#[derive(Debug)]
pub(super) struct AdapterConfig {
    r: usize,
    alpha: f64,
    use_rslora: bool,
    rank_pattern: Vec<(Regex, usize)>,
    alpha_pattern: Vec<(Regex, f64)>,
    /// Parameters that were targeted directly, such as fused experts.
    pub(super) target_parameters: Vec<String>,
    /// The version of PEFT that wrote it.
    pub(super) version: Option<Version>,
}

/// A version of PEFT; development versions count as unknown within their release.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Version {
    pub(super) text: String,
    pub(super) number: [u32; 3],
    pub(super) development: bool,
}

impl Version {
    fn parse(text: &str) -> Option<Self> {
        let public = text.split(['@', '+']).next().unwrap_or("");
        let mut parts = public.split('.');
        let mut number = [0; 3];
        for (i, place) in number.iter_mut().enumerate() {
            match parts.next().map(str::parse) {
                Some(Ok(value)) => *place = value,
                None if i == 2 => {}
                _ => return None,
            }
        }
        Some(Self { text: text.to_owned(), number, development: parts.next().is_some() })
    }
}

/// The largest `adapter_config.json` that is read.
const MAX_BYTES: u64 = 4 << 20;

/// The most patterns or names of a list: more than the layers of a model times their modules.
const MAX_NAMES: usize = 4096;

/// Memory of a compiled pattern at most.
const MAX_PATTERN: usize = 1 << 16;

/// Keys that change the arithmetic, with what they stand for.
const VARIANTS: [(&str, &str); 9] = [
    ("use_dora", "DoRA scales every row by a magnitude of its own"),
    ("use_qalora", "QALoRA pools its inputs"),
    ("use_bdlora", "BD-LoRA is block-diagonal"),
    (
        "alora_invocation_tokens",
        "aLoRA acts after certain tokens only, so it is no change of weights",
    ),
    ("arrow_config", "Arrow chooses among adapters for each token"),
    ("kasa_config", "KaSA changes the base weights"),
    ("monteclora_config", "MonteCLoRA draws its weights"),
    ("velora_config", "VeLoRA is another parametrisation"),
    ("layer_replication", "layers of the base are repeated"),
];

/// Initialisations that change the base weights, so that the adapter fits those alone.
const CHANGES_BASE: [&str; 5] = ["pissa", "olora", "corda", "loftq", "lora_ga"];

impl AdapterConfig {
    /// Reads and checks the file; all problems at once.
    pub(super) fn read(path: &Path) -> Result<Self, Error> {
        let bytes = read_bounded(path, MAX_BYTES).map_err(|e| Error::io("read", path, e))?;
        let restore = "restore the file from the adapter's source";
        let file = path.display().to_string();
        let value: Value = serde_json::from_slice(&bytes)
            .map_err(|e| Error::one(format!("{file}: not valid JSON: {e}"), restore))?;
        let Some(object) = value.as_object() else {
            return Err(Error::one(format!("{file}: not a JSON object"), restore));
        };
        let mut reader = Reader { file, object, problems: Problems::default() };
        reader.refuse();
        let config = Self {
            r: reader.whole("r").unwrap_or(8),
            alpha: reader.number("lora_alpha").unwrap_or(8.0),
            use_rslora: reader.truth("use_rslora"),
            rank_pattern: reader.pattern("rank_pattern", whole),
            alpha_pattern: reader.pattern("alpha_pattern", number),
            target_parameters: reader.names("target_parameters"),
            version: object.get("peft_version").and_then(Value::as_str).and_then(Version::parse),
        };
        reader.problems.into_result(config).map_err(Error::Invalid)
    }

    /// The rank of a module: the first pattern that matches it, else `r`.
    pub(super) fn rank(&self, module: &str) -> usize {
        first(&self.rank_pattern, module).unwrap_or(self.r)
    }

    /// What B A is multiplied by: alpha over the rank, or over its root (rsLoRA).
    pub(super) fn scale(&self, module: &str) -> f32 {
        let rank = self.rank(module) as f64;
        let alpha = first(&self.alpha_pattern, module).unwrap_or(self.alpha);
        (alpha / if self.use_rslora { rank.sqrt() } else { rank }) as f32
    }
}

fn first<T: Copy>(patterns: &[(Regex, T)], module: &str) -> Option<T> {
    patterns.iter().find(|(pattern, _)| pattern.is_match(module)).map(|(_, value)| *value)
}

/// A number that a float32 holds.
fn number(value: &Value) -> Option<f64> {
    value.as_f64().filter(|number| (*number as f32).is_finite())
}

fn whole(value: &Value) -> Option<usize> {
    value.as_u64().and_then(|n| usize::try_from(n).ok()).filter(|n| *n > 0)
}

struct Reader<'a> {
    file: String,
    object: &'a Map<String, Value>,
    problems: Problems,
}

impl<'a> Reader<'a> {
    fn given(&self, key: &str) -> Option<&'a Value> {
        let empty = |value: &Value| match value {
            Value::Null | Value::Bool(false) => true,
            Value::Array(items) => items.is_empty(),
            Value::Object(fields) => fields.is_empty(),
            _ => false,
        };
        self.object.get(key).filter(|value| !empty(value))
    }

    fn problem(&mut self, text: &str, hint: &str) {
        self.problems.push(Problem::new(format!("{}: {text}", self.file), hint));
    }

    /// Adapters whose effect is not W + scale B A.
    fn refuse(&mut self) {
        const MERGE: &str = "merge it with PEFT's `merge_and_unload` and name the result";
        let kind = self.object.get("peft_type").and_then(Value::as_str).unwrap_or("missing");
        if kind != "LORA" {
            self.problem(&format!("`peft_type` is {kind}, supported is LORA"), MERGE);
        }
        for (key, what) in VARIANTS {
            if self.given(key).is_some() {
                self.problem(
                    &format!("`{key}` is set: {what}; only plain LoRA is supported"),
                    MERGE,
                );
            }
        }
        let unknown = self.object.keys().filter(|key| {
            key.starts_with("use_")
                && *key != "use_rslora"
                && !VARIANTS.iter().any(|(known, _)| known == key)
                && self.given(key).is_some()
        });
        for key in unknown.cloned().collect::<Vec<_>>() {
            self.problem(&format!("`{key}` is set, which is not known here"), MERGE);
        }
        if self.given("trainable_token_indices").is_some() {
            self.problem("`trainable_token_indices` is set: single rows were trained", MERGE);
        }
        let init = self.given("init_lora_weights").and_then(Value::as_str).unwrap_or("");
        if CHANGES_BASE.iter().any(|start| init.to_ascii_lowercase().starts_with(start)) {
            let text = format!("`init_lora_weights` is `{init}`, which changes the base weights");
            let hint = "save it as a plain LoRA (`path_initial_model_for_weight_conversion`), or \
                        merge it with PEFT";
            self.problem(&text, hint);
        }
    }

    fn wrong(&mut self, key: &str, value: &Value, allowed: &str) {
        let (key, value) = (cut(key), cut(&value.to_string()));
        self.problem(&format!("`{key}` is {value}, allowed is {allowed}"), "correct the file");
    }

    fn whole(&mut self, key: &str) -> Option<usize> {
        let value = self.given(key)?;
        let number = whole(value);
        if number.is_none() {
            self.wrong(key, value, "a whole number above 0");
        }
        number
    }

    fn number(&mut self, key: &str) -> Option<f64> {
        let value = self.given(key)?;
        let number = number(value);
        if number.is_none() {
            self.wrong(key, value, "a number that float32 holds");
        }
        number
    }

    fn truth(&mut self, key: &str) -> bool {
        self.given(key).and_then(Value::as_bool).unwrap_or(false)
    }

    fn names(&mut self, key: &str) -> Vec<String> {
        let Some(value) = self.given(key) else { return Vec::new() };
        let names: Option<Vec<String>> = value
            .as_array()
            .filter(|items| items.len() <= MAX_NAMES)
            .and_then(|items| items.iter().map(|i| i.as_str().map(str::to_owned)).collect());
        if names.is_none() {
            self.wrong(key, value, &format!("a list of names, at most {MAX_NAMES}"));
        }
        names.unwrap_or_default()
    }

    /// Keys are regular expressions for the end of a module's name, from a dot on (PEFT
    /// `get_pattern_key`).
    fn pattern<T>(&mut self, key: &str, read: impl Fn(&Value) -> Option<T>) -> Vec<(Regex, T)> {
        let Some(value) = self.given(key) else { return Vec::new() };
        let Some(fields) = value.as_object().filter(|fields| fields.len() <= MAX_NAMES) else {
            self.wrong(key, value, &format!("a mapping of names, at most {MAX_NAMES}"));
            return Vec::new();
        };
        let mut patterns = Vec::new();
        for (pattern, value) in fields {
            let compiled = RegexBuilder::new(&format!(r"^(?:.*\.)?(?:{pattern})$"))
                .size_limit(MAX_PATTERN)
                .dfa_size_limit(MAX_PATTERN)
                .build();
            match (compiled, read(value)) {
                (Ok(regex), Some(value)) => patterns.push((regex, value)),
                (Err(_), _) => {
                    let pattern = cut(pattern);
                    let text =
                        format!("the key `{pattern}` of `{key}` is no expression we can read");
                    self.problem(&text, "write module names, without lookaround");
                }
                (_, None) => self.wrong(&format!("{key}: {pattern}"), value, "a number above 0"),
            }
        }
        patterns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        let number = |text: &str| Version::parse(text).map(|v| (v.number, v.development));
        assert_eq!(number("0.19.1"), Some(([0, 19, 1], false)));
        assert_eq!(number("0.18.2.dev0@ab12"), Some(([0, 18, 2], true)));
        assert_eq!(number("0.20"), Some(([0, 20, 0], false)));
        assert_eq!(number("UNKNOWN"), None);
    }
}
