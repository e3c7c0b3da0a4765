//! Rules of the house that no compiler checks: which crate may know which, how long a file may be,
//! how large the repository may grow, and what never stands in it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Longest file of product code, lines, tests at its end not counted; model families may have 600.
const MAX_LINES: usize = 400;
const MAX_FAMILY_LINES: usize = 600;

/// Which crates each crate may use (ARCHITECTURE.md, code map).
const ARROWS: [(&str, &[&str]); 12] = [
    ("darwin-core", &[]),
    ("darwin-checkpoint", &["core"]),
    ("darwin-merge", &["core", "checkpoint"]),
    ("darwin-engine", &["core", "checkpoint"]),
    ("darwin-eval", &["core", "checkpoint", "engine"]),
    ("darwin-profile", &["core", "checkpoint", "engine", "eval"]),
    ("darwin-regmean", &["core", "checkpoint", "engine", "eval", "merge"]),
    ("darwin-evolve", &["core", "checkpoint", "engine", "eval", "merge", "profile", "regmean"]),
    ("darwin-report", &["core"]),
    (
        "darwin",
        &[
            "core",
            "checkpoint",
            "engine",
            "eval",
            "evolve",
            "merge",
            "profile",
            "regmean",
            "report",
        ],
    ),
    ("darwin-testkit", &["core", "checkpoint"]),
    (
        "darwin-fuzz",
        &[
            "core",
            "checkpoint",
            "engine",
            "eval",
            "evolve",
            "merge",
            "profile",
            "report",
            "testkit",
        ],
    ),
];

/// The library files that may run a thread of their own: the writer of a shard waits for the disk,
/// where a thread of the pool would be missed.
const THREADS: [&str; 1] = ["crates/darwin-checkpoint/src/shard/mod.rs"];

/// Files that models have and this repository has not.
const MODEL_FILES: [&str; 2] = ["LICENSE.md", "USE_POLICY.md"];

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
        let product =
            text.split("\n#[cfg(test)]\nmod tests {").next().unwrap_or("").lines().count();
        for (i, line) in text.lines().enumerate() {
            let code = line.split("//").next().unwrap_or("");
            let banned = ["println!(", "eprintln!(", "std::env::"].into_iter();
            let threads = ["thread::spawn", "thread::scope", "thread::Builder"].into_iter();
            let threads = threads.filter(|_| i < product && !THREADS.contains(&name.as_str()));
            for banned in banned.chain(threads) {
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

/// Words of a text that may be file names.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || "._-/".contains(c)))
        .map(|word| word.trim_matches(|c| ".-/".contains(c)))
}

/// Tracked files with comments, and what stands in them.
fn sources() -> Vec<(String, String)> {
    let kinds = ["rs", "py", "sh", "toml", "yaml"];
    let commented = |path: &PathBuf| {
        path.extension().is_some_and(|kind| kinds.iter().any(|known| kind == *known))
    };
    let read = |path: PathBuf| Some((relative(&path), std::fs::read_to_string(path).ok()?));
    files().into_iter().filter(commented).filter_map(read).collect()
}

#[test]
fn what_is_cited_is_in_the_repository() {
    let all = files();
    let there: BTreeSet<&str> =
        all.iter().filter_map(|path| path.file_name()?.to_str()).chain(MODEL_FILES).collect();
    let mut missing = Vec::new();
    let mut cited = 0;
    for (name, text) in sources() {
        for (i, line) in text.lines().enumerate() {
            for word in words(line).filter(|word| word.len() > 3 && word.ends_with(".md")) {
                cited += 1;
                let file = word.rsplit('/').next().unwrap_or(word);
                if !there.contains(file) {
                    missing.push(format!("{name}:{}: {word}", i + 1));
                }
            }
        }
    }
    assert!(cited > 10, "citations are found");
    assert!(missing.is_empty(), "not in the repository:\n{}", missing.join("\n"));
}

#[test]
fn cited_sections_of_the_method_exist() {
    let method = std::fs::read_to_string(root().join("docs/method.md")).expect("docs/method.md");
    let sections: BTreeSet<&str> = method
        .lines()
        .filter(|line| line.starts_with("##"))
        .filter_map(|line| line.trim_start_matches('#').split_whitespace().next())
        .map(|number| number.trim_end_matches('.'))
        .collect();
    let mut missing = Vec::new();
    let mut cited = 0;
    for (name, text) in sources() {
        for (i, line) in text.lines().enumerate() {
            for (_, after) in
                line.match_indices("method ").map(|(at, m)| line.split_at(at + m.len()))
            {
                let end = after.find(|c: char| !c.is_ascii_digit() && c != '.');
                let number = after[..end.unwrap_or(after.len())].trim_end_matches('.');
                if number.is_empty() {
                    continue;
                }
                cited += 1;
                if !sections.contains(number) {
                    missing.push(format!("{name}:{}: method {number}", i + 1));
                }
            }
        }
    }
    assert!(cited > 80, "citations are found");
    assert!(missing.is_empty(), "no such section:\n{}", missing.join("\n"));
}
