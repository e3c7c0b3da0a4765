//! Problems are found before any weight is read (threads of docs/user-threads.md by number).

use super::{darwin, refuses};
use darwin_testkit::{qwen35_35b, write_sparse};
use std::time::Instant;

/// #527, #611, PR #688: all of a recipe's problems at once, without the models.
#[test]
fn typos_are_found_without_models() {
    let folder = tempfile::tempdir().expect("tempdir");
    let text =
        "merge_method: dare_tie\nmodels:\n  - model: not/there\n    parameters: {wieght: 1}\n";
    std::fs::write(folder.path().join("merge.yaml"), text).expect("write");
    let (code, _, stderr) = darwin(folder.path(), &["validate", "merge.yaml"]);
    assert_eq!(code, 2);
    for word in ["merge.yaml:1:15", "`dare_ties`", "merge.yaml:4:18", "`weight`"] {
        assert!(stderr.contains(word), "`{word}` is not in:\n{stderr}");
    }
    refuses(folder.path(), 2, &["`dare_ties`"]);
}

/// #626, #582, #379, #395, #593: what is missing is named at once, not at 91 %, also of 35 B.
#[test]
fn tensors_that_are_missing_are_named_before_a_weight_is_read() {
    let folder = tempfile::tempdir().expect("tempdir");
    let (config, mut tensors) = qwen35_35b(40);
    write_sparse(&folder.path().join("father"), &config, &tensors);
    let missing = ["layers.7.self_attn.q_norm.weight", "layers.39.mlp.experts.down_proj"];
    tensors.retain(|(name, ..)| !missing.iter().any(|end| name.ends_with(end)));
    write_sparse(&folder.path().join("mother"), &config, &tensors);
    let text = "merge_method: linear\nparameters: {weight: 0.5}\nmodels: [{model: father}, {model: mother}]\n";
    std::fs::write(folder.path().join("merge.yaml"), text).expect("write");
    let start = Instant::now();
    refuses(folder.path(), 2, &["`mother` has no tensor", missing[0], missing[1], "download"]);
    assert!(start.elapsed().as_secs() < 10, "a weight was read");
}
