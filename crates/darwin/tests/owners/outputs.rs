//! Outputs of every kind: each is written, or refused before anything is read.

use super::{Stopped, assert_success, left};
use super::{assert_same, files, merge, reference, setting, stderr, whole};
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::process::Command;

#[test]
fn every_way_to_name_an_output_works() {
    let setting = setting();
    let folder = setting.path();
    let expected = reference(folder, "merge.yaml");
    for name in ["empty", "behind", "here"] {
        std::fs::create_dir(folder.join(name)).expect("create");
    }
    symlink("behind", folder.join("to-empty")).expect("link");
    symlink(folder.join("nowhere"), folder.join("dangling")).expect("link");
    for out in ["empty", "to-empty", "dangling", "new/", "deep/er/child", "./a/../there"] {
        if out.contains("..") {
            std::fs::create_dir(folder.join("a")).expect("create");
        }
        let output = merge(folder, "merge.yaml", out).output().expect("runs");
        assert_success(&output);
        assert_same(&folder.join(out), &expected);
    }
    // The working folder stays the same one.
    let here = folder.join("here");
    let inode = || std::fs::metadata(&here).expect("there").ino();
    let before = inode();
    assert_success(&merge(&here, "../merge.yaml", ".").output().expect("runs"));
    assert_eq!(inode(), before);
    assert_same(&here, &expected);
    assert_eq!(left(folder), [""; 0]);
}

#[test]
fn an_interrupted_merge_into_the_working_folder_goes_on() {
    let setting = setting();
    let folder = setting.path();
    let expected = reference(folder, "merge.yaml");
    let here = folder.join("here");
    std::fs::create_dir(&here).expect("create");
    let command = || merge(&here, "../merge.yaml", ".");
    let partial = here.join(".darwin-partial");
    let first = Stopped::with_shards(command(), &partial, 2);
    // By its name from elsewhere it is the same folder.
    let second = merge(folder, "merge.yaml", "here").output().expect("runs");
    assert_eq!(second.status.code(), Some(3), "{}", stderr(&second));
    first.killed();
    assert!(whole(&partial).len() >= 2);
    let output = command().output().expect("runs");
    assert_success(&output);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("from an interrupted merge"), "{text}");
    assert_same(&here, &expected);
}

#[test]
fn what_cannot_be_written_is_refused_before_anything_is_read() {
    let setting = setting();
    let folder = setting.path();
    std::fs::create_dir(folder.join("full")).expect("create");
    std::fs::write(folder.join("full/file"), "text").expect("write");
    symlink("full", folder.join("child.darwin-partial")).expect("link");
    symlink("b", folder.join("a")).expect("link");
    symlink("a", folder.join("b")).expect("link");
    // No such recipe: who reads before the output is open says so instead.
    for (out, code, word) in [
        ("full", 2, "not an empty folder"),
        ("merge.yaml", 2, "not an empty folder"),
        ("merge.yaml/child", 2, "merge.yaml"),
        ("child", 2, "child.darwin-partial is not a folder"),
        ("a", 2, "a"),
        ("/proc/child", 2, "/proc"),
    ] {
        let output = merge(folder, "no-such-recipe.yaml", out).output().expect("runs");
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(code), "{out}: {text}");
        assert!(text.contains("cannot create") && text.contains(word), "{out}: {text}");
        assert!(!text.contains("no-such-recipe"), "{out}: {text}");
        assert_eq!(text.matches("error: ").count(), 1, "{text}");
    }
    assert_eq!(files(&folder.join("full")).len(), 1);
    // A wrong recipe leaves nothing of the output behind.
    let output = merge(folder, "no-such-recipe.yaml", "deep/er/out").output().expect("runs");
    assert_eq!(output.status.code(), Some(2));
    assert!(!folder.join("deep").exists());
}

#[test]
fn a_file_that_cannot_be_written_is_refused_before_work() {
    let setting = setting();
    let folder = setting.path();
    std::fs::create_dir(folder.join("is-a-folder")).expect("create");
    for (out, word) in [("missing/health.json", "No such file"), ("is-a-folder", "it is a folder")]
    {
        let mut command = Command::new(env!("CARGO_BIN_EXE_darwin"));
        command.args(["check", "no-child", "--father", "father", "--mother", "mother"]);
        command.args(["--items", "no-items", "--out", out]).current_dir(folder);
        let output = command.output().expect("runs");
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{text}");
        assert!(text.contains(&format!("cannot write {out}: {word}")), "{text}");
    }
}

#[test]
fn a_mount_point_is_filled_in_place() {
    let setting = setting();
    let folder = setting.path();
    let expected = reference(folder, "merge.yaml");
    let mount = folder.join("mount");
    std::fs::create_dir(&mount).expect("create");
    let run = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).current_dir(folder).output();
        output.is_ok_and(|output| output.status.success())
    };
    if !run("mount", &["-t", "tmpfs", "-o", "size=100m", "tmpfs", "mount"]) {
        println!("skipped: no right to mount");
        return;
    }
    let output = merge(folder, "merge.yaml", "mount").output().expect("runs");
    let found = files_if_any(&mount);
    assert!(run("umount", &["mount"]), "the mount point is free again");
    assert_success(&output);
    assert!(found == expected);
}

fn files_if_any(folder: &Path) -> std::collections::BTreeMap<String, Vec<u8>> {
    if folder.join("config.json").exists() { files(folder) } else { Default::default() }
}
