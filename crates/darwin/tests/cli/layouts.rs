//! `--layout`, `--text-only`, `darwin ls families`.

use super::{darwin, siblings};
use darwin_checkpoint::{Checkpoint, TensorSource, read_tensor};

#[test]
fn layouts_are_chosen_on_the_command_line_and_hold_the_same_weights() {
    let folder = siblings();
    let mut children = Vec::new();
    for (flags, per_expert) in [
        (&["--layout", "fused"][..], false),
        (&["--layout", "per-expert"], true),
        (&["--layout", "per-expert", "--text-only"], true),
        (&[], false),
    ] {
        let out = format!("child{}", children.len());
        let arguments: Vec<&str> =
            ["-q", "merge", "merge.yaml", &out].iter().chain(flags).copied().collect();
        let (code, _, stderr) = darwin(folder.path(), &arguments);
        assert_eq!(code, 0, "{stderr}");
        let child = Checkpoint::open(folder.path().join(&out)).expect("opens");
        assert_eq!(child.layout().is_per_expert(), per_expert, "{flags:?}");
        children.push(child);
    }
    let config = children[2].config();
    assert_eq!(config["architectures"][0], "Qwen3_5MoeForCausalLM");
    assert_eq!(config["model_type"], "qwen3_5_moe_text");
    let whole = |child: &Checkpoint| {
        child.layout().stored.iter().any(|s| s.name.starts_with("model.language_model."))
    };
    assert!(whole(&children[1]) && !whole(&children[2]));
    for info in children[0].manifest().tensors() {
        let values = |child: &Checkpoint| {
            let id = child.manifest().find(&info.name).expect("there");
            read_tensor(child, id).expect("reads")
        };
        let first = values(&children[0]);
        assert!(children[1..].iter().all(|child| values(child) == first), "{}", info.name);
    }
    let (code, _, stderr) =
        darwin(folder.path(), &["merge", "merge.yaml", "x", "--layout", "flat"]);
    assert_eq!(code, 2);
    assert!(stderr.contains("allowed are parent, fused, per-expert"), "{stderr}");
}

#[test]
fn families_are_listed_with_their_classes() {
    let folder = siblings();
    let (code, stdout, _) = darwin(folder.path(), &["ls", "families"]);
    assert_eq!(code, 0);
    for word in ["Qwen3_5MoeForConditionalGeneration", "MixtralForCausalLM", "gpt-oss", "Gemma"] {
        assert!(stdout.contains(word), "{word} is not in:\n{stdout}");
    }
    let (code, stdout, _) = darwin(folder.path(), &["ls", "families", "--json"]);
    assert_eq!(code, 0);
    for line in stdout.lines() {
        let family: serde_json::Value = serde_json::from_str(line).expect("a line of JSON");
        assert!(family["types"][0]["architecture"].is_string());
    }
}
