//! The configuration of a run: one YAML file (`examples/first-light.yaml` shows every key).

use crate::Error;
use darwin_core::files::ArmName;
use darwin_core::fs::read_text_bounded;
use darwin_core::{Domain, Split, nearest};
use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The largest configuration that is read.
const MAX_BYTES: u64 = 1 << 20;

/// A run: two parents, items, a goal, budgets and arms. Unknown keys are errors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunConfig {
    /// Title of the report.
    pub title: String,
    /// The father: structural parent.
    pub father: PathBuf,
    /// The mother.
    pub mother: PathBuf,
    /// Folder with `calibration.jsonl.gz`, `proxy…`, `search…`, `selection…`, `test.jsonl.gz`.
    pub items: PathBuf,
    /// Folder that the run fills.
    pub out: PathBuf,
    /// Seeds, named apart.
    #[serde(default)]
    pub seeds: Seeds,
    /// How candidates are merged.
    #[serde(default)]
    pub merge: MergeChoice,
    /// What is wanted.
    #[serde(default)]
    pub goal: Goal,
    /// Samples of each domain that profiles and comparison use.
    pub calibration: PerDomain,
    /// The proxy phase.
    pub proxy: ProxyBudget,
    /// The real phase.
    pub real: PhaseBudget,
    /// The choice of each arm's child.
    pub selection: SelectionBudget,
    /// Held-out test split, evaluated once.
    pub test: TestItems,
    /// Longest answer that is generated, tokens.
    #[serde(default = "default_max_new_tokens")]
    pub max_new_tokens: usize,
    /// The arms, in the order in which they run.
    pub arms: Vec<ArmName>,
}

fn default_max_new_tokens() -> usize {
    96
}

/// Seeds (method 0: named apart in the journal). `seeds: 5` in a configuration is five replicates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Seeds {
    /// The search of the first replicate; the others' are the numbers that follow.
    pub run: u64,
    /// DARE masks; the same for all candidates.
    pub masks: u64,
    /// Repetitions of the search, each with its own random numbers and its own disjoint part of the
    /// items of `proxy`, `search` and `selection`.
    pub replicates: usize,
}

impl Default for Seeds {
    fn default() -> Self {
        Self { run: 1, masks: 42, replicates: 1 }
    }
}

impl<'de> Deserialize<'de> for Seeds {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(SeedsReader)
    }
}

/// A number of replicates, or the seeds by name.
struct SeedsReader;

impl<'de> Visitor<'de> for SeedsReader {
    type Value = Seeds;

    fn expecting(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        to.write_str("a number of replicates, or `run`, `masks` and `replicates`")
    }

    fn visit_u64<E: serde::de::Error>(self, replicates: u64) -> Result<Seeds, E> {
        let replicates = usize::try_from(replicates).map_err(E::custom)?;
        Ok(Seeds { replicates, ..Seeds::default() })
    }

    fn visit_i64<E: serde::de::Error>(self, replicates: i64) -> Result<Seeds, E> {
        self.visit_u64(u64::try_from(replicates).map_err(E::custom)?)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Seeds, A::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields, default)]
        struct Named {
            run: u64,
            masks: u64,
            replicates: usize,
        }
        impl Default for Named {
            fn default() -> Self {
                let Seeds { run, masks, replicates } = Seeds::default();
                Self { run, masks, replicates }
            }
        }
        let named = Named::deserialize(MapAccessDeserializer::new(map))?;
        Ok(Seeds { run: named.run, masks: named.masks, replicates: named.replicates })
    }
}

/// How candidates are merged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MergeChoice {
    /// `dare_ties` (as published) or `linear`.
    pub method: BlendMethod,
    /// What statistics are taken over: `tensor` or `expert`.
    pub unit: UnitName,
}

/// Merge methods that a share `t` drives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BlendMethod {
    /// DARE-TIES with the father as base.
    #[default]
    DareTies,
    /// Linear interpolation.
    Linear,
}

/// Units of statistics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UnitName {
    /// The fused tensor.
    #[default]
    Tensor,
    /// Each expert.
    Expert,
}

/// What the user wants.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Goal {
    /// Weight of each domain in the fitness; absent domains weigh 1, protected ones 0.
    pub weights: BTreeMap<Domain, f64>,
    /// Domains that may not fall below the father, with the margin allowed (0 to 1, on the phase's
    /// scale: accuracy in the real phase, mean probability of the reference answer in the proxy).
    pub protected: BTreeMap<Domain, f64>,
}

/// Items per domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PerDomain {
    /// Items of each domain.
    pub per_domain: usize,
}

/// Budget of the proxy phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProxyBudget {
    /// Items of each domain that every candidate is asked: new ones every generation, protected
    /// domains four times as many, the best quarter of a generation four times as many.
    pub per_domain: usize,
    /// Tokens of an arm, in candidates of that many items: whatever an arm does with them, and what
    /// it has to know before it begins, is paid from them.
    pub steps: usize,
    /// Items of each domain on which an arm's best are compared at last.
    #[serde(default = "default_final")]
    pub final_per_domain: usize,
}

fn default_final() -> usize {
    400
}

/// Budget of the real phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PhaseBudget {
    /// Items of each domain.
    pub per_domain: usize,
    /// Candidates of each arm: its best on the proxy.
    pub steps: usize,
}

/// Budget of the selection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SelectionBudget {
    /// Items of each domain.
    pub per_domain: usize,
    /// How many of an arm's best are looked at.
    pub top: usize,
}

/// Items of the test.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TestItems {
    /// Items of each domain that weighs in the goal or is protected.
    pub per_domain: usize,
    /// Items of each other domain; as many unless set.
    #[serde(default)]
    pub others: Option<usize>,
}

impl RunConfig {
    /// Reads and checks a configuration. Paths stay as written: they are relative to where the
    /// program runs.
    ///
    /// # Errors
    /// [`Error::Config`] naming file, line, column and key.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let text = read_text_bounded(path, MAX_BYTES)
            .map_err(|source| Error::Io { path: path.to_owned(), source })?;
        let config: Self =
            serde_saphyr::from_str(&text).map_err(|e| unreadable(path, &e.to_string()))?;
        config.check(path)?;
        Ok(config)
    }

    /// The path of a split's items.
    #[must_use]
    pub fn items_of(&self, split: Split) -> PathBuf {
        let zipped = self.items.join(format!("{split}.jsonl.gz"));
        if zipped.exists() { zipped } else { self.items.join(format!("{split}.jsonl")) }
    }

    /// Weight of a domain in the fitness.
    #[must_use]
    pub fn weight(&self, domain: &Domain) -> f64 {
        let protected = self.goal.protected.contains_key(domain);
        self.goal.weights.get(domain).copied().unwrap_or(if protected { 0.0 } else { 1.0 })
    }

    /// Whether a domain is asked for in the search: it weighs in the goal or is protected.
    #[must_use]
    pub fn wants(&self, domain: &Domain) -> bool {
        self.weight(domain) > 0.0 || self.goal.protected.contains_key(domain)
    }

    fn check(&self, path: &Path) -> Result<(), Error> {
        let mut wrong = Vec::new();
        let mut at_least_one = |key: &str, value: usize| {
            if value == 0 {
                wrong.push(format!("`{key}` is 0, allowed is 1 or more"));
            }
        };
        at_least_one("calibration.per_domain", self.calibration.per_domain);
        at_least_one("proxy.per_domain", self.proxy.per_domain);
        at_least_one("proxy.steps", self.proxy.steps);
        at_least_one("proxy.final_per_domain", self.proxy.final_per_domain);
        at_least_one("seeds", self.seeds.replicates);
        at_least_one("real.per_domain", self.real.per_domain);
        at_least_one("real.steps", self.real.steps);
        at_least_one("selection.per_domain", self.selection.per_domain);
        at_least_one("selection.top", self.selection.top);
        at_least_one("test.per_domain", self.test.per_domain);
        at_least_one("max_new_tokens", self.max_new_tokens);
        at_least_one("arms (its length)", self.arms.len());
        for (domain, weight) in &self.goal.weights {
            if !(weight.is_finite() && *weight >= 0.0) {
                wrong.push(format!("`goal.weights.{domain}` is {weight}, allowed is 0 or more"));
            }
        }
        for (domain, margin) in &self.goal.protected {
            if !(0.0..=1.0).contains(margin) {
                wrong.push(format!("`goal.protected.{domain}` is {margin}, allowed is 0 to 1"));
            }
        }
        let mut arms = self.arms.clone();
        arms.sort_unstable();
        arms.dedup();
        if arms.len() != self.arms.len() {
            wrong.push("`arms` names an arm twice".to_owned());
        }
        if wrong.is_empty() {
            return Ok(());
        }
        Err(Error::Config {
            path: path.to_owned(),
            text: wrong.join("; "),
            hint: "examples/first-light.yaml shows every key".to_owned(),
        })
    }
}

/// Turns serde's message ("unknown field `x`, expected one of a, b") into a sentence with the
/// nearest known key.
fn unreadable(path: &Path, message: &str) -> Error {
    let first = message.lines().next().unwrap_or(message).trim_start_matches("error: ").to_owned();
    let unknown = first.split("unknown ").nth(1).and_then(|rest| rest.split('`').nth(1));
    let known = first.rsplit("expected one of ").next().unwrap_or("");
    let known = known.split(", ").map(|key| key.trim_matches('`'));
    let hint = unknown
        .and_then(|unknown| nearest(unknown, known))
        .map(|key| format!("did you mean `{key}`?"));
    Error::Config {
        path: path.to_owned(),
        text: first,
        hint: hint.unwrap_or_else(|| "examples/first-light.yaml shows every key".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use darwin_core::Diagnose;

    fn refused(text: &str) -> String {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("run.yaml");
        darwin_core::fs::write_atomic(&path, text.as_bytes()).expect("written");
        let error = RunConfig::read(&path).expect_err("no configuration");
        assert_eq!(error.fault(), darwin_core::Fault::User);
        darwin_core::Failure::from(error).to_string()
    }

    /// Depth, aliases and size of a file that is no configuration cost neither stack nor memory.
    #[test]
    fn hostile_yaml_gets_an_answer() {
        let chain: String = (1..30)
            .map(|i| format!("a{i}: &a{i} [{}]\n", vec![format!("*a{}", i - 1); 10].join(",")))
            .collect();
        let start = std::time::Instant::now();
        for text in [
            format!("title:\n  {}x\n", "- ".repeat(100_000)),
            format!("title: {}", "[".repeat(100_000)),
            format!("title: {}", "{a: ".repeat(100_000)),
            format!("{}a\n", "? ".repeat(100_000)),
            format!("{}a\n", "- ? ".repeat(50_000)),
            format!("a0: &a0 [x]\n{chain}"),
            format!("goal: {{weights: &a {{x: 1, y: *a}}}}\n{chain}"),
            (0..100_000).map(|i| format!("k{i}: 1\n")).collect(),
            format!("goal:\n  weights:\n{}", "    a: 1\n".repeat(50_000)),
            "&a ".repeat(100_000),
            "!t ".repeat(100_000),
            "--- a\n".repeat(100_000),
            String::new(),
        ] {
            let found = refused(&text);
            assert!(found.len() < 2000 && found.contains("run.yaml"), "{found}");
        }
        assert!(start.elapsed().as_secs() < 20, "{:?}", start.elapsed());
        let large = "#".repeat(MAX_BYTES as usize + 1);
        assert!(refused(&large).contains("allowed are 1048576"));
    }

    #[test]
    fn a_folder_and_a_device_are_no_configurations() {
        for path in ["/", "/dev/zero"] {
            let error = RunConfig::read(Path::new(path)).expect_err("no file");
            assert_eq!(error.fault(), darwin_core::Fault::User, "{error}");
        }
    }
}
