//! Two processes on one output, files that change under a merge, outputs of every kind, signals and
//! limits: the first ends with the bytes that it would have alone, the second says who is there,
//! and nothing whole is lost.

#![allow(clippy::disallowed_methods, reason = "tests write their inputs as they like")]

mod outputs;
mod streams;

use serde_json::Value;
use std::collections::BTreeMap;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

const RECIPE: &str = "merge_method: dare_ties\nbase_model: father\nmodels:\n  - model: mother\n    \
                      parameters: { weight: 0.5, density: 0.7 }\n";

/// A folder with copies of the example parents and two recipes.
fn setting() -> tempfile::TempDir {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/parents");
    let folder = tempfile::tempdir().expect("tempdir");
    for parent in ["father", "mother"] {
        std::fs::create_dir(folder.path().join(parent)).expect("create");
        for entry in std::fs::read_dir(examples.join(parent)).expect("list").flatten() {
            let to = folder.path().join(parent).join(entry.file_name());
            std::fs::copy(entry.path(), to).expect("copy");
        }
    }
    std::fs::write(folder.path().join("merge.yaml"), RECIPE).expect("write");
    std::fs::write(folder.path().join("other.yaml"), RECIPE.replace("0.5", "0.6")).expect("write");
    folder
}

fn merge(folder: &Path, recipe: &str, out: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_darwin"));
    command.current_dir(folder).args(["-q", "merge", recipe, out]);
    command.args(["--out-shard-size", "500000", "--threads", "1"]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    // The tests themselves may run under `nohup`.
    let heed_hangups = || {
        // SAFETY: the call changes how this process, still without other threads, takes a signal.
        match unsafe { libc::signal(libc::SIGHUP, libc::SIG_DFL) } {
            libc::SIG_ERR => Err(std::io::Error::last_os_error()),
            _ => Ok(()),
        }
    };
    // SAFETY: between fork and exec nothing but a system call is made.
    unsafe { command.pre_exec(heed_hangups) };
    command
}

/// The shards that a folder aside lists as whole.
fn whole(partial: &Path) -> BTreeMap<String, String> {
    let read = std::fs::read(partial.join(".darwin-shards.json")).ok();
    let record: Option<Value> = read.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    record.and_then(|r| serde_json::from_value(r["shards"].clone()).ok()).unwrap_or_default()
}

/// A process that stands still, until it is told to go on.
struct Stopped(Child);

impl Stopped {
    /// Starts a command and stops it when some shards are whole. It runs for a millisecond at a
    /// time and stands still while it is looked at, so that it cannot end meanwhile.
    fn with_shards(mut command: Command, partial: &Path, shards: usize) -> Self {
        let mut child = command.spawn().expect("runs");
        let begun = Instant::now();
        loop {
            signal(&child, libc::SIGSTOP);
            if whole(partial).len() >= shards {
                return Self(child);
            }
            signal(&child, libc::SIGCONT);
            assert!(child.try_wait().expect("waits").is_none(), "it ended before it was stopped");
            assert!(begun.elapsed() < Duration::from_secs(120), "no shard after two minutes");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn goes_on(self) -> Output {
        signal(&self.0, libc::SIGCONT);
        self.0.wait_with_output().expect("ends")
    }

    fn killed(mut self) {
        self.0.kill().expect("SIGKILL");
        self.0.wait().expect("ends");
    }
}

fn signal(child: &Child, signal: libc::c_int) {
    let id = libc::pid_t::try_from(child.id()).expect("a process");
    // SAFETY: the call takes numbers alone, and the child was not waited for: the number is its own.
    assert_eq!(unsafe { libc::kill(id, signal) }, 0, "signal {signal}");
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn assert_success(output: &Output) {
    assert!(output.status.success(), "{:?}: {}", output.status, stderr(output));
}

/// Every file of a folder, hidden ones too.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = std::fs::read_dir(folder).expect("list");
    let read = |path: PathBuf| std::fs::read(path).expect("read");
    let name = |e: &std::fs::DirEntry| e.file_name().into_string().expect("UTF-8");
    entries.map(|e| e.expect("entry")).map(|e| (name(&e), read(e.path()))).collect()
}

fn assert_same(folder: &Path, expected: &BTreeMap<String, Vec<u8>>) {
    let found = files(folder);
    assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    for (name, bytes) in expected {
        assert!(found[name] == *bytes, "{name} differs");
    }
}

/// Names in a folder that begin with `child` or are hidden.
fn left(folder: &Path) -> Vec<String> {
    let names = std::fs::read_dir(folder).expect("list").flatten();
    let mut names: Vec<String> = names
        .map(|entry| entry.file_name().into_string().expect("UTF-8"))
        .filter(|name| name.starts_with("child") || name.starts_with('.'))
        .collect();
    names.sort();
    names
}

fn reference(folder: &Path, recipe: &str) -> BTreeMap<String, Vec<u8>> {
    assert_success(&merge(folder, recipe, "alone").output().expect("runs"));
    let found = files(&folder.join("alone"));
    std::fs::remove_dir_all(folder.join("alone")).expect("remove");
    found
}

/// Changes one bit of a file in place.
fn flip(path: &Path, from_end: usize) {
    let mut bytes = std::fs::read(path).expect("read");
    let at = bytes.len() - from_end;
    bytes[at] ^= 1;
    std::fs::write(path, bytes).expect("write");
}

#[test]
fn the_second_merge_on_an_output_says_who_has_it() {
    let setting = setting();
    let folder = setting.path();
    let expected = reference(folder, "merge.yaml");
    let other = reference(folder, "other.yaml");
    assert!(expected != other);
    std::os::unix::fs::symlink("child", folder.join("link")).expect("link");
    let partial = folder.join("child.darwin-partial");

    let first = Stopped::with_shards(merge(folder, "merge.yaml", "child"), &partial, 2);
    let shards = whole(&partial);
    for (recipe, out) in [
        ("merge.yaml", "child"),
        ("other.yaml", "child/"),
        ("merge.yaml", "link"),
        ("other.yaml", "./link/"),
    ] {
        let second = merge(folder, recipe, out).output().expect("runs");
        let text = stderr(&second);
        assert_eq!(second.status.code(), Some(3), "{text}");
        assert!(text.contains(&format!("in use by process {} ", first.0.id())), "{text}");
        assert!(text.contains(" since 2") && text.contains("hint: wait"), "{text}");
        assert_eq!(text.matches("error: ").count(), 1, "{text}");
        assert_eq!(whole(&partial), shards);
    }
    assert_success(&first.goes_on());
    assert_same(&folder.join("child"), &expected);
    assert_eq!(left(folder), ["child"]);

    // A dead owner's lock holds nobody; the other recipe takes nothing over.
    for (recipe, expected) in [("merge.yaml", &expected), ("other.yaml", &other)] {
        std::fs::remove_dir_all(folder.join("child")).expect("remove");
        Stopped::with_shards(merge(folder, "merge.yaml", "child"), &partial, 2).killed();
        assert_eq!(left(folder), [".child.darwin-lock", "child.darwin-partial"]);
        assert_success(&merge(folder, recipe, "child").output().expect("runs"));
        assert_same(&folder.join("child"), expected);
        assert_eq!(left(folder), ["child"]);
    }
}

#[test]
fn merges_that_race_for_an_output_leave_one_whole_child() {
    let setting = setting();
    let folder = setting.path();
    let expected = [reference(folder, "merge.yaml"), reference(folder, "other.yaml")];
    for round in 0..4_u64 {
        let start = |recipe| merge(folder, recipe, "child").spawn().expect("runs");
        let first = start("merge.yaml");
        std::thread::sleep(Duration::from_millis(40 * round));
        let second = start(if round % 2 == 0 { "merge.yaml" } else { "other.yaml" });
        let outputs = [first, second].map(|child| child.wait_with_output().expect("ends"));
        let codes = outputs.each_ref().map(|output| output.status.code());
        // Busy, or there already.
        let lost = codes.iter().filter(|code| **code != Some(0)).count();
        assert_eq!(lost, 1, "{codes:?}");
        assert!(codes.iter().all(|code| matches!(code, Some(0 | 2 | 3))), "{codes:?}");
        let winner = usize::from(codes[0] != Some(0) && round % 2 == 1);
        assert_same(&folder.join("child"), &expected[winner]);
        assert_eq!(left(folder), ["child"]);
        std::fs::remove_dir_all(folder.join("child")).expect("remove");
    }
}

#[test]
fn a_shard_that_changed_after_it_was_written_stops_the_commit() {
    let setting = setting();
    let folder = setting.path();
    let expected = reference(folder, "merge.yaml");
    let partial = folder.join("child.darwin-partial");
    let run = |spoil: &dyn Fn(&Path)| {
        let first = Stopped::with_shards(merge(folder, "merge.yaml", "child"), &partial, 2);
        let shard = whole(&partial).into_keys().next().expect("two are there");
        spoil(&partial.join(&shard));
        (shard, first.goes_on())
    };
    let removed = |path: &Path| std::fs::remove_file(path).expect("remove");
    let changed = |path: &Path| flip(path, 3);
    for (spoil, what) in
        [(&changed as &dyn Fn(&Path), "changed after"), (&removed, "was removed after")]
    {
        let (shard, output) = run(spoil);
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(3), "{text}");
        assert!(text.contains(&shard) && text.contains(what), "{text}");
        assert!(text.contains("finished shards are kept"), "{text}");
        assert!(!folder.join("child").exists());
        assert!(!whole(&partial).contains_key(&shard) && whole(&partial).len() > 2);
        assert_success(&merge(folder, "merge.yaml", "child").output().expect("runs"));
        assert_same(&folder.join("child"), &expected);
        std::fs::remove_dir_all(folder.join("child")).expect("remove");
    }
    // A file that was touched alone is read again, and is the same.
    let (_, output) = run(&|path: &Path| {
        flip(path, 3);
        flip(path, 3);
    });
    assert_success(&output);
    assert_same(&folder.join("child"), &expected);
}

#[test]
fn a_shard_that_was_damaged_meanwhile_is_made_anew() {
    let setting = setting();
    let folder = setting.path();
    let expected = reference(folder, "merge.yaml");
    let partial = folder.join("child.darwin-partial");
    Stopped::with_shards(merge(folder, "merge.yaml", "child"), &partial, 2).killed();
    let shard = whole(&partial).into_keys().next().expect("two are there");
    flip(&partial.join(&shard), 3);
    let output = merge(folder, "merge.yaml", "child").output().expect("runs");
    assert_success(&output);
    let text = stderr(&output);
    assert!(text.contains(&format!("warning: {shard} of an interrupted merge")), "{text}");
    assert_same(&folder.join("child"), &expected);
    assert_eq!(left(folder), ["child"]);
}

#[test]
fn a_parent_that_changes_while_it_is_read_stops_the_merge() {
    let setting = setting();
    let folder = setting.path();
    let partial = folder.join("child.darwin-partial");
    let first = Stopped::with_shards(merge(folder, "merge.yaml", "child"), &partial, 2);
    let models = std::fs::read_dir(folder.join("mother")).expect("list").flatten();
    let shards =
        models.map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == "safetensors"));
    let shard = shards.max().expect("a shard");
    flip(&shard, 3);
    let output = first.goes_on();
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(3), "{text}");
    let name = shard.file_name().expect("a name").to_str().expect("UTF-8");
    assert!(text.contains(name) && text.contains("changed while it was read"), "{text}");
    // Some shards were made of the old parent: none may be taken over.
    assert_eq!(left(folder), [""; 0]);
    assert_success(&merge(folder, "merge.yaml", "child").output().expect("runs"));
    let now = files(&folder.join("child"));
    assert!(reference(folder, "merge.yaml") == now);
}

#[test]
fn signals_and_errors_keep_what_is_whole() {
    let setting = setting();
    let folder = setting.path();
    let expected = reference(folder, "merge.yaml");
    let partial = folder.join("child.darwin-partial");
    for name in [libc::SIGTERM, libc::SIGHUP, libc::SIGINT] {
        let more = whole(&partial).len() + 1;
        let first = Stopped::with_shards(merge(folder, "merge.yaml", "child"), &partial, more);
        signal(&first.0, name);
        let output = first.goes_on();
        assert_eq!(output.status.code(), Some(130), "signal {name}: {}", stderr(&output));
        assert_eq!(left(folder), ["child.darwin-partial"]);
        let shards = whole(&partial);
        let mut found: Vec<String> = files(&partial).into_keys().collect();
        found.retain(|name| name != ".darwin-shards.json");
        assert_eq!(found, shards.into_keys().collect::<Vec<_>>(), "half a shard is left");
    }
    assert_success(&merge(folder, "merge.yaml", "child").output().expect("runs"));
    assert_same(&folder.join("child"), &expected);
    std::fs::remove_dir_all(folder.join("child")).expect("remove");

    // Under `nohup` the end of the terminal is nobody's concern.
    let mut command = Command::new("sh");
    command.current_dir(folder).stdout(Stdio::piped()).stderr(Stdio::piped());
    let line = "trap '' HUP; exec \"$0\" -q merge merge.yaml child --out-shard-size 500000 -j 1";
    command.args(["-c", line, env!("CARGO_BIN_EXE_darwin")]);
    let first = Stopped::with_shards(command, &partial, 1);
    signal(&first.0, libc::SIGHUP);
    assert_success(&first.goes_on());
    assert_same(&folder.join("child"), &expected);
    std::fs::remove_dir_all(folder.join("child")).expect("remove");

    // An error of the file system: every file may have 64 KiB, and later 1 GiB.
    let limited = |blocks: u32| {
        let line = format!(
            "trap '' XFSZ; ulimit -f {blocks}; exec \"$0\" -q merge merge.yaml child \
             --out-shard-size 20000 -j 1"
        );
        let mut command = Command::new("sh");
        command.current_dir(folder).args(["-c", &line, env!("CARGO_BIN_EXE_darwin")]);
        command.output().expect("runs")
    };
    let output = limited(128);
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(3), "{text}");
    assert!(!folder.join("child").exists());
    let kept = whole(&partial).len();
    assert_eq!(kept > 0, text.contains("the same command goes on"), "{text}");
    assert_eq!(kept > 0, partial.exists());
    assert_success(&limited(1 << 21));
    assert_eq!(left(folder), ["child"]);
}
