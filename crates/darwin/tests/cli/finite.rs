//! Models that compute NaN or infinities: every command says where, and none calls it a result.

use super::darwin;
use darwin_checkpoint::MemorySource;
use darwin_testkit::{ExpertLayout, edited, sibling, tiny_qwen35, write_model};
use serde_json::Value;
use std::path::Path;

/// A tiny model in which the tensors of such names are so many times as large.
fn grown(names: &[&str], factor: f64) -> MemorySource {
    edited(&tiny_qwen35(1), "grown", |info, values| {
        if names.contains(&info.name.as_str()) {
            let grow = |v: f32| (f64::from(v) * factor).clamp(-3e38, 3e38) as f32;
            values.iter_mut().for_each(|v| *v = grow(*v));
        }
    })
}

/// Two sound parents, a model whose mixer of layer 1 overflows, one whose router of layer 2 does, one
/// whose logits do, and items.
fn setting() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("tempdir");
    let at = |name: &str| folder.path().join(name);
    let father = tiny_qwen35(1);
    for (name, model) in [
        ("father", father.clone()),
        ("mother", sibling(&father, "mother", 2, 0.1)),
        ("mixer", grown(&["layers.1.input_layernorm.weight"], 1e39)),
        ("router", grown(&["layers.2.mlp.gate.weight"], 1e39)),
        ("head", grown(&["lm_head.weight"], 1e39)),
    ] {
        write_model(&at(name), &model, ExpertLayout::Fused, 1 << 20);
    }
    let item = |i: usize| {
        let domain = ["math", "code", "language"][i % 3];
        format!(
            r#"{{"id":"i{i}","domain":"{domain}","family":"sum","question":"What is {i} + 3?","target":"{}","formats":["direct"]}}"#,
            i + 3
        )
    };
    let items: Vec<String> = (0..12).map(item).collect();
    std::fs::write(at("items.jsonl"), items.join("\n")).expect("write");
    let scored = |i: usize| format!(r#"{{"id":"s{i}","prompt_ids":[{i},7,9],"answer_ids":[5,6]}}"#);
    let scored: Vec<String> = (0..4).map(scored).collect();
    std::fs::write(at("score.jsonl"), scored.join("\n")).expect("write");
    folder
}

/// The models of [`setting`] that compute what is not finite, and what a sentence says of each.
const BROKEN: [(&str, &str); 3] = [
    ("mixer", "layer 1, mixer gives"),
    ("router", "layer 2, router gives"),
    ("head", "head gives"),
];

fn run(folder: &Path, arguments: &str) -> (i32, String, String) {
    darwin(folder, &arguments.split(' ').collect::<Vec<_>>())
}

/// One sentence with these words, exit code 2.
fn refuses(folder: &Path, arguments: &str, words: &[&str]) {
    let (code, _, stderr) = run(folder, arguments);
    assert_eq!(code, 2, "{arguments}: {stderr}");
    for word in words {
        assert!(stderr.contains(word), "`{word}` is not in:\n{stderr}");
    }
    assert!(stderr.starts_with("error: ") && !stderr.contains("panicked"), "{stderr}");
}

#[test]
fn commands_that_run_one_model_refuse_it() {
    let folder = setting();
    let profile = "--items items.jsonl -j 2";
    for (model, place) in BROKEN {
        refuses(
            folder.path(),
            &format!("-q score {model} score.jsonl"),
            &[model, "values that are not finite", place, "at position", "of item \"s", "line"],
        );
        refuses(folder.path(), &format!("-q generate {model} hello"), &[place, "at position"]);
        let place = if model == "head" { "head: the loss" } else { place };
        refuses(
            folder.path(),
            &format!("-q profile {model} {profile} --out kept"),
            &[model, place, "of sample"],
        );
        assert!(!folder.path().join("kept/profile.json").exists());
        for parents in [format!("{model} mother"), format!("mother {model}")] {
            refuses(folder.path(), &format!("-q compare {parents} {profile}"), &[model, place]);
        }
    }
}

#[test]
fn a_child_that_computes_nan_fails_its_check() {
    let folder = setting();
    let check = "--father father --mother mother --items items.jsonl";
    for (child, place) in BROKEN {
        let place = if child == "head" { "head" } else { place.trim_end_matches(" gives") };
        let (code, stdout, stderr) =
            run(folder.path(), &format!("-q check {child} {check} --out health.json"));
        assert_eq!((code, stderr.as_str()), (1, ""), "{child}: {stdout}");
        assert!(stdout.starts_with(&format!("{child}: FAIL\n")), "{stdout}");
        assert!(stdout.contains("FAIL  the child computes values that are not finite"), "{stdout}");
        assert!(stdout.contains(place) && !stdout.contains("KL from father"), "{stdout}");
        let text = std::fs::read_to_string(folder.path().join("health.json")).expect("read");
        let health: Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(health["verdict"], "fail");
        let finding = &health["findings"][0];
        let (layer, component) = match child {
            "mixer" => (Value::from(1), "mixer"),
            "router" => (Value::from(2), "router"),
            _ => (Value::Null, "head"),
        };
        assert_eq!((&finding["layer"], &finding["component"]), (&layer, &component.into()));
        assert_eq!(finding["check"], "not_finite");
        // what was not measured is null, not 0
        assert!(health["kl"][0]["value"].is_null() && health["same_top"][1]["value"].is_null());
    }
    let (code, stdout, _) = run(folder.path(), &format!("-q check father {check}"));
    assert!(code == 0 && stdout.contains("KL from father 0.000"), "{stdout}");
}

#[test]
fn a_parent_that_computes_nan_stops_the_check() {
    let folder = setting();
    for (role, other) in [("father", "mother"), ("mother", "father")] {
        for (model, place) in BROKEN {
            let place = if model == "head" { "head: the loss" } else { place };
            let check = format!("-q check father --{role} {model} --{other} {other}");
            let named = format!("the {role} {model} computes values that are not finite");
            let check = format!("{check} --items items.jsonl");
            refuses(folder.path(), &check, &[&named, place]);
        }
    }
}
