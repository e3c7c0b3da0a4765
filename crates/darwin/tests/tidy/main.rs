//! Rules of the house that no compiler checks: which crate may know which, how long a file may be,
//! how large the repository may grow, and what never stands in it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Longest file of product code, lines, tests at its end not counted; model families may have 600.
const MAX_LINES: usize = 400;
const MAX_FAMILY_LINES: usize = 600;

/// Which crates each crate may use (ARCHITECTURE.md, code map).
const ARROWS: [(&str, &[&str]); 10] = [
    ("darwin-core", &[]),
    ("darwin-checkpoint", &["core"]),
    ("darwin-merge", &["core", "checkpoint"]),
    ("darwin-engine", &["core", "checkpoint"]),
    ("darwin-eval", &["core", "checkpoint", "engine"]),
    ("darwin-profile", &["core", "checkpoint", "engine", "eval", "merge"]),
    ("darwin-evolve", &["core", "checkpoint", "engine", "eval", "merge", "profile"]),
    ("darwin-report", &["core"]),
    ("darwin", &["core", "checkpoint", "engine", "eval", "evolve", "merge", "profile", "report"]),
    ("darwin-testkit", &["core", "checkpoint"]),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("two above").to_owned()
}

/// Tracked files, or all files of a source archive that has no git.
fn files() -> Vec<PathBuf> {
    let listed = Command::new("git").args(["ls-files", "-z"]).current_dir(root()).output();
    if let Ok(output) = listed
        && output.status.success()
        && !output.stdout.is_empty()
    {
        let names = output.stdout.split(|b| *b == 0).filter(|n| !n.is_empty());
        return names
            .map(|n| root().join(String::from_utf8_lossy(n).as_ref()))
            .filter(|p| p.is_file())
            .collect();
    }
    let mut found = Vec::new();
    let mut folders = vec![root()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("readable").flatten() {
            let path = entry.path();
            let name = entry.file_name();
            if path.is_dir() && name != "target" && name != "runs" && name != ".git" {
                folders.push(path);
            } else if path.is_file() {
                found.push(path);
            }
        }
    }
    found
}

fn relative(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).display().to_string()
}

#[test]
fn crates_know_only_what_they_may() {
    for (name, allowed) in ARROWS {
        let manifest = root().join("crates").join(name).join("Cargo.toml");
        let text = std::fs::read_to_string(&manifest).expect("every crate has a manifest");
        let product = text.split("[dev-dependencies]").next().unwrap_or("");
        for line in product.lines() {
            let Some(used) = line.strip_prefix("darwin-").and_then(|l| l.split('.').next()) else {
                continue;
            };
            assert!(allowed.contains(&used), "{name} must not know darwin-{used}");
        }
    }
}

#[test]
fn product_files_hold_one_idea() {
    let mut long = Vec::new();
    for path in files() {
        let name = relative(&path);
        let product =
            name.starts_with("crates/") && name.contains("/src/") && name.ends_with(".rs");
        if !product || name.contains("/tests") {
            continue;
        }
        let text = std::fs::read_to_string(&path).expect("readable");
        let code = text.split("\n#[cfg(test)]\nmod tests {").next().unwrap_or("");
        let limit = if name.contains("/families/") { MAX_FAMILY_LINES } else { MAX_LINES };
        let lines = code.lines().count();
        if lines > limit {
            long.push(format!("{name}: {lines} lines, allowed are {limit}"));
        }
    }
    assert!(long.is_empty(), "split these:\n{}", long.join("\n"));
}

#[test]
fn the_repository_stays_small() {
    let mut sizes: BTreeMap<&str, u64> = BTreeMap::new();
    for path in files() {
        let name = relative(&path);
        let bytes = path.metadata().expect("readable").len();
        for (part, prefix) in [
            ("parents", "examples/parents/father/"),
            ("parents", "examples/parents/mother/"),
            ("items", "examples/parents/items/"),
            ("fixtures", "crates/darwin-testkit/fixtures/"),
        ] {
            if name.starts_with(prefix) {
                *sizes.entry(part).or_default() += bytes;
            }
        }
    }
    for (part, limit) in [("parents", 20_000_000), ("items", 3_000_000), ("fixtures", 10_000_000)] {
        let size = sizes.get(part).copied().unwrap_or(0);
        assert!(size <= limit, "{part}: {size} bytes, allowed are {limit}");
    }
}

#[test]
fn libraries_do_not_print_or_read_the_environment() {
    for path in files() {
        let name = relative(&path);
        let library = name.starts_with("crates/darwin-") && name.contains("/src/");
        if !library || !name.ends_with(".rs") {
            continue;
        }
        let text = std::fs::read_to_string(&path).expect("readable");
        for (i, line) in text.lines().enumerate() {
            let code = line.split("//").next().unwrap_or("");
            for banned in ["println!(", "eprintln!(", "std::env::", "thread::spawn"] {
                assert!(
                    !code.contains(banned),
                    "{name}:{}: a library must not use {banned}",
                    i + 1
                );
            }
        }
    }
}

#[test]
fn every_file_of_a_shard_index_is_tracked() {
    for parent in ["father", "mother"] {
        let folder = root().join("examples/parents").join(parent);
        let index = std::fs::read_to_string(folder.join("model.safetensors.index.json"))
            .expect("the example parents have an index");
        let index: serde_json::Value = serde_json::from_str(&index).expect("JSON");
        for file in index["weight_map"].as_object().expect("a map").values() {
            let path = folder.join(file.as_str().expect("a name"));
            assert!(files().contains(&path), "{} is not tracked", path.display());
        }
    }
}
