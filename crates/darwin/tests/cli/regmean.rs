//! `darwin merge` of maps that are solved from activations.

use super::{darwin, siblings};
use darwin_testkit::write_tiny_text;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

const REGMEAN: &str =
    "regmean: {b: 0.5, father: [math, logic, tools], mother: [code, language, math]}";

/// A recipe with some keys of the namespace.
fn recipe(more: &str) -> String {
    format!(
        "merge_method: regmean\nmodels: [{{model: father}}, {{model: mother}}]\n\
         darwin: {{father: father, mother: mother, t: 0.25, {more}}}\n"
    )
}

const DOMAINS: [&str; 6] = ["math", "code", "language", "logic", "tools", "knowledge"];

/// Two tiny parents with a tokenizer, items, and a recipe.
fn parents(recipe: &str) -> tempfile::TempDir {
    let folder = siblings();
    for parent in ["father", "mother"] {
        write_tiny_text(&folder.path().join(parent)).expect("write");
    }
    let item = |i: usize| {
        let domain = DOMAINS[i % DOMAINS.len()];
        let question = format!("What is {} + {}?", i * 7 % 31, i * 13 % 57);
        format!(
            r#"{{"id":"i{i}","domain":"{domain}","family":"sum","question":"{question}","target":"{}","formats":["direct"]}}"#,
            i * 5 % 41
        )
    };
    let items: Vec<String> = (0..240).map(item).collect();
    std::fs::write(folder.path().join("items.jsonl"), items.join("\n")).expect("write");
    std::fs::write(folder.path().join("merge.yaml"), recipe).expect("write");
    folder
}

fn run(folder: &Path, arguments: &str) -> (i32, String, String) {
    darwin(folder, &arguments.split(' ').collect::<Vec<_>>())
}

/// Names and bytes of the files of a child.
fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let entries = std::fs::read_dir(folder).expect("lists");
    let mut files: Vec<_> = entries
        .map(|entry| entry.expect("entry"))
        .map(|entry| {
            let name = entry.file_name().into_string().expect("UTF-8");
            (name, std::fs::read(entry.path()).expect("reads"))
        })
        .collect();
    files.sort();
    files
}

#[test]
fn a_child_is_solved_from_items_whatever_the_threads() {
    let folder = parents(&recipe("regmean: {b: 0.5}"));
    let merge = "merge merge.yaml child --items items.jsonl --per-domain 30";
    let (code, stdout, stderr) = run(folder.path(), merge);
    assert_eq!(code, 0, "{stderr}");
    assert!(stdout.contains(" maps solved from activations"), "{stdout}");
    for domain in DOMAINS {
        assert!(stderr.contains(&format!("{domain}: ")), "{stderr}");
    }
    assert!(!folder.path().join("child.solved").exists());
    let child = files(&folder.path().join("child"));
    let other = merge.replace("child", "other");
    let (code, _, stderr) = run(folder.path(), &format!("-q {other} -j 1 --memory 256MiB"));
    assert_eq!((code, stderr.as_str()), (0, ""));
    let other = files(&folder.path().join("other"));
    for ((name, one), (_, two)) in child.iter().zip(&other) {
        assert!(one == two || name == "README.md", "{name} differs");
    }
    // what was measured is in the recipe beside the child, which gives it again
    let (_, recipe) = child.iter().find(|(name, _)| name == "mergekit_config.yml").expect("there");
    let recipe = String::from_utf8_lossy(recipe);
    assert!(recipe.contains("items: ") && recipe.contains("b: 0.5"), "{recipe}");
    std::fs::write(folder.path().join("again.yaml"), recipe.as_bytes()).expect("write");
    let again = "-q merge again.yaml again --items items.jsonl --per-domain 30";
    let (code, _, stderr) = run(folder.path(), again);
    assert_eq!((code, stderr.as_str()), (0, ""));
    let again = files(&folder.path().join("again"));
    let weights = |files: &[(String, Vec<u8>)]| -> Vec<Vec<u8>> {
        let shards = files.iter().filter(|(name, _)| name.ends_with(".safetensors"));
        shards.map(|(_, bytes)| bytes.clone()).collect()
    };
    assert!(weights(&again) == weights(&child));
    let (code, _, stderr) =
        run(folder.path(), "-q merge again.yaml more --items items.jsonl --per-domain 20");
    assert_eq!(code, 2);
    assert!(stderr.contains("`darwin.regmean.items` is `"), "{stderr}");
}

/// Their configs differ: the father has vision and multi-token prediction.
#[test]
fn the_example_parents_are_solved() {
    let parents = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/parents");
    let folder = tempfile::tempdir().expect("tempdir");
    let text = recipe("regmean: {}")
        .replace("father}", &format!("{}}}", parents.join("father").display()))
        .replace("mother}", &format!("{}}}", parents.join("mother").display()))
        .replace("father: father", &format!("father: {}", parents.join("father").display()))
        .replace("mother: mother", &format!("mother: {}", parents.join("mother").display()));
    std::fs::write(folder.path().join("merge.yaml"), text).expect("write");
    let items = parents.join("items");
    let merge = format!("merge merge.yaml child --per-domain 8 --items {}", items.display());
    let (code, stdout, stderr) = run(folder.path(), &merge);
    assert_eq!(code, 0, "{stderr}");
    let (counts, _) = stdout.split_once(" maps solved from activations").expect("counts");
    assert!(counts.trim().parse::<u64>().expect("a number") > 60, "{stdout}");
    assert!(folder.path().join("child/manifest.json").exists());
}

#[test]
fn a_killed_merge_keeps_its_solved_layers() {
    let folder = parents(&recipe(REGMEAN));
    let merge = "-q merge merge.yaml child --items items.jsonl -j 1";
    let whole = merge.replace("child", "whole");
    let (code, _, stderr) = run(folder.path(), &whole);
    assert_eq!((code, stderr.as_str()), (0, ""));
    let mut child = Command::new(env!("CARGO_BIN_EXE_darwin"))
        .args(merge.split(' '))
        .current_dir(folder.path())
        .stdout(Stdio::null())
        .spawn()
        .expect("runs");
    let layer = folder.path().join("child.solved/layer-00001.safetensors");
    while !layer.exists() {
        assert!(child.try_wait().expect("waits").is_none(), "killed before its end");
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().expect("SIGKILL");
    child.wait().expect("waits");
    assert!(!folder.path().join("child").exists());
    let (code, _, stderr) = run(folder.path(), &merge.replace("-q ", ""));
    assert_eq!(code, 0, "{stderr}");
    assert!(stderr.contains("layers were solved by an interrupted run"), "{stderr}");
    assert!(!folder.path().join("child.solved").exists());
    assert!(files(&folder.path().join("child")) == files(&folder.path().join("whole")));
}

#[test]
fn a_dry_run_says_what_it_takes_and_writes_nothing() {
    let folder = parents(&recipe(REGMEAN));
    let (code, plan, stderr) =
        run(folder.path(), "merge merge.yaml child --items items.jsonl --dry-run");
    assert_eq!((code, stderr.as_str()), (0, ""));
    for word in ["regmean", "least squares", "FLOPs", "minutes", "memory at most", "at most "] {
        assert!(plan.contains(word), "`{word}` is not in:\n{plan}");
    }
    assert!(!folder.path().join("child").exists() && !folder.path().join("child.solved").exists());
}

#[test]
fn what_is_missing_is_a_sentence() {
    let folder = parents(&recipe(REGMEAN));
    let refused = |arguments: &str, words: &str| {
        let (code, _, stderr) = run(folder.path(), arguments);
        assert_eq!(code, 2, "{stderr}");
        assert!(stderr.contains(words), "`{words}` is not in:\n{stderr}");
        assert!(!folder.path().join("child").exists());
    };
    refused("-q merge merge.yaml child", "there are no items to run the parents on");
    refused(
        "-q merge merge.yaml child --items items.jsonl --memory 1MiB",
        "1 MiB of memory are not enough",
    );
    for (more, words) in [
        ("regmean: {b: -1}", "`b` is `-1`, allowed is a weight from 0 to 1e6"),
        ("regmean: {ridge: x}", "`ridge` is `x`"),
        ("regmean: {off_diagonal: 2}", "`off_diagonal` is `2`, allowed is a number from 0 to 1"),
        ("regmean: {father: [mth]}", "did you mean `math`?"),
        ("regmean: {father: [math]}", "has domains of one parent alone"),
        ("regmean: {father: [math, math], mother: [code]}", "names a domain twice"),
        ("regmean: {father: [math], mother: [vision]}", "`vision`, of which there are no items"),
        ("regmean: {per_domain: 0}", "`per_domain` is `0`"),
        ("align: experts", "`darwin.align` is given and maps are solved"),
    ] {
        std::fs::write(folder.path().join("merge.yaml"), recipe(more)).expect("write");
        refused("-q merge merge.yaml child --items items.jsonl", words);
    }
    let without = recipe(REGMEAN).replace(", t: 0.25", "");
    std::fs::write(folder.path().join("merge.yaml"), without).expect("write");
    refused("-q merge merge.yaml child --items items.jsonl", "there is no `darwin.t`");
    let linear = recipe(REGMEAN).replace("method: regmean", "method: linear");
    std::fs::write(folder.path().join("merge.yaml"), &linear).expect("write");
    refused("-q merge merge.yaml child", "`darwin.regmean` has no effect with `linear`");
    std::fs::write(folder.path().join("merge.yaml"), linear.replace(&format!(", {REGMEAN}"), ""))
        .expect("write");
    refused(
        "-q merge merge.yaml child --items items.jsonl",
        "nothing of this recipe is solved from activations",
    );
}
