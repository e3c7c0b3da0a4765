//! Models that are larger than what a merge may use (threads of docs/user-threads.md by number): the
//! address space of the whole process is limited, and the merge still ends.

#![allow(clippy::disallowed_methods, reason = "a test may write plainly")]

mod slow;

use darwin_checkpoint::{Checkpoint, Dtype};
use darwin_testkit::{ExpertLayout, Tiny, qwen35_35b, write_model, write_sparse, write_tiny_text};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

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

/// What a merge holds beside its `--memory`: the program, headers and the plan.
const MERGE_BESIDE: u64 = 20 << 20;

/// The most memory that a merge holds is its `--memory` and what the program takes anyway.
#[test]
fn a_merge_keeps_to_its_memory() {
    let folder = tempfile::tempdir().expect("tempdir");
    let name = "model.layers.0.mlp.experts.gate_up_proj".to_owned();
    let config = serde_json::json!({"model_type": "qwen3_moe"});
    for parent in ["father", "mother"] {
        let tensors = [(name.clone(), Dtype::Bf16, vec![32, 1024, 1024])];
        write_sparse(&folder.path().join(parent), &config, &tensors);
    }
    for method in ["ties", "dare_ties"] {
        let recipe = format!("merge_method: {method}\n{PAIR}");
        std::fs::write(folder.path().join("recipe.yml"), recipe).expect("write");
        for (memory, threads) in [(4, 1), (8, 2), (8, 4), (64, 2), (256, 4)] {
            let arguments = format!("-q merge recipe.yml out --memory {memory}MiB -j {threads}");
            let (done, peak) = watched(folder.path(), &arguments);
            assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
            let promised = (memory << 20) + MERGE_BESIDE;
            assert!(peak > 0 && peak <= promised, "{method}, {arguments}: {peak} of {promised}");
            std::fs::remove_dir_all(folder.path().join("out")).expect("remove");
        }
    }
}

/// `darwin ARGUMENTS`, and the most memory that it held, as far as a look every millisecond shows.
fn watched(folder: &Path, arguments: &str) -> (Output, u64) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_darwin"))
        .args(arguments.split(' '))
        .current_dir(folder)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("runs");
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    while child.try_wait().expect("waits").is_none() {
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
        peak = peak.max(kib.unwrap_or(0) << 10);
        std::thread::sleep(Duration::from_millis(1));
    }
    (child.wait_with_output().expect("ended"), peak)
}

/// Layers are read one after another into the same memory, so that a model runs in much less than
/// it weighs.
#[test]
fn a_profile_keeps_to_its_memory() {
    let folder = tempfile::tempdir().expect("tempdir");
    let sizes = Tiny {
        hidden: 512,
        experts: 512,
        full_attention: [false, false, false, true].repeat(3),
        dtype: Dtype::Bf16,
        ..Tiny::default()
    };
    let model = folder.path().join("model");
    write_model(&model, &sizes.build("large", 1), ExpertLayout::Fused, u64::MAX);
    write_tiny_text(&model).expect("write");
    let item = |i: usize| {
        format!(
            r#"{{"id":"i{i}","domain":"math","family":"sum","question":"What is {i} + 3?","target":"{}","formats":["direct"]}}"#,
            i + 3
        )
    };
    let items: Vec<String> = (0..40).map(item).collect();
    std::fs::write(folder.path().join("items.jsonl"), items.join("\n")).expect("write");
    let stored = Checkpoint::open(&model).expect("opens").tensor_bytes();
    let profile = "-q profile model --items items.jsonl --threads 2 --scratch .";
    let (refused, _) = watched(folder.path(), &format!("{profile} --memory 1MiB"));
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    let (_, least) = text.split_once("the least is ").expect("a least");
    let least: u64 = least.split(' ').next().and_then(|n| n.parse().ok()).expect("a number");
    // the process itself does not always weigh the same
    let memory = (least + 2) << 20;
    assert!(4 * memory < 3 * stored, "{least} MiB for {stored} bytes");
    for (memory, out) in [(memory, "tight"), (memory + stored / 6, "wider")] {
        let (done, peak) =
            watched(folder.path(), &format!("{profile} --memory {memory} --out {out}"));
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        assert!(peak > 0 && peak <= memory, "{peak} bytes of {memory}");
    }
    let read =
        |out: &str| std::fs::read(folder.path().join(out).join("profile.json")).expect("read");
    assert!(read("tight") == read("wider"));
}

/// The limit of the tests above is one: more than it cannot be had.
#[test]
fn the_limit_holds() {
    let folder = tempfile::tempdir().expect("tempdir");
    assert!(!limited(folder.path(), 5_000, "--version").status.success());
}
