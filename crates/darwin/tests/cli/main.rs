//! What the user sees when the input is wrong: one sentence that names file, tensor or key, what
//! was found and what to do, exit code 2, and nothing under the final name.

#![allow(clippy::disallowed_methods, reason = "a test may write plainly")]

mod adapters;
mod finite;
mod gguf;
mod layouts;
mod memory;
mod mergekit;
mod preflight;
mod regmean;
mod stream;
mod text;

use darwin_checkpoint::{Dtype, MemorySource};
use darwin_testkit::{ExpertLayout, Tiny, edited, sibling, tiny_qwen35, write_model};
use std::path::Path;
use std::process::Command;

/// Exit code, stdout and stderr of `darwin ARGUMENTS` in a folder, paths of the folder removed.
fn darwin(folder: &Path, arguments: &[&str]) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_darwin"))
        .args(arguments)
        .current_dir(folder)
        .output()
        .expect("runs");
    let text = |bytes: &[u8]| {
        String::from_utf8_lossy(bytes).replace(&format!("{}/", folder.display()), "")
    };
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}

const RECIPE: &str = "merge_method: linear\nmodels:\n  - model: father\n    parameters: { weight: 0.5 }\n  - model: mother\n    parameters: { weight: 0.5 }\n";

/// A folder with two tiny parents and a recipe.
fn parents(mother: &MemorySource) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("tempdir");
    write_model(&folder.path().join("father"), &tiny_qwen35(1), ExpertLayout::Fused, 60_000);
    write_model(&folder.path().join("mother"), mother, ExpertLayout::PerExpert, 60_000);
    std::fs::write(folder.path().join("merge.yaml"), RECIPE).expect("write");
    folder
}

fn siblings() -> tempfile::TempDir {
    parents(&sibling(&tiny_qwen35(1), "mother", 2, 0.1))
}

/// `darwin merge` must fail with this code, say these words, and leave nothing behind.
fn refuses(folder: &Path, code: i32, words: &[&str]) {
    let (found, _, stderr) = darwin(folder, &["-q", "merge", "merge.yaml", "child"]);
    assert_eq!(found, code, "{stderr}");
    for word in words {
        assert!(stderr.contains(word), "`{word}` is not in:\n{stderr}");
    }
    assert!(stderr.starts_with("error: ") && !stderr.contains("panicked"), "{stderr}");
    let left: Vec<_> = std::fs::read_dir(folder)
        .expect("list")
        .flatten()
        .map(|e| e.file_name().into_string().expect("UTF-8"))
        .filter(|name| name.starts_with("child"))
        .collect();
    assert!(left.is_empty(), "left behind: {left:?}");
}

#[test]
fn the_numerics_are_chosen_and_recorded() {
    let folder = siblings();
    let recorded = |out: &str| {
        let text = std::fs::read_to_string(folder.path().join(out).join("manifest.json"));
        let manifest: serde_json::Value = serde_json::from_str(&text.expect("read")).expect("JSON");
        manifest["numerics"].clone()
    };
    for (out, arguments, numerics) in [
        ("one", &["-q", "merge", "merge.yaml", "one"][..], "native"),
        ("two", &["-q", "merge", "merge.yaml", "two", "--numerics", "mergekit"], "mergekit"),
    ] {
        let (code, _, stderr) = darwin(folder.path(), arguments);
        assert_eq!((code, stderr.as_str()), (0, ""));
        assert_eq!(recorded(out), numerics);
    }
    let again = folder.path().join("two/mergekit_config.yml");
    let text = std::fs::read_to_string(again).expect("read");
    assert!(text.contains("darwin:\n  numerics: mergekit\n"), "{text}");
    let typo = ["-q", "merge", "merge.yaml", "three", "--numerics", "mergekti"];
    let (code, _, stderr) = darwin(folder.path(), &typo);
    assert!(code == 2 && stderr.contains("allowed are native and mergekit"), "{stderr}");
    let text = format!("{RECIPE}darwin: {{ numerics: mergekti }}\n");
    std::fs::write(folder.path().join("merge.yaml"), text).expect("write");
    refuses(folder.path(), 2, &["merge.yaml:7", "`numerics`", "did you mean `mergekit`?"]);
    let masks = ["-q", "merge", "merge.yaml", "four", "--masks", "merge.yaml"];
    std::fs::write(folder.path().join("merge.yaml"), RECIPE).expect("write");
    let (code, _, stderr) = darwin(folder.path(), &masks);
    assert!(code == 2 && stderr.contains("merge.yaml: is not a safetensors file"), "{stderr}");
}

#[test]
fn a_good_merge_says_what_it_wrote() {
    let folder = siblings();
    let (code, stdout, stderr) = darwin(folder.path(), &["-q", "merge", "merge.yaml", "child"]);
    assert_eq!((code, stderr.as_str()), (0, ""));
    assert!(stdout.starts_with("child: ") && stdout.contains("manifest.json"), "{stdout}");
    let (code, stdout, _) = darwin(folder.path(), &["inspect", "child"]);
    assert_eq!(code, 0);
    assert!(stdout.contains("Qwen3_5Moe") && stdout.contains("router"), "{stdout}");
    let (code, _, stderr) = darwin(folder.path(), &["merge", "merge.yaml", "child"]);
    assert_eq!(code, 2, "an existing folder is not overwritten");
    assert!(stderr.contains("child"), "{stderr}");
}

#[test]
fn dry_run_reads_headers_alone_and_writes_nothing() {
    let folder = siblings();
    let (code, stdout, _) = darwin(folder.path(), &["merge", "merge.yaml", "--dry-run"]);
    assert_eq!(code, 0);
    assert!(
        stdout.contains("layers.0.mlp.gate.weight") && stdout.contains("(default)"),
        "{stdout}"
    );
    assert!(!folder.path().join("child").exists());
}

#[test]
fn unknown_keys_come_all_at_once_with_the_nearest_known_one() {
    let folder = siblings();
    let text = RECIPE
        .replace("weight: 0.5 }\n  - model: mother", "wieght: 0.5 }\n  - model: mother")
        + "base_modle: father\n";
    std::fs::write(folder.path().join("merge.yaml"), text).expect("write");
    refuses(
        folder.path(),
        2,
        &["merge.yaml:4", "`wieght`", "`weight`", "merge.yaml:7", "`base_modle`", "`base_model`"],
    );
}

#[test]
fn missing_and_truncated_shards() {
    let folder = siblings();
    let shard = folder.path().join("mother/model-00002-of-00003.safetensors");
    let shard = if shard.exists() {
        shard
    } else {
        let mut shards: Vec<_> = std::fs::read_dir(folder.path().join("mother"))
            .expect("list")
            .flatten()
            .map(|e| e.path())
            .filter(|p| p.extension().is_some_and(|e| e == "safetensors"))
            .collect();
        shards.sort();
        shards.remove(1)
    };
    let bytes = std::fs::read(&shard).expect("read");
    std::fs::write(&shard, &bytes[..bytes.len() - 10]).expect("write");
    refuses(folder.path(), 2, &["mother/model-00002", "tensor `", "truncated", "hint: "]);
    std::fs::remove_file(&shard).expect("remove");
    refuses(folder.path(), 2, &["mother/model-00002", "shard is missing", "hint: "]);
}

#[test]
fn another_shape_between_the_parents() {
    let other = Tiny { experts: 5, ..Tiny::default() }.build("mother", 2);
    let folder = parents(&other);
    refuses(folder.path(), 2, &["mlp.gate", "[6, 32]", "[5, 32]"]);
}

#[test]
fn another_tokenizer() {
    let folder = siblings();
    let path = folder.path().join("mother/tokenizer.json");
    let text = std::fs::read_to_string(&path).expect("read");
    std::fs::write(&path, text + " ").expect("write");
    refuses(folder.path(), 2, &["tokenizer", "mother"]);
}

#[test]
fn a_nan_in_the_weights() {
    let father = tiny_qwen35(1);
    let mother = edited(&father, "mother", |info, values| {
        if info.name == "layers.2.mlp.experts.down_proj" {
            values[7] = f32::NAN;
        }
    });
    let folder = parents(&sibling(&father, "mother", 2, 0.1));
    std::fs::remove_dir_all(folder.path().join("mother")).expect("remove");
    plant_nan(folder.path(), &mother);
    refuses(folder.path(), 2, &["layers.2.mlp.experts", "NaN", "mother/"]);
}

/// The writer refuses NaN, so it is planted in the finished file.
fn plant_nan(folder: &Path, model: &MemorySource) {
    let clean = edited(model, "mother", |_, values| {
        values.iter_mut().filter(|v| v.is_nan()).for_each(|v| *v = 12_345.0);
    });
    write_model(&folder.join("mother"), &clean, ExpertLayout::PerExpert, u64::MAX);
    let path = folder.join("mother/model.safetensors");
    let mut bytes = std::fs::read(&path).expect("read");
    let at = bytes
        .windows(4)
        .position(|w| w == 12_345.0_f32.to_le_bytes())
        .expect("the marker is in the file");
    bytes[at..at + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    std::fs::write(path, bytes).expect("write");
}

#[test]
fn an_unknown_tensor() {
    let folder = siblings();
    let father = tiny_qwen35(1);
    let mut tensors: Vec<_> = Vec::new();
    for (id, info) in darwin_checkpoint::TensorSource::manifest(&father)
        .ids()
        .zip(darwin_checkpoint::TensorSource::manifest(&father).tensors())
    {
        tensors.push((
            info.name.clone(),
            info.dtype,
            info.shape.clone(),
            father.values(id).to_vec(),
        ));
    }
    tensors.push(("layers.0.mystery.weight".to_owned(), Dtype::F32, vec![2], vec![0.0, 1.0]));
    let config = darwin_checkpoint::TensorSource::config(&father).clone();
    let odd = MemorySource::new("mother", config, tensors).expect("valid");
    std::fs::remove_dir_all(folder.path().join("mother")).expect("remove");
    write_model(&folder.path().join("mother"), &odd, ExpertLayout::Fused, u64::MAX);
    refuses(folder.path(), 2, &["unknown tensor", "layers.0.mystery.weight", "mother/"]);
}

#[test]
fn a_full_disk_is_the_environments_fault() {
    // A size limit of the process stands in for a full disk: the write fails for the same reason.
    let folder = siblings();
    let script = format!(
        "ulimit -f 8; trap '' XFSZ; exec '{}' -q merge merge.yaml child",
        env!("CARGO_BIN_EXE_darwin")
    );
    let output = Command::new("bash")
        .args(["-c", &script])
        .current_dir(folder.path())
        .output()
        .expect("bash");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{stderr}");
    assert!(stderr.contains("cannot write") && stderr.contains("child"), "{stderr}");
    assert!(!folder.path().join("child").exists());
    assert!(!folder.path().join("child.darwin-partial").exists());
}

#[test]
fn configurations_of_runs_are_checked_too() {
    let folder = siblings();
    let text = "title: t\nfather: father\nmothr: mother\n";
    std::fs::write(folder.path().join("run.yaml"), text).expect("write");
    let (code, _, stderr) = darwin(folder.path(), &["evolve", "run.yaml"]);
    assert_eq!(code, 2);
    for word in ["run.yaml", "mothr", "`mother`", "line 3"] {
        assert!(stderr.contains(word), "`{word}` is not in:\n{stderr}");
    }
    let (code, _, stderr) = darwin(folder.path(), &["evolve", "gone.yaml"]);
    assert_eq!(code, 2);
    assert!(stderr.contains("gone.yaml"), "{stderr}");
}

#[test]
fn help_reads_well() {
    let folder = tempfile::tempdir().expect("tempdir");
    let (code, stdout, _) = darwin(folder.path(), &["--help"]);
    assert_eq!(code, 0);
    for command in COMMANDS {
        assert!(stdout.contains(command), "{stdout}");
    }
}

const COMMANDS: [&str; 12] = [
    "inspect",
    "merge",
    "extract-lora",
    "validate",
    "generate",
    "score",
    "profile",
    "compare",
    "evolve",
    "check",
    "report",
    "ls",
];

#[test]
fn every_method_is_listed() {
    let folder = tempfile::tempdir().expect("tempdir");
    let (code, text, _) = darwin(folder.path(), &["ls", "methods"]);
    assert_eq!(code, 0);
    let della = "della\n  task vectors thinned out by chance, large elements of a row likelier to stay, the majority's sign elected\n  base        needed\n  parameters  weight* (required), density* 1.0, epsilon* 0.15, normalize true, rescale true, lambda 1.0, int8_mask false\n  numerics    native\n  source      arXiv 2406.11617; mergekit 0.1.5, generalized_task_arithmetic.py\n";
    assert!(text.contains(della), "{text}");
    let (code, json, _) = darwin(folder.path(), &["ls", "methods", "--json"]);
    assert_eq!(code, 0);
    assert_eq!(json.lines().count(), darwin_merge::METHODS.len());
    for (line, method) in json.lines().zip(darwin_merge::METHODS) {
        let line: serde_json::Value = serde_json::from_str(line).expect("JSON");
        assert_eq!(line["name"], method.name);
        assert!(text.contains(method.name) && text.contains(method.source));
    }
}

/// Every line of a help text that begins with two blanks and is a command is run, in order, in a
/// folder that has the repository's `examples/`; a whole evolution alone takes too long.
#[test]
fn the_examples_of_the_help_run() {
    let folder = tempfile::tempdir().expect("tempdir");
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("two above");
    std::os::unix::fs::symlink(root.join("examples"), folder.path().join("examples"))
        .expect("link");
    std::fs::create_dir_all(folder.path().join("runs/first-light")).expect("create");
    let binary = Path::new(env!("CARGO_BIN_EXE_darwin")).parent().expect("a folder");
    let path = format!("{}:{}", binary.display(), std::env::var("PATH").expect("PATH"));
    for command in COMMANDS {
        let (_, help, _) = darwin(folder.path(), &[command, "--help"]);
        let lines = help.split_once("\nExample").expect("an example").1.lines();
        let script: Vec<&str> = lines.filter_map(|line| line.strip_prefix("  ")).collect();
        assert!(script.iter().any(|l| l.contains(&format!("darwin {command}"))), "{help}");
        let script = script.join("\n").replace("\\\n", "");
        for example in script.lines().filter(|l| *l != "darwin evolve examples/first-light.yaml") {
            let output = Command::new("sh")
                .args(["-c", example])
                .current_dir(folder.path())
                .env("PATH", &path)
                .output()
                .expect("runs");
            let code = output.status.code();
            let text = String::from_utf8_lossy(&output.stderr);
            // A merge by an example recipe may well be ill.
            let ill = command == "check" && code == Some(1);
            assert!(code == Some(0) || ill, "{example}: exit {code:?}: {text}");
        }
    }
}
