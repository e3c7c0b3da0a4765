//! What a run keeps carries what it was made from: what is used again is the same, what is not is
//! made anew with a sentence, and a journal of something else is refused (ARCHITECTURE.md, What is
//! kept, and when it is used again).

use super::{assert_finished, evolve, lasting, setting};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

/// The command without `--quiet`: exit code and what it said on stderr.
fn said(folder: &Path) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_darwin"));
    let output = command.args(["evolve", "run.yaml"]).current_dir(folder).output().expect("runs");
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// A finished run.
fn finished() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("tempdir");
    setting(folder.path());
    assert_finished(folder.path(), &evolve(folder.path()).output().expect("runs"));
    folder
}

/// The same folder elsewhere.
fn moved(from: &Path) -> tempfile::TempDir {
    let to = tempfile::tempdir().expect("tempdir");
    let copied = Command::new("cp").args(["-r", "."]).arg(to.path()).current_dir(from).status();
    assert!(copied.expect("cp runs").success());
    to
}

/// Changes a file in place.
fn edit(path: &Path, change: impl Fn(Vec<u8>) -> Vec<u8>) {
    let bytes = std::fs::read(path).expect("read");
    let changed = change(bytes.clone());
    assert!(changed != bytes, "{} did not change", path.display());
    std::fs::write(path, changed).expect("write");
}

fn replace(path: &Path, from: &str, to: &str) {
    let change = |bytes| String::from_utf8(bytes).expect("UTF-8").replacen(from, to, 1);
    edit(path, |bytes| change(bytes).into_bytes());
}

fn flip_last_bit(path: &Path) {
    edit(path, |mut bytes| {
        *bytes.last_mut().expect("not empty") ^= 1;
        bytes
    });
}

fn shard(model: &Path) -> std::path::PathBuf {
    let paths = std::fs::read_dir(model).expect("list").flatten().map(|entry| entry.path());
    paths.filter(|p| p.extension().is_some_and(|e| e == "safetensors")).max().expect("a shard")
}

/// Runs again, which must end as the finished run did and say these words.
fn mended(folder: &Path, expected: &BTreeMap<String, Vec<u8>>, words: &[&str]) {
    let (code, text) = said(folder);
    assert!(code == Some(0) || code == Some(1), "{code:?}: {text}");
    for word in words {
        assert!(text.contains(word), "`{word}` is missing in:\n{text}");
    }
    assert_eq!(text.matches("made anew").count(), words.len().min(1), "{text}");
    let found = lasting(folder);
    for (name, bytes) in expected {
        assert!(found[name] == *bytes, "{name} differs after {words:?}");
    }
}

#[test]
fn what_was_kept_is_used_again_elsewhere_and_mended_where_it_is_not_the_same() {
    let folder = finished();
    let expected = lasting(folder.path());
    // Other paths, other times and inodes, the same contents.
    let elsewhere = moved(folder.path());
    let run = elsewhere.path().join("run");
    let times = |name: &str| std::fs::metadata(run.join(name)).expect("there").modified().ok();
    let before = [times("mother.profile.json"), times("child/manifest.json")];
    mended(elsewhere.path(), &expected, &[]);
    assert_eq!([times("mother.profile.json"), times("child/manifest.json")], before);

    let again = |words: &[&str]| mended(elsewhere.path(), &expected, words);
    flip_last_bit(&shard(&run.join("child")));
    again(&["child is made anew", "is not what was written"]);
    std::fs::remove_file(shard(&run.join("child"))).expect("remove");
    again(&["child is made anew", "is not what was written"]);
    replace(&run.join("child/manifest.json"), "\"arithmetic\": 1", "\"arithmetic\": 0");
    again(&["child is made anew", "arithmetic"]);
    replace(&run.join("father.profile.json"), "\"schema\": 2", "\"schema\": 999");
    again(&["father.profile.json is made anew", "schema 999"]);
    replace(&run.join("mother.profile.json"), "\"arithmetic\": 1", "\"arithmetic\": 0");
    again(&["mother.profile.json is made anew", "arithmetic 0"]);
    std::fs::remove_file(run.join("mother.samples.safetensors")).expect("remove");
    again(&["mother.profile.json is made anew", "mother.samples.safetensors was not made with it"]);
    std::fs::write(run.join("comparison.json"), "{").expect("write");
    again(&["comparison.json is made anew", "cannot be read"]);
    let text = std::fs::read(run.join("comparison.json")).expect("read");
    let mut comparison: serde_json::Value = serde_json::from_slice(&text).expect("JSON");
    comparison["layers"] = serde_json::json!([]);
    std::fs::write(run.join("comparison.json"), comparison.to_string()).expect("write");
    again(&["comparison.json is made anew", "0 layers"]);
}

#[test]
fn a_journal_of_other_items_or_parents_is_refused_and_stays() {
    let folder = finished();
    let refused = |folder: &Path, words: &[&str]| {
        let before = lasting(folder);
        let (code, text) = said(folder);
        assert_eq!(code, Some(2), "{text}");
        for word in words {
            assert!(text.contains(word), "`{word}` is missing in:\n{text}");
        }
        assert!(lasting(folder) == before, "nothing is changed by a refusal");
    };
    let other = moved(folder.path());
    edit(&other.path().join("items/search.jsonl"), |bytes| {
        let text = String::from_utf8(bytes).expect("UTF-8");
        text.replace(r#""target":""#, r#""target":"1"#).into_bytes()
    });
    refused(other.path(), &["journal.jsonl: belongs to a run", "other items (search)"]);

    let other = moved(folder.path());
    flip_last_bit(&shard(&other.path().join("mother")));
    refused(other.path(), &["journal.jsonl: belongs to a run", "of the mother"]);
    // Without the journal everything that depends on the mother is made anew, nothing is mixed.
    std::fs::remove_file(other.path().join("run/journal.jsonl")).expect("remove");
    let (code, text) = said(other.path());
    assert!(code == Some(0) || code == Some(1), "{code:?}: {text}");
    for word in
        ["mother.profile.json is made anew", "comparison.json is made anew", "of the mother"]
    {
        assert!(text.contains(word), "`{word}` is missing in:\n{text}");
    }
    assert!(!text.contains("father.profile.json is made anew"), "{text}");
    let found = lasting(other.path());
    std::fs::remove_dir_all(other.path().join("run")).expect("remove");
    assert_finished(other.path(), &evolve(other.path()).output().expect("runs"));
    assert!(lasting(other.path()) == found, "as if it had begun with this mother");

    let other = moved(folder.path());
    let journal = other.path().join("run/journal.jsonl");
    replace(&journal, "\"fitness\":0.", "\"fitness\":1.");
    refused(other.path(), &["is damaged", "the chain does not fit"]);
}
