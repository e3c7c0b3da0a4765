//! GGUF files can be inspected, run and scored; what needs a checkpoint folder says so.

use super::darwin;
use std::path::Path;

/// A folder with a tiny Llama model, `tiny.gguf`, and one in `models/`.
fn folder() -> tempfile::TempDir {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../darwin-testkit/fixtures/golden/gguf/tiny.gguf");
    let folder = tempfile::tempdir().expect("tempdir");
    std::fs::create_dir(folder.path().join("models")).expect("create");
    for name in ["tiny.gguf", "models/any.gguf"] {
        std::fs::copy(&fixture, folder.path().join(name)).expect("copy");
    }
    folder
}

#[test]
fn a_file_is_inspected_and_run() {
    let folder = folder();
    for model in ["tiny.gguf", "models"] {
        let (code, out, stderr) = darwin(folder.path(), &["inspect", model, "--tensors"]);
        assert_eq!(code, 0, "{stderr}");
        for word in ["LlamaForCausalLM (llama)", "layers        2", "blk.1.ffn_down.weight", "Q4_0"]
        {
            assert!(out.contains(word), "`{word}` is not in:\n{out}");
        }
        let arguments = ["-q", "generate", model, "The dog", "--max-new-tokens", "3"];
        let (code, out, stderr) = darwin(folder.path(), &arguments);
        assert_eq!((code, out.is_empty()), (0, false), "{stderr}");
    }
    let item = "{\"prompt\": \"The dog\", \"answer\": \" sleeps\"}\n";
    std::fs::write(folder.path().join("items.jsonl"), item).expect("write");
    let arguments = ["-q", "score", "tiny.gguf", "items.jsonl", "--json"];
    let (code, out, stderr) = darwin(folder.path(), &arguments);
    assert_eq!(code, 0, "{stderr}");
    assert!(out.contains("\"nll\""), "{out}");
}

#[test]
fn what_needs_a_folder_says_so() {
    let folder = folder();
    let recipe = "merge_method: linear\nmodels:\n  - model: ./tiny.gguf\n    parameters: {weight: 1}\n  - model: ./models\n    parameters: {weight: 1}\n";
    std::fs::write(folder.path().join("merge.yaml"), recipe).expect("write");
    let (code, _, stderr) = darwin(folder.path(), &["-q", "merge", "merge.yaml", "child"]);
    assert_eq!(code, 2, "{stderr}");
    for file in ["tiny.gguf: is a GGUF file", "models/any.gguf: is a GGUF file"] {
        assert!(stderr.contains(file), "`{file}` is not in:\n{stderr}");
    }
    assert!(stderr.contains("the checkpoint that the file was made from"), "{stderr}");
    std::fs::write(folder.path().join("cut.gguf"), b"GGUF\x03\0\0\0").expect("write");
    let (code, _, stderr) = darwin(folder.path(), &["inspect", "cut.gguf"]);
    assert_eq!(code, 2, "{stderr}");
    assert!(stderr.starts_with("error: cut.gguf: the number of tensors needs 8 bytes"), "{stderr}");
    let (code, _, stderr) = darwin(folder.path(), &["inspect", "gone.gguf"]);
    assert_eq!((code, stderr.contains("gone.gguf")), (2, true), "{stderr}");
}
