//! Merges that are killed: what is whole stays, what is not never bears the final name.

#![allow(clippy::disallowed_methods, reason = "tests write their inputs as they like")]

use serde_json::Value;
use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

const RECIPE: &str = "merge_method: dare_ties\nbase_model: FATHER\nmodels:\n  - model: MOTHER\n    \
                      parameters: { weight: 0.5, density: 0.7 }\n";

fn darwin(folder: &Path, out: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_darwin"));
    command.current_dir(folder).args(["merge", "merge.yaml", out]);
    command.args(["--out-shard-size", "500000", "--threads", "1"]);
    command
}

/// File name and SHA-256 of the shards that the folder aside lists as whole.
fn whole_shards(folder: &Path) -> BTreeMap<String, String> {
    let path = folder.join("child.darwin-partial/.darwin-shards.json");
    let record: Option<Value> =
        std::fs::read(path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let shards = record.and_then(|r| serde_json::from_value(r["shards"].clone()).ok());
    shards.unwrap_or_default()
}

#[test]
fn a_killed_merge_goes_on_after_its_last_whole_shard() {
    let parents = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/parents");
    let dir = tempfile::tempdir().expect("tempdir");
    let folder = dir.path();
    let parent = |name: &str| parents.join(name).display().to_string();
    let recipe = RECIPE.replace("FATHER", &parent("father")).replace("MOTHER", &parent("mother"));
    std::fs::write(folder.join("merge.yaml"), recipe).expect("write");
    assert!(darwin(folder, "uninterrupted").status().expect("runs").success());

    let mut before: Vec<(String, u64, i64)> = Vec::new();
    for wanted in [2, 5] {
        let mut child = darwin(folder, "child").stdout(Stdio::null()).spawn().expect("runs");
        while whole_shards(folder).len() < wanted {
            assert!(child.try_wait().expect("waits").is_none(), "killed before its end");
            std::thread::sleep(Duration::from_millis(1));
        }
        child.kill().expect("SIGKILL");
        child.wait().expect("waits");
        assert!(!folder.join("child").exists());
        for (name, inode, time) in &before {
            let about = std::fs::metadata(folder.join("child.darwin-partial").join(name));
            let about = about.expect("still there");
            assert_eq!((about.ino(), about.mtime_nsec()), (*inode, *time), "{name} was redone");
        }
        let about = |name: &String| {
            let path = folder.join("child.darwin-partial").join(name);
            let about = std::fs::metadata(path).expect("listed shards are there");
            (name.clone(), about.ino(), about.mtime_nsec())
        };
        before = whole_shards(folder).keys().map(about).collect();
        assert!(before.len() >= wanted);
    }
    let last = darwin(folder, "child").output().expect("runs");
    let stdout = String::from_utf8_lossy(&last.stdout);
    assert!(last.status.success() && stdout.contains("from an interrupted merge"), "{stdout}");
    assert!(!folder.join("child.darwin-partial").exists());

    let names = |out: &str| {
        let entries = std::fs::read_dir(folder.join(out)).expect("lists");
        let mut names: Vec<_> = entries.map(|e| e.expect("entry").file_name()).collect();
        names.sort();
        names
    };
    assert_eq!(names("child"), names("uninterrupted"));
    for name in names("child") {
        let read = |out: &str| std::fs::read(folder.join(out).join(&name)).expect("reads");
        assert_eq!(read("child"), read("uninterrupted"), "{}", name.display());
    }
    let sums = Command::new("sha256sum")
        .args(["--check", "--quiet", "SHA256SUMS"])
        .current_dir(folder.join("child"))
        .status();
    assert!(sums.expect("coreutils").success());
}

#[test]
fn another_recipe_does_not_take_over_what_is_left() {
    let parents = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/parents");
    let dir = tempfile::tempdir().expect("tempdir");
    let folder = dir.path();
    let parent = |name: &str| parents.join(name).display().to_string();
    let recipe = RECIPE.replace("FATHER", &parent("father")).replace("MOTHER", &parent("mother"));
    std::fs::write(folder.join("merge.yaml"), &recipe).expect("write");
    let mut child = darwin(folder, "child").stdout(Stdio::null()).spawn().expect("runs");
    while whole_shards(folder).len() < 2 {
        assert!(child.try_wait().expect("waits").is_none(), "killed before its end");
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().expect("SIGKILL");
    child.wait().expect("waits");
    std::fs::write(folder.join("merge.yaml"), recipe.replace("0.5", "0.6")).expect("write");
    let other = darwin(folder, "child").output().expect("runs");
    let stdout = String::from_utf8_lossy(&other.stdout);
    assert!(other.status.success() && !stdout.contains("interrupted"), "{stdout}");
    let stderr = String::from_utf8_lossy(&other.stderr);
    assert!(stderr.contains("the child is made anew: "), "{stderr}");
    assert!(stderr.contains("of another recipe or other parents were there"), "{stderr}");
}
