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
    replace(&run.join("father.profile.json"), "\"schema\": 3", "\"schema\": 999");
    again(&["father.profile.json is made anew", "schema 999"]);
    replace(&run.join("mother.profile.json"), "\"arithmetic\": 1", "\"arithmetic\": 0");
    again(&["mother.profile.json is made anew", "arithmetic 0"]);
    std::fs::remove_file(run.join("mother.samples.safetensors")).expect("remove");
    again(&["mother.profile.json is made anew", "mother.samples.safetensors was not made with it"]);
    std::fs::write(run.join("comparison.json"), "{").expect("write");
    again(&["comparison.json is made anew", "cannot be read"]);
    // Derivatives that are gone are the same when they are computed again.
    let slopes =
        std::fs::read_dir(run.join("slopes")).expect("list").flatten().next().expect("one");
    let before = std::fs::read_dir(slopes.path()).expect("list").count();
    assert!(before > 3);
    std::fs::remove_dir_all(run.join("slopes")).expect("remove");
    again(&[]);
    assert_eq!(std::fs::read_dir(slopes.path()).expect("list").count(), before);
    let text = std::fs::read(run.join("comparison.json")).expect("read");
    let mut comparison: serde_json::Value = serde_json::from_slice(&text).expect("JSON");
    comparison["layers"] = serde_json::json!([]);
    std::fs::write(run.join("comparison.json"), comparison.to_string()).expect("write");
    again(&["comparison.json is made anew", "0 layers"]);
}

/// The journals of other runs that were put aside.
fn aside(folder: &Path) -> Vec<std::path::PathBuf> {
    let paths = std::fs::read_dir(folder.join("run")).expect("list").flatten().map(|e| e.path());
    let journal = |p: &std::path::PathBuf| {
        let name = p.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.starts_with("journal.") && name != "journal.jsonl"
    };
    paths.filter(journal).collect()
}

/// Runs on what another run left in the folder: as one that begins there, with these words and the
/// other's journal kept.
fn anew(folder: &Path, words: &[&str]) {
    let before = std::fs::read(folder.join("run/journal.jsonl")).expect("read");
    let (code, text) = said(folder);
    assert!(code == Some(0) || code == Some(1), "{code:?}: {text}");
    for word in words {
        assert!(text.contains(word), "`{word}` is missing in:\n{text}");
    }
    let kept = aside(folder);
    assert_eq!(kept.len(), 1, "{text}");
    assert!(std::fs::read(&kept[0]).expect("read") == before, "hours are not lost");
    std::fs::remove_file(&kept[0]).expect("remove");
    let found = lasting(folder);
    std::fs::remove_dir_all(folder.join("run")).expect("remove");
    assert_finished(folder, &evolve(folder).output().expect("runs"));
    assert!(lasting(folder) == found, "as if it had begun there: nothing is mixed");
}

#[test]
fn a_journal_of_another_run_is_put_aside_and_taken_back() {
    let folder = finished();
    let begun = "journal.jsonl is begun anew: what was there was made ";
    let other = moved(folder.path());
    edit(&other.path().join("items/search.jsonl"), |bytes| {
        let text = String::from_utf8(bytes).expect("UTF-8");
        text.replace(r#""target":""#, r#""target":"1"#).into_bytes()
    });
    anew(other.path(), &[begun, "with other items (search)"]);

    let other = moved(folder.path());
    flip_last_bit(&shard(&other.path().join("mother")));
    let anew_too = ["mother.profile.json is made anew", "comparison.json is made anew"];
    anew(other.path(), &[&[begun, "tokenizer of the mother"], &anew_too[..]].concat());

    // Another configuration, and the first again: what it had is taken back.
    let other = moved(folder.path());
    let expected = lasting(other.path());
    let config = other.path().join("run.yaml");
    replace(&config, "max_new_tokens: 6", "max_new_tokens: 5");
    let (code, text) = said(other.path());
    assert!(code == Some(0) || code == Some(1), "{code:?}: {text}");
    assert!(text.contains(begun) && text.contains("with another configuration"), "{text}");
    assert_eq!(aside(other.path()).len(), 1);
    replace(&config, "max_new_tokens: 5", "max_new_tokens: 6");
    let (_, text) = said(other.path());
    assert!(text.contains("candidates of an earlier run like this"), "{text}");
    let found = lasting(other.path());
    assert!(expected.iter().all(|(name, bytes)| found[name] == *bytes), "as before");
}

#[test]
fn a_damaged_journal_is_refused_and_stays() {
    let folder = finished();
    let journal = folder.path().join("run/journal.jsonl");
    edit(&journal, |bytes| {
        let text = String::from_utf8(bytes).expect("UTF-8");
        let at = text.rfind("\"fitness\":0.").expect("a score");
        format!("{}\"fitness\":1.{}", &text[..at], &text[at + 12..]).into_bytes()
    });
    let before = lasting(folder.path());
    let (code, text) = said(folder.path());
    assert_eq!(code, Some(2), "{text}");
    for word in ["is damaged", "the chain does not fit", "are good"] {
        assert!(text.contains(word), "`{word}` is missing in:\n{text}");
    }
    assert!(lasting(folder.path()) == before, "nothing is changed by a refusal");
}
