//! Memory is kept or refused: exit code 3 and one sentence, whatever the limit; dry runs say what
//! would be held, read and written.

use super::{darwin, siblings};
use darwin_testkit::{ExpertLayout, Tiny, write_model, write_tiny_text};
use std::path::Path;
use std::process::Command;

fn items(folder: &Path) {
    let lines: Vec<String> = (0..4)
        .map(|i| format!(r#"{{"prompt_ids": [1, 2, {}], "answer_ids": [4, 5]}}"#, i + 3))
        .collect();
    std::fs::write(folder.join("items.jsonl"), lines.join("\n")).expect("write");
}

/// Exit code and stderr of `darwin ARGUMENTS` with at most so many KiB of address space; none where
/// the program cannot even start.
fn limited(folder: &Path, kib: u64, arguments: &str) -> Option<(Option<i32>, String)> {
    let run = |arguments: &str| {
        let command = format!("ulimit -v {kib}; exec {} {arguments}", env!("CARGO_BIN_EXE_darwin"));
        let mut shell = Command::new("sh");
        shell.args(["-c", &command]).env("MALLOC_ARENA_MAX", "1");
        shell.current_dir(folder).output().expect("runs")
    };
    if !run("--version").status.success() {
        return None;
    }
    let output = run(arguments);
    Some((output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned()))
}

/// Whatever the limit, a command ends well, or with one sentence and exit code 3.
#[test]
fn a_limit_is_never_a_signal() {
    let folder = siblings();
    items(folder.path());
    for arguments in ["-q score father items.jsonl -j 1", "-q merge merge.yaml child -j 1"] {
        let (mut refused, mut done) = (0, 0);
        for kib in (10_000..=400_000).step_by(15_000) {
            let Some((code, stderr)) = limited(folder.path(), kib, arguments) else { continue };
            match code {
                Some(0) => done += 1,
                Some(3) => {
                    refused += 1;
                    assert!(stderr.starts_with("error: "), "{kib} KiB, {arguments}: {stderr}");
                    assert_eq!(stderr.matches("error: ").count(), 1, "{kib} KiB: {stderr}");
                }
                other => panic!("{kib} KiB, {arguments}: exit {other:?}\n{stderr}"),
            }
            let _ = std::fs::remove_dir_all(folder.path().join("child"));
        }
        assert!(refused > 0 && done > 0, "{arguments}: {refused} refused, {done} done");
    }
}

/// More answers at once than memory has room for their caches.
#[test]
fn caches_that_do_not_fit_are_refused_before_the_model_is_loaded() {
    let folder = tempfile::tempdir().expect("tempdir");
    let sizes = Tiny { full_attention: vec![true; 16], ..Tiny::default() };
    let model = folder.path().join("model");
    write_model(&model, &sizes.build("deep", 1), ExpertLayout::Fused, u64::MAX);
    write_tiny_text(&model).expect("write");
    let generate =
        "-q generate model hello --raw --temperature 1 --n 4096 --max-new-tokens 900 -j 2";
    let (code, stderr) = limited(folder.path(), 400_000, generate).expect("starts");
    assert_eq!(code, Some(3), "{stderr}");
    for word in ["not enough memory: ", "caches ", "the machine has", "`ulimit -v`", "hint: "] {
        assert!(stderr.contains(word), "`{word}` is not in: {stderr}");
    }
}

#[test]
fn a_dry_run_says_what_is_held_read_and_written() {
    let folder = siblings();
    items(folder.path());
    write_tiny_text(&folder.path().join("father")).expect("write");
    std::fs::write(folder.path().join("x.jsonl"), "").expect("write");
    for arguments in [
        "score father items.jsonl --dry-run",
        "generate father hello --raw --dry-run",
        "check father --father father --mother mother --items x.jsonl --dry-run",
    ] {
        let before = std::fs::read_dir(folder.path()).expect("list").count();
        let words: Vec<&str> = arguments.split(' ').collect();
        let (code, stdout, stderr) = darwin(folder.path(), &words);
        assert_eq!((code, stderr.as_str()), (0, ""), "{arguments}");
        for word in ["memory  at most ", "weights ", "caches ", "machine ", "reads ", "writes  "] {
            assert!(stdout.contains(word), "{arguments}: `{word}` is not in:\n{stdout}");
        }
        assert_eq!(std::fs::read_dir(folder.path()).expect("list").count(), before);
    }
    let (code, stdout, _) =
        darwin(folder.path(), &["merge", "merge.yaml", "child", "--dry-run", "--memory", "8MiB"]);
    assert_eq!(code, 0);
    assert!(stdout.contains("buffers 8.00 MiB") && stdout.contains(" to child"), "{stdout}");
    assert!(!folder.path().join("child").exists());
}
