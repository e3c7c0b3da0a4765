//! Models that are read layer by layer: plans, budgets, and the same files whatever the budget.

use super::{darwin, siblings};
use darwin_testkit::write_tiny_text;
use std::path::Path;

/// Two tiny parents with a tokenizer, and items.
fn parents() -> tempfile::TempDir {
    let folder = siblings();
    write_tiny_text(&folder.path().join("father")).expect("write");
    write_tiny_text(&folder.path().join("mother")).expect("write");
    let item = |i: usize| {
        let domain = ["math", "code", "language"][i % 3];
        format!(
            r#"{{"id":"i{i}","domain":"{domain}","family":"sum","question":"What is {i} + 3?","target":"{}","formats":["direct"]}}"#,
            i + 3
        )
    };
    let items: Vec<String> = (0..12).map(item).collect();
    std::fs::write(folder.path().join("items.jsonl"), items.join("\n")).expect("write");
    folder
}

fn run(folder: &Path, arguments: &str) -> (i32, String, String) {
    darwin(folder, &arguments.split(' ').collect::<Vec<_>>())
}

/// The number of MiB before a word of a sentence.
fn mib_after(text: &str, words: &str) -> u64 {
    let (_, rest) = text.split_once(words).unwrap_or_else(|| panic!("no `{words}` in {text}"));
    rest.trim().split(' ').next().and_then(|n| n.parse().ok()).expect("a number")
}

#[test]
fn a_profile_is_planned_and_kept_within_its_memory() {
    let folder = parents();
    let profile = "-q profile father --items items.jsonl";
    let (code, plan, stderr) = run(folder.path(), &format!("{profile} --dry-run"));
    assert_eq!((code, stderr.as_str()), (0, ""));
    for word in ["model   ", "4 layers", "FLOPs", "memory  at most", "of the model)", "GB/s"] {
        assert!(plan.contains(word), "`{word}` is not in:\n{plan}");
    }
    let (code, _, stderr) = run(folder.path(), &format!("{profile} --memory 1MiB"));
    assert_eq!(code, 2);
    assert!(stderr.starts_with("error: 1 MiB of memory are not enough"), "{stderr}");
    let least = mib_after(&stderr, "the least is") + 2;
    let (code, _, stderr) = run(folder.path(), &format!("{profile} --out plain"));
    assert_eq!((code, stderr.as_str()), (0, ""));
    for (out, more) in [
        ("least", format!("--memory {least}MiB")),
        ("one", "-j 1 --memory 1GiB --scratch .".to_owned()),
    ] {
        let (code, _, stderr) = run(folder.path(), &format!("{profile} --out {out} {more}"));
        assert_eq!((code, stderr.as_str()), (0, ""));
        for file in ["profile.json", "samples.safetensors"] {
            let read = |out: &str| std::fs::read(folder.path().join(out).join(file)).expect("read");
            assert!(read("plain") == read(out), "{out}/{file}");
        }
    }
}

#[test]
fn a_scratch_folder_that_is_none_is_named() {
    let folder = parents();
    let (code, _, stderr) =
        run(folder.path(), "-q profile father --items items.jsonl --scratch nowhere");
    assert_eq!(code, 2);
    assert!(stderr.starts_with("error: `--scratch`: nowhere is no folder"), "{stderr}");
}

#[test]
fn a_comparison_is_the_same_file_whatever_the_budget() {
    let folder = parents();
    let compare = "-q compare father mother --items items.jsonl";
    let (code, plan, stderr) = run(folder.path(), &format!("{compare} --dry-run"));
    assert_eq!((code, stderr.as_str()), (0, ""));
    for word in ["profile of father", "profile of mother", "10 variants", "1 sweep over the layers"]
    {
        assert!(plan.contains(word), "`{word}` is not in:\n{plan}");
    }
    let (code, _, stderr) = run(folder.path(), &format!("{compare} --memory 1MiB"));
    assert_eq!(code, 2);
    let least = mib_after(&stderr, "the least is") + 4;
    let mut files = Vec::new();
    for more in ["".to_owned(), format!(" --memory {least}MiB"), " -j 1 --scratch .".to_owned()] {
        let (code, _, stderr) = run(folder.path(), &format!("{compare} --out found.json{more}"));
        assert_eq!((code, stderr.as_str()), (0, ""));
        files.push(std::fs::read(folder.path().join("found.json")).expect("read"));
    }
    assert!(files.iter().all(|file| *file == files[0]));
}
