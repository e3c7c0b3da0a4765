//! Standard output that takes no more, too many threads, too few files.

use darwin_testkit::{ExpertLayout, tiny_qwen35, write_model};
use std::fmt::Write;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

fn darwin(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_darwin"));
    command.args(arguments).current_dir(folder).stderr(Stdio::piped());
    command
}

/// A tiny model of many shards.
fn model() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("tempdir");
    write_model(&folder.path().join("model"), &tiny_qwen35(1), ExpertLayout::PerExpert, 2_000);
    let recipe = "merge_method: linear\nmodels:\n  - model: model\n    parameters: {weight: 1}\n";
    std::fs::write(folder.path().join("merge.yaml"), recipe).expect("write");
    folder
}

#[test]
fn a_full_stdout_is_an_error() {
    let folder = model();
    for arguments in [
        &["inspect", "model"][..],
        &["inspect", "model", "--json"],
        &["merge", "merge.yaml", "--dry-run", "--json"],
        &["ls", "methods"],
        &["--help"],
        &["merge", "--help"],
        &["--version"],
    ] {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").expect("Linux");
        let output = darwin(folder.path(), arguments).stdout(full).output().expect("runs");
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(3), "{arguments:?}: {text}");
        assert!(text.contains("error: cannot write to stdout: No space left"), "{text}");
        assert_eq!(text.matches("error: ").count(), 1, "{text}");
    }
}

#[test]
fn a_closed_pipe_ends_the_work_quietly() {
    let folder = model();
    let mut items = String::new();
    for i in 0..20_000 {
        writeln!(items, r#"{{"id":"{i}","prompt_ids":[1,2,3],"answer_ids":[4,5]}}"#).expect("text");
    }
    std::fs::write(folder.path().join("items.jsonl"), items).expect("write");
    let mut command = darwin(folder.path(), &["-q", "score", "model", "items.jsonl", "--json"]);
    let mut child = command.stdout(Stdio::piped()).spawn().expect("runs");
    let mut line = String::new();
    let mut stdout = BufReader::with_capacity(64, child.stdout.take().expect("piped"));
    stdout.read_line(&mut line).expect("a line");
    drop(stdout);
    let output = child.wait_with_output().expect("ends");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(line.contains("nll"), "{line}{text}");
    assert_eq!((output.status.code(), &*text), (Some(141), ""));

    for arguments in [&["inspect", "model"][..], &["ls", "methods"], &["--help"]] {
        let (reader, writer) = std::io::pipe().expect("pipe");
        drop(reader);
        let output = darwin(folder.path(), arguments).stdout(writer).output().expect("runs");
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), &*text), (Some(141), ""), "{arguments:?}");
    }
}

#[test]
fn too_few_open_files_are_one_sentence() {
    let folder = model();
    let shards = std::fs::read_dir(folder.path().join("model")).expect("list").count();
    assert!(shards > 60, "{shards} files");
    let run = |limit: &str, arguments: &str| {
        let line = format!("ulimit {limit} 40; exec \"$0\" {arguments}");
        let mut command = Command::new("sh");
        command.current_dir(folder.path()).args(["-c", &line, env!("CARGO_BIN_EXE_darwin")]);
        command.output().expect("runs")
    };
    for arguments in ["inspect model", "merge merge.yaml child", "validate merge.yaml --models"] {
        let output = run("-n", arguments);
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(3), "{text}");
        assert!(text.contains("Too many open files") && text.contains("may open 40"), "{text}");
        assert!(text.contains("ulimit -n") && text.lines().count() == 2, "{text}");
        assert!(!folder.path().join("child").exists());
        // The program raises the limit as far as it may.
        let output = run("-S -n", arguments);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let _ = std::fs::remove_dir_all(folder.path().join("child"));
    }
}

#[test]
fn threads_are_limited_by_the_cores() {
    let folder = model();
    let run = |threads: &str| {
        let arguments = ["merge", "merge.yaml", "child", "-j", threads];
        darwin(folder.path(), &arguments).stdout(Stdio::null()).output().expect("runs")
    };
    let output = run("0");
    assert_eq!(output.status.code(), Some(2));
    let output = run("100000");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    assert_eq!(text.matches("warning: `--threads` is 100000: ").count(), 1, "{text}");
}
