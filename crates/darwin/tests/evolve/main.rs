//! The whole job on tiny parents: a run that is killed again and again ends with the same journal
//! and the same child, byte for byte, as one that is not.

#![allow(clippy::disallowed_methods, reason = "a test may write plainly")]

mod kept;

use darwin_checkpoint::{Checkpoint, HashCache, TensorSource, read_tensor};
use darwin_core::files::{Health, Severity, Verdict};
use darwin_core::keyed::{Key, Rng};
use darwin_core::{Cancel, NoProgress};
use darwin_merge::{Merge, Recipe, Sources};
use darwin_testkit::{ExpertLayout, sibling, tiny_qwen35, write_model};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// What the health check says of the tiny parents' child: random weights, few items.
const VERDICT: Verdict = Verdict::Pass;

/// Two tiny parents, items of three domains and a configuration in a folder.
fn setting(folder: &Path) {
    let father = tiny_qwen35(1);
    let mother = sibling(&father, "mother", 2, 0.3);
    write_model(&folder.join("father"), &father, ExpertLayout::Fused, 60_000);
    write_model(&folder.join("mother"), &mother, ExpertLayout::PerExpert, 80_000);
    std::fs::create_dir(folder.join("items")).expect("create");
    for split in ["calibration", "proxy", "search", "selection", "test"] {
        let mut lines = String::new();
        for domain in ["math", "knowledge", "language"] {
            for i in 0..8 {
                let think = if domain == "math" { r#","direct","think""# } else { r#","direct""# };
                writeln!(
                    lines,
                    r#"{{"id":"{split}{domain}{i}","domain":"{domain}","family":"f","question":"{split} {i} + {domain}","target":"{i}","trace":"t{i}","formats":[{}]}}"#,
                    &think[1..]
                )
                .expect("a string");
            }
        }
        std::fs::write(folder.join("items").join(format!("{split}.jsonl")), lines).expect("write");
    }
    std::fs::write(
        folder.join("run.yaml"),
        "title: tiny\nfather: father\nmother: mother\nitems: items\nout: run\n\
         goal: { protected: { language: 0.5 } }\n\
         calibration: { per_domain: 8 }\n\
         proxy: { per_domain: 2, steps: 200, final_per_domain: 6 }\n\
         real: { per_domain: 2, steps: 3 }\nselection: { per_domain: 2, top: 1 }\n\
         test: { per_domain: 3 }\nmax_new_tokens: 6\n\
         arms: [line, blind, card, guided, regmean, placebo]\n",
    )
    .expect("write");
}

fn evolve(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_darwin"));
    command.args(["--quiet", "evolve", "run.yaml"]).current_dir(folder).stdout(Stdio::piped());
    command.stderr(Stdio::piped());
    command
}

/// A finished run: its child's verdict stands in `health.json`, and the exit code says the same.
fn assert_finished(folder: &Path, output: &std::process::Output) {
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(String::from_utf8_lossy(&output.stdout).contains("child: the champion of"), "{text}");
    let health: Health =
        serde_json::from_slice(&std::fs::read(folder.join("run/health.json")).expect("read"))
            .expect("health.json");
    assert_eq!(health.verdict, VERDICT, "{:?}", health.findings);
    let worst = health.findings.iter().map(|finding| finding.severity).max();
    assert_eq!(worst == Some(Severity::Fail), VERDICT == Verdict::Fail);
    assert_eq!(output.status.code(), Some(i32::from(VERDICT == Verdict::Fail)), "{text}");
}

/// All files of a run that must not depend on how often it was interrupted.
fn lasting(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let run = folder.join("run");
    let mut files = BTreeMap::new();
    for part in ["", "child"] {
        for entry in std::fs::read_dir(run.join(part)).expect("list").flatten() {
            let name = entry.file_name().into_string().expect("UTF-8");
            // `created` stands in these.
            let clocked = ["run.json", "report.html", "README.md"].contains(&name.as_str());
            if entry.path().is_file() && !clocked {
                let bytes = std::fs::read(entry.path()).expect("read");
                files.insert(format!("{part}/{name}"), bytes);
            }
        }
    }
    files
}

#[test]
fn a_run_killed_at_random_moments_ends_like_one_that_was_not() {
    let whole = tempfile::tempdir().expect("tempdir");
    setting(whole.path());
    assert_finished(whole.path(), &evolve(whole.path()).output().expect("runs"));
    let lines = |folder: &Path| {
        let journal = std::fs::read(folder.join("run/journal.jsonl")).unwrap_or_default();
        journal.iter().filter(|byte| **byte == b'\n').count()
    };
    let total = lines(whole.path()) as f64;
    let journal = std::fs::read_to_string(whole.path().join("run/journal.jsonl")).expect("read");
    assert!(!journal.contains("\"failed\""), "a candidate of these parents failed");
    let expected = lasting(whole.path());
    assert!(
        expected.contains_key("/journal.jsonl") && expected.contains_key("child/manifest.json")
    );

    let killed = tempfile::tempdir().expect("tempdir");
    setting(killed.path());
    let mut rng = Rng::new(Key::new(u64::from(std::process::id()), &["kill"]), 0);
    let mut kills = 0;
    for _ in 0..6 {
        let mut child = evolve(killed.path()).spawn().expect("starts");
        // Some way into the journal and then any moment, however fast the machine is.
        let target = (0.9 * total * rng.uniform()) as usize;
        while lines(killed.path()) < target && child.try_wait().expect("a child").is_none() {
            std::thread::sleep(Duration::from_millis(2));
        }
        std::thread::sleep(Duration::from_secs_f64(0.1 * rng.uniform()));
        // SIGKILL; an error means that it ended by itself.
        if child.try_wait().expect("a child").is_none() {
            child.kill().expect("kills");
            kills += 1;
        }
        child.wait().expect("ends");
    }
    assert!(kills > 0, "no run was killed");
    assert_finished(killed.path(), &evolve(killed.path()).output().expect("runs"));
    let found = lasting(killed.path());
    assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    for (name, bytes) in &expected {
        assert!(found[name] == *bytes, "{name} differs after {kills} kills");
    }
}

/// The dry run checks what the run checks, writes nothing, and knows a run that it would continue.
#[test]
fn a_dry_run_foresees_the_run_and_writes_nothing() {
    let folder = tempfile::tempdir().expect("tempdir");
    setting(folder.path());
    let config = std::fs::read_to_string(folder.path().join("run.yaml")).expect("read");
    let config = config
        .replace("steps: 200", "steps: 80")
        .replace("arms: [line, blind, card, guided, regmean, placebo]", "arms: [line]");
    let write = |text: &str| std::fs::write(folder.path().join("run.yaml"), text).expect("write");
    write(&config);
    let dry = || {
        let output = evolve(folder.path()).arg("--dry-run").output().expect("runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let (code, stdout, stderr) = dry();
    assert_eq!(code, Some(0), "{stderr}");
    for word in
        ["calibration", "selection", "line ", "before it begins", "the run begins", "memory  "]
    {
        assert!(stdout.contains(word), "`{word}` is not in:\n{stdout}");
    }
    assert!(stdout.contains(" to run/child"), "{stdout}");
    assert!(!folder.path().join("run").exists(), "something was written");

    assert_finished(folder.path(), &evolve(folder.path()).output().expect("runs"));
    let before = lasting(folder.path());
    let (code, stdout, stderr) = dry();
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stdout.contains("the run goes on after "), "{stdout}");
    assert!(lasting(folder.path()) == before, "the dry run changed the run folder");

    write(&(config.clone() + "seeds: { run: 2 }\n"));
    let (code, stdout, stderr) = dry();
    assert_eq!(code, Some(0));
    assert!(stderr.contains("another configuration") && stdout.contains("the run begins"));
    assert!(lasting(folder.path()) == before, "the dry run changed the run folder");

    write(&config.replace("items: items", "items: nowhere"));
    let (code, _, stderr) = dry();
    assert_eq!(code, Some(2));
    assert!(stderr.starts_with("error: ") && stderr.contains("nowhere"), "{stderr}");
}

/// A budget that what an arm must know would exceed is refused before a weight is read.
#[test]
fn a_budget_that_is_too_small_is_refused_at_once() {
    let folder = tempfile::tempdir().expect("tempdir");
    setting(folder.path());
    let path = folder.path().join("run.yaml");
    let config = std::fs::read_to_string(&path).expect("read");
    std::fs::write(&path, config.replace("steps: 200", "steps: 50")).expect("write");
    for arguments in [&["--dry-run"][..], &[]] {
        let output = evolve(folder.path()).args(arguments).output().expect("runs");
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{text}");
        assert!(text.contains("the arm guided needs ") && text.contains("proxy.steps"), "{text}");
    }
    assert!(!folder.path().join("run/journal.jsonl").exists());
}

#[test]
fn what_was_evaluated_in_memory_is_what_was_written() {
    let folder = tempfile::tempdir().expect("tempdir");
    setting(folder.path());
    assert_finished(folder.path(), &evolve(folder.path()).output().expect("runs"));
    let run = folder.path().join("run");
    let text = std::fs::read_to_string(run.join("best.yaml")).expect("read");
    // The recipe names the parents relative to where the command ran.
    std::fs::write(folder.path().join("best.yaml"), text).expect("write");
    let recipe = Recipe::load(&folder.path().join("best.yaml")).expect("reads back");
    let mut sources = Sources::open(&recipe).expect("opens");
    let hashes = HashCache::default();
    sources.identify(&hashes, &NoProgress, &Cancel::default()).expect("identified");
    let merge = Merge::new(&recipe, &sources).expect("plans");
    let child = Checkpoint::open(run.join("child")).expect("opens");
    for info in merge.manifest().tensors() {
        let id = merge.manifest().find(&info.name).expect("there");
        let written = child.manifest().find(&info.name).expect("written");
        let (a, b) = (read_tensor(&merge, id), read_tensor(&child, written));
        let bits = |v: Vec<f32>| v.into_iter().map(f32::to_bits).collect::<Vec<_>>();
        assert_eq!(bits(a.expect("reads")), bits(b.expect("reads")), "{}", info.name);
    }
    let manifest = std::fs::read_to_string(run.join("child/manifest.json")).expect("read");
    let recipe = sources.fingerprint_of(&recipe).expect("identified");
    assert!(manifest.contains(recipe.as_str()), "the child's manifest names the recipe's hash");
}

#[test]
fn ctrl_c_stops_cleanly_and_the_same_command_continues() {
    let folder = tempfile::tempdir().expect("tempdir");
    setting(folder.path());
    let child = evolve(folder.path()).spawn().expect("starts");
    let journal = folder.path().join("run/journal.jsonl");
    let waiting = Instant::now();
    while std::fs::read_to_string(&journal).map_or(0, |t| t.lines().count()) < 8 {
        assert!(waiting.elapsed() < Duration::from_secs(120), "no journal after two minutes");
        std::thread::sleep(Duration::from_millis(5));
    }
    let id = child.id().to_string();
    assert!(Command::new("kill").args(["-INT", &id]).status().expect("kill").success());
    let output = child.wait_with_output().expect("ends");
    assert_eq!(output.status.code(), Some(130));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("the same command continues"), "{text}");
    assert!(!folder.path().join("run/child").exists());
    assert_finished(folder.path(), &evolve(folder.path()).output().expect("runs"));
}

#[test]
fn the_second_run_in_a_folder_says_who_is_there() {
    let alone = tempfile::tempdir().expect("tempdir");
    setting(alone.path());
    assert_finished(alone.path(), &evolve(alone.path()).output().expect("runs"));
    let expected = lasting(alone.path());

    let folder = tempfile::tempdir().expect("tempdir");
    setting(folder.path());
    let mut first = evolve(folder.path()).spawn().expect("starts");
    let journal = folder.path().join("run/journal.jsonl");
    while std::fs::read_to_string(&journal).map_or(0, |t| t.lines().count()) < 4 {
        assert!(first.try_wait().expect("a child").is_none(), "it ended before its time");
        std::thread::sleep(Duration::from_millis(2));
    }
    let id = first.id().to_string();
    let signal = |name: &str| {
        assert!(Command::new("kill").args([name, &id]).status().expect("kill").success());
    };
    signal("-STOP");
    let before = std::fs::read(&journal).expect("read");
    let second = evolve(folder.path()).output().expect("runs");
    let text = String::from_utf8_lossy(&second.stderr);
    assert_eq!(second.status.code(), Some(3), "{text}");
    assert!(text.contains(&format!("in use by process {id} ")), "{text}");
    assert_eq!(std::fs::read(&journal).expect("read"), before);
    signal("-CONT");
    assert_finished(folder.path(), &first.wait_with_output().expect("ends"));
    let found = lasting(folder.path());
    assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    for (name, bytes) in &expected {
        assert!(found[name] == *bytes, "{name} differs");
    }
    assert!(!folder.path().join("run/.darwin-lock").exists());
}
