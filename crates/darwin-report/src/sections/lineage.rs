//! Where the child comes from, by hashes, and how to make it again.

use crate::run::Run;
use crate::words::grouped;
use darwin_core::files::ModelRef;
use serde::Serialize;
use serde_json::Value;

/// Keys of `run.json` that stand elsewhere on the page.
const ELSEWHERE: [&str; 6] =
    ["title", "created", "command", "arms", "rank_check.n", "rank_check.rho"];

/// The section.
#[derive(Debug, Serialize)]
pub(crate) struct Lineage {
    pub(crate) hashes: Vec<Hash>,
    pub(crate) seeds: Vec<(String, String)>,
    pub(crate) about: Vec<(String, String)>,
    pub(crate) command: Option<String>,
    pub(crate) missing: Vec<String>,
}

/// A hash and what it is of.
#[derive(Debug, Serialize)]
pub(crate) struct Hash {
    pub(crate) what: String,
    pub(crate) of: String,
    pub(crate) sha256: String,
}

/// Makes the section.
pub(crate) fn lineage(run: &Run) -> Lineage {
    let missing = super::sentences([run.about.as_ref().err(), run.manifest.as_ref().err()]);
    let header = run.journal.as_ref().ok().map(|j| &j.header);
    let seeds = header.map(|h| h.seeds.iter().map(|(k, v)| (k.clone(), v.to_string())).collect());
    Lineage {
        hashes: hashes(run),
        seeds: seeds.unwrap_or_default(),
        about: run.about.as_ref().map(about).unwrap_or_default(),
        command: run.about("command").map(str::to_owned),
        missing,
    }
}

/// Father, mother and child as the files name them, each with the title it gets.
pub(crate) fn family(run: &Run) -> Vec<(&'static str, &ModelRef)> {
    let health = run.health.as_ref().ok();
    let comparison = run.comparison.as_ref().ok();
    let scored = run.scores.as_ref().ok().map(|s| s.parents.as_slice()).unwrap_or_default();
    let father = run.father.as_ref().ok().map(|p| &p.model);
    let mother = run.mother.as_ref().ok().map(|p| &p.model);
    let child = run.child.as_ref().ok().map(|p| &p.model);
    let found = [
        (
            "father",
            father
                .or(comparison.map(|c| &c.father))
                .or(health.map(|h| &h.father))
                .or(scored.first()),
        ),
        (
            "mother",
            mother
                .or(comparison.map(|c| &c.mother))
                .or(health.map(|h| &h.mother))
                .or(scored.get(1)),
        ),
        ("child", child.or(health.map(|h| &h.child))),
    ];
    found.into_iter().filter_map(|(title, model)| Some((title, model?))).collect()
}

/// Every hash that names an input or output of the run.
pub(crate) fn hashes(run: &Run) -> Vec<Hash> {
    let mut hashes = Vec::new();
    let mut add = |what: &str, of: &str, sha256: &str| {
        if !sha256.is_empty() {
            hashes.push(Hash {
                what: what.to_owned(),
                of: of.to_owned(),
                sha256: sha256.to_owned(),
            });
        }
    };
    for (title, model) in family(run) {
        let of = format!("{}: weights, config and tokenizer", model.name);
        add(title, &of, model.fingerprint.as_str());
        add(title, "tokenizer", &model.tokenizer_sha256);
        add(title, "chat template", &model.template_sha256);
    }
    if let Ok(manifest) = &run.manifest {
        add("recipe", "canonical form and the parents", &manifest.recipe_sha256);
    }
    if let Ok(comparison) = &run.comparison {
        let c = &comparison.calibration;
        let of = format!("{} samples, {} tokens", grouped(c.samples as u64), grouped(c.tokens));
        add("calibration", &of, &c.items_sha256);
    }
    if let Ok(scores) = &run.scores {
        add("items", &format!("split {}", scores.split), &scores.items_sha256);
    }
    if let Ok(journal) = &run.journal {
        add("run", "configuration, parents, items, seeds", journal.header.run.as_str());
    }
    hashes
}

/// `run.json` as rows, nested keys joined with dots; what stands elsewhere on the page is left out.
fn about(value: &Value) -> Vec<(String, String)> {
    let mut rows = Vec::new();
    flatten("", value, &mut rows);
    rows.retain(|(key, _)| !ELSEWHERE.contains(&key.as_str()));
    rows
}

fn flatten(prefix: &str, value: &Value, rows: &mut Vec<(String, String)>) {
    match value {
        Value::Object(map) => {
            for (key, inner) in map {
                let key = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
                flatten(&key, inner, rows);
            }
        }
        Value::Null => {}
        Value::String(text) => rows.push((prefix.to_owned(), text.clone())),
        Value::Array(items) if items.iter().all(|i| !i.is_object() && !i.is_array()) => {
            let items: Vec<String> = items.iter().map(scalar).collect();
            rows.push((prefix.to_owned(), items.join(", ")));
        }
        other => rows.push((prefix.to_owned(), other.to_string())),
    }
}

fn scalar(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
