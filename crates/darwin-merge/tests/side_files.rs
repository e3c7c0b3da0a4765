//! What a child takes over from the folders of its parents, and what a merge of strange folders and
//! numbers does.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test")]

mod common;

use common::write_pair;
use darwin_core::{Cancel, Diagnose, Fault, NoProgress};
use darwin_merge::{Error, Merge, MergeOptions, Recipe, Sources, merge_to};
use std::os::unix::fs::symlink;
use std::path::Path;

fn merged(folder: &Path, text: &str) -> Result<Vec<String>, Error> {
    std::fs::write(folder.join("merge.yaml"), text).unwrap();
    let recipe = Recipe::load(&folder.join("merge.yaml"))?;
    let sources = Sources::open(&recipe)?;
    let merge = Merge::new(&recipe, &sources)?;
    let options = MergeOptions {
        max_shard_bytes: 1 << 30,
        memory: 1 << 20,
        documents: Vec::new(),
        progress: &NoProgress,
        cancel: &Cancel::default(),
    };
    merge_to(&merge, &folder.join("out"), &options)?;
    Ok(merge.plan().notes().to_vec())
}

const BLEND: &str =
    "merge_method: linear\nmodels: [{model: father}, {model: mother}]\nparameters: {weight: 1}\n";

fn child(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder.join("out")).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_child_holds_nothing_that_lies_elsewhere() {
    let dir = tempfile::tempdir().unwrap();
    write_pair(dir.path(), false);
    let father = dir.path().join("father");
    let secret = dir.path().join("secret");
    std::fs::write(&secret, "{\"password\": \"SECRET\"}").unwrap();
    for name in
        ["notes.txt", "special_tokens_map.json", "chat_template.jinja", "modeling_x.py", "folder"]
    {
        symlink(&secret, father.join(name)).unwrap();
    }
    std::fs::write(father.join("merges.txt"), "a b").unwrap();
    symlink("merges.txt", father.join("vocab.json")).unwrap();
    for name in ["optimizer.pt", "training_args.bin", "train.py"] {
        std::fs::write(father.join(name), "SECRET").unwrap();
    }
    std::fs::create_dir(father.join("additional_chat_templates")).unwrap();
    let made = std::process::Command::new("mkfifo").arg(father.join("vocab.txt")).status();
    assert!(made.is_ok_and(|status| status.success()));
    let notes = merged(dir.path(), &format!("{BLEND}chat_template: auto\n")).unwrap();
    let names = child(dir.path());
    let known = ["SHA256SUMS", "config.json", "manifest.json", "mergekit_config.yml", "merges.txt"];
    let rest: Vec<&String> =
        names.iter().filter(|n| !known.contains(&n.as_str()) && !n.starts_with("model")).collect();
    assert_eq!(rest, ["vocab.json"]);
    for name in names {
        let bytes = std::fs::read(dir.path().join("out").join(&name)).unwrap();
        assert!(!bytes.windows(6).any(|six| six == b"SECRET"), "{name}");
    }
    let left_out: Vec<&String> = notes.iter().filter(|n| n.contains("left out")).collect();
    let out = "(a link out of the folder)";
    assert_eq!(
        left_out,
        [&format!(
            "files beside the weights that are left out: `additional_chat_templates/`, \
             `chat_template.jinja` {out}, `folder` {out}, `modeling_x.py` {out}, `notes.txt` {out}, \
             `optimizer.pt`, `special_tokens_map.json` {out}, \
             `train.py` (code that no `auto_map` names), `training_args.bin`, \
             `vocab.txt` (no regular file)"
        )]
    );
    assert!(notes.iter().any(|note| note.contains("no model has a chat template")));
}

#[test]
fn a_plain_folder_is_carried_whole_and_without_a_word() {
    let dir = tempfile::tempdir().unwrap();
    write_pair(dir.path(), false);
    let father = dir.path().join("father");
    let files = [
        "LICENSE",
        "chat_template.jinja",
        "generation_config.json",
        "preprocessor_config.json",
        "tokenizer_config.json",
        "vocab.json",
    ];
    for name in files.iter().chain(&["README.md", ".gitattributes"]) {
        std::fs::write(father.join(name), "{}").unwrap();
    }
    let notes = merged(dir.path(), BLEND).unwrap();
    let names = child(dir.path());
    for name in files {
        assert!(names.iter().any(|found| found == name), "{name}: {names:?}");
    }
    assert!(!notes.iter().any(|note| note.contains("left out")), "{notes:?}");
}

#[test]
fn code_that_the_config_names_goes_along_and_is_said() {
    let dir = tempfile::tempdir().unwrap();
    write_pair(dir.path(), false);
    let father = dir.path().join("father");
    let path = father.join("config.json");
    let mut config: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    config["auto_map"] = serde_json::json!({"AutoModelForCausalLM": "modeling_x.Model"});
    std::fs::write(&path, config.to_string()).unwrap();
    std::fs::write(father.join("modeling_x.py"), "from .parts import x\n").unwrap();
    std::fs::write(father.join("parts.py"), "").unwrap();
    let notes = merged(dir.path(), BLEND).unwrap();
    let names = child(dir.path());
    assert!(names.contains(&"modeling_x.py".to_owned()) && names.contains(&"parts.py".to_owned()));
    let code: Vec<&String> = notes.iter().filter(|note| note.contains("code that")).collect();
    assert!(code.len() == 1 && code[0].contains("`modeling_x.py`, `parts.py`"), "{notes:?}");
}

/// A folder with these tensors of U8, as `x/`.
fn strange(folder: &Path, tensors: &[(&str, &str, usize)]) {
    let mut at = 0;
    let entries: Vec<String> = tensors
        .iter()
        .map(|(name, shape, bytes)| {
            let start = at;
            at += bytes;
            format!(r#""{name}":{{"dtype":"U8","shape":{shape},"data_offsets":[{start},{at}]}}"#)
        })
        .collect();
    let header = format!("{{{}}}", entries.join(","));
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(header.as_bytes());
    file.resize(file.len() + at, 1);
    std::fs::create_dir(folder.join("x")).unwrap();
    std::fs::write(folder.join("x/model.safetensors"), file).unwrap();
    std::fs::write(folder.join("x/config.json"), "{\"model_type\": \"x\"}").unwrap();
}

const COPY: &str = "merge_method: passthrough\nmodels: [{model: x}]\n";

#[test]
fn numbers_in_names_and_shapes_cost_nothing() {
    for (name, shape, bytes, answer) in [
        ("model.layers.999999999999.mlp.up_proj.weight", "[1,1]", 1, "belongs to layer"),
        ("model.layers.18446744073709551615.mlp.up_proj.weight", "[1,1]", 1, "belongs to layer"),
        ("model.layers.0.mlp.experts.4294967296.up_proj.weight", "[1,1]", 1, "belongs to expert"),
        ("a", "[4398046511104,0]", 0, "no elements"),
        ("a", "[2147483648,0]", 0, "written"),
        ("a", "[0,2147483648]", 0, "written"),
        ("visual.blocks.18446744073709551615.weight", "[1,1]", 1, "written"),
        ("model.layers.65535.mlp.up_proj.weight", "[1,1]", 1, "written"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        strange(dir.path(), &[("b", "[2]", 2), (name, shape, bytes)]);
        let found = match merged(dir.path(), COPY) {
            Ok(_) => "written".to_owned(),
            Err(error) => {
                assert_eq!(error.fault(), Fault::User);
                error.to_string()
            }
        };
        assert!(found.contains(answer), "{name} {shape}: {found}");
    }
}

#[test]
fn stacked_layers_have_a_limit() {
    let dir = tempfile::tempdir().unwrap();
    strange(dir.path(), &[("model.layers.65535.mlp.up_proj.weight", "[1,1]", 1)]);
    let slice = |range: &str| format!("  - sources: [{{model: x, layer_range: {range}}}]\n");
    let stacked = |ranges: &[&str]| {
        let slices: String = ranges.iter().map(|range| slice(range)).collect();
        merged(dir.path(), &format!("merge_method: passthrough\nslices:\n{slices}"))
            .map_or_else(|error| error.to_string(), |_| "written".to_owned())
    };
    let all = "[0, 65536]";
    assert_eq!(stacked(&[all, all]), "the child has 131072 layers, allowed are 65536");
    let found = stacked(&["[0, 4294967294]"]);
    assert!(found.contains("the child has 4294967294 layers"), "{found}");
    assert!(stacked(&["[0, 99999999999999999999]"]).contains("`layer_range` is a list"));
    let many = vec![all; 2000];
    assert!(stacked(&many).contains("allowed are 65536"));
    assert_eq!(stacked(&["[65535, 65536]", "[65535, 65536]"]), "written");
}

#[test]
fn recipes_of_too_many_models_are_refused_at_once() {
    let start = std::time::Instant::now();
    let models: String = (0..60_000).map(|i| format!("  - model: m{i}\n")).collect();
    let text = format!("merge_method: linear\nparameters: {{weight: 1}}\nmodels:\n{models}");
    let error = Recipe::parse(&text).unwrap_err().to_string();
    assert!(error.contains("60000 models are named, allowed are 1000"), "{error}");
    let keys: String = (0..60_000).map(|i| format!("k{i}: 1\n")).collect();
    let error = Recipe::parse(&keys).unwrap_err().to_string();
    assert!(error.lines().count() < 110 && error.contains("there are more problems"));
    let long = format!("{}: 1\nmerge_method: {}\n", "k".repeat(1 << 20), "m".repeat(1 << 20));
    let error = Recipe::parse(&long).unwrap_err().to_string();
    assert!(error.len() < 10_000, "{}", error.len());
    assert!(start.elapsed().as_secs() < 20, "{:?}", start.elapsed());
}
