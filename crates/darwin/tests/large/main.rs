//! Models that are larger than what a merge may use (threads of mergekit.md 6 by number): the
//! address space of the whole process is limited, and the merge still ends.

#![allow(clippy::disallowed_methods, reason = "a test may write plainly")]

use darwin_checkpoint::{Checkpoint, Dtype};
use darwin_testkit::{qwen35_35b, write_sparse};
use std::path::Path;
use std::process::{Command, Output};
use std::time::Instant;

/// `darwin ARGUMENTS` in a folder with at most so many KiB of address space.
fn limited(folder: &Path, kib: u64, arguments: &str) -> Output {
    let command = format!("ulimit -v {kib}; exec {} {arguments}", env!("CARGO_BIN_EXE_darwin"));
    Command::new("sh")
        .args(["-c", &command])
        .env("MALLOC_ARENA_MAX", "1")
        .current_dir(folder)
        .output()
        .expect("runs")
}

fn succeeds(folder: &Path, kib: u64, arguments: &str) -> String {
    let output = limited(folder, kib, arguments);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{arguments}: {}", text(&output.stderr));
    text(&output.stdout)
}

const PAIR: &str =
    "base_model: father\nmodels:\n  - model: mother\n    parameters: {weight: 0.4, density: 0.6}\n";

#[test]
fn a_35b_is_planned_within_a_second_in_100_mb() {
    let folder = tempfile::tempdir().expect("tempdir");
    let (config, tensors) = qwen35_35b(40);
    for parent in ["father", "mother"] {
        write_sparse(&folder.path().join(parent), &config, &tensors);
    }
    let recipe = format!("merge_method: dare_ties\n{PAIR}");
    std::fs::write(folder.path().join("recipe.yml"), recipe).expect("write");
    let start = Instant::now();
    let plan = succeeds(folder.path(), 100_000, "merge recipe.yml --dry-run");
    // 0.1 s in a release build.
    assert!(start.elapsed().as_secs_f64() < 2.0, "took {:?}", start.elapsed());
    assert!(plan.contains("693 tensors; reads 129.1 GiB, writes 64.6 GiB"), "{plan}");
}

/// #549, #107, #420 (stacked deltas of DELLA), #341: memory does not grow with the model.
#[test]
fn a_merge_needs_less_memory_than_one_of_its_tensors() {
    let folder = tempfile::tempdir().expect("tempdir");
    let name = "model.layers.0.mlp.experts.gate_up_proj".to_owned();
    let config = serde_json::json!({"model_type": "qwen3_moe"});
    for parent in ["father", "mother"] {
        // 192 MiB in the file, 384 MiB as float32.
        let tensors = [(name.clone(), Dtype::Bf16, vec![48, 2048, 1024])];
        write_sparse(&folder.path().join(parent), &config, &tensors);
    }
    for method in ["linear", "ties", "dare_ties", "della"] {
        let recipe = format!("merge_method: {method}\n{PAIR}");
        let recipe = match method {
            "linear" => recipe.replace(
                "- model: mother",
                "- {model: father, parameters: {weight: 0.6}}\n  - model: mother",
            ),
            _ => recipe,
        };
        std::fs::write(folder.path().join("recipe.yml"), recipe).expect("write");
        succeeds(folder.path(), 160_000, "-q merge recipe.yml out --memory 8MiB -j 2");
        let child = Checkpoint::open(folder.path().join("out")).expect("opens");
        assert_eq!(child.tensor_bytes(), 192 << 20, "{method}");
        std::fs::remove_dir_all(folder.path().join("out")).expect("remove");
    }
}

/// The limit of the tests above is one: more than it cannot be had.
#[test]
fn the_limit_holds() {
    let folder = tempfile::tempdir().expect("tempdir");
    assert!(!limited(folder.path(), 5_000, "--version").status.success());
}
