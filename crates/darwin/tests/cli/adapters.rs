//! `BASE+ADAPTER` in `darwin merge`, and `darwin extract-lora`, end to end.

use super::{darwin, siblings};

const BOTH: &str = "merge_method: linear\nmodels:\n  - model: father+adapter\n    parameters: { weight: 1 }\n  - model: father\n    parameters: { weight: 1 }\n";

#[test]
fn an_adapter_is_extracted_and_merged() {
    let folder = siblings();
    let arguments = [
        "-q",
        "extract-lora",
        "mother",
        "father",
        "adapter",
        "--max-rank",
        "64",
        "--save-module",
        ".",
    ];
    let (code, stdout, stderr) = darwin(folder.path(), &arguments);
    assert_eq!(code, 0, "{stderr}");
    assert!(stdout.contains("relative error 0.00e0 of all differences"), "{stdout}");
    std::fs::remove_dir_all(folder.path().join("adapter")).expect("removes");

    let arguments = ["-q", "extract-lora", "mother", "father", "adapter", "--rank", "8"];
    let (code, stdout, stderr) = darwin(folder.path(), &arguments);
    assert_eq!(code, 0, "{stderr}");
    for words in ["tensor ", "rank", "error", "share", "experts.gate_up_proj", "whole"] {
        assert!(stdout.contains(words), "`{words}` is not in:\n{stdout}");
    }
    assert!(stderr.contains("no low-rank form for the difference of"), "{stderr}");
    for file in ["adapter_model.safetensors", "adapter_config.json", "README.md"] {
        assert!(folder.path().join("adapter").join(file).is_file());
    }
    let (code, _, stderr) = darwin(folder.path(), &arguments);
    assert_eq!(code, 2, "{stderr}");
    assert!(stderr.contains("adapter"), "{stderr}");

    std::fs::write(folder.path().join("both.yaml"), BOTH).expect("write");
    let (code, _, stderr) = darwin(folder.path(), &["-q", "merge", "both.yaml", "child"]);
    assert_eq!(code, 0, "{stderr}");
    let manifest = std::fs::read_to_string(folder.path().join("child/manifest.json"));
    let manifest: serde_json::Value =
        serde_json::from_str(&manifest.expect("reads")).expect("JSON");
    assert_ne!(manifest["inputs"]["father+adapter"], manifest["inputs"]["father"]);
    assert!(manifest["inputs"]["father+adapter"]["fingerprint"].is_string());

    let (code, _, stderr) = darwin(folder.path(), &["validate", "both.yaml", "--models"]);
    assert_eq!(code, 0, "{stderr}");
}

#[test]
fn wrong_adapters_leave_nothing() {
    let folder = siblings();
    std::fs::write(folder.path().join("both.yaml"), BOTH).expect("write");
    let (code, _, stderr) = darwin(folder.path(), &["-q", "merge", "both.yaml", "child"]);
    assert_eq!(code, 2, "{stderr}");
    assert!(stderr.contains("adapter: no such folder"), "{stderr}");
    let (code, _, stderr) = darwin(folder.path(), &["extract-lora", "father", "father", "out"]);
    assert_eq!(code, 2, "{stderr}");
    assert!(stderr.contains("is left to make an adapter of"), "{stderr}");
    let (code, _, stderr) = darwin(folder.path(), &["extract-lora", "mother", "nobody", "out"]);
    assert_eq!(code, 2, "{stderr}");
    assert!(stderr.contains("nobody: no such folder"), "{stderr}");
    assert!(!folder.path().join("child").exists() && !folder.path().join("out").exists());
}
