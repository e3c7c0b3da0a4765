//! Bad input gets a sentence that names file, tensor or key, what was found and what to do.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test")]

mod common;

use common::{layout, model, pair, write, write_pair};
use darwin_checkpoint::{Checkpoint, Dtype, MemorySource, TensorSource};
use darwin_core::{Cancel, Diagnose, Fault, NoProgress, Share};
use darwin_merge::{Error, Merge, MergeOptions, Recipe, Sources, merge_to};
use std::path::Path;
use std::sync::Arc;

fn sentence(error: &Error) -> String {
    assert_eq!(error.fault(), Fault::User, "{error}");
    match error.hint() {
        Some(hint) => format!("{error}\nhint: {hint}"),
        None => error.to_string(),
    }
}

fn blend(method: &str) -> Recipe {
    let t = Share::new(0.5).unwrap();
    Recipe::blend(method, "father", "mother").default_share(t).build().unwrap()
}

/// The mother with her tensors edited: (name, dtype, shape, values).
fn edited(edit: impl Fn(&mut Vec<(String, Dtype, Vec<usize>, Vec<f32>)>)) -> MemorySource {
    let (_, mother) = pair();
    let mut tensors: Vec<_> = mother
        .manifest()
        .ids()
        .zip(mother.manifest().tensors())
        .map(|(id, t)| (t.name.clone(), t.dtype, t.shape.clone(), mother.values(id).to_vec()))
        .collect();
    edit(&mut tensors);
    MemorySource::new("mother", common::config(true), tensors).unwrap()
}

fn refused(recipe: &Recipe, mother: MemorySource) -> String {
    let mut sources = Sources::new();
    sources.insert("father", Arc::new(pair().0));
    sources.insert("mother", Arc::new(mother));
    match Merge::new(recipe, &sources) {
        Ok(_) => "planned".to_owned(),
        Err(error) => sentence(&error),
    }
}

#[test]
fn tensors_that_do_not_fit_are_all_named() {
    let mother = edited(|tensors| {
        tensors.retain(|t| t.0 != "layers.0.linear_attn.A_log");
        for t in tensors.iter_mut().filter(|t| t.0.starts_with("layers.1.mlp.shared_expert")) {
            t.2 = vec![t.2[1], t.2[0]];
        }
    });
    insta::assert_snapshot!("shapes", refused(&blend("linear"), mother));
}

#[test]
fn depths_and_bases_must_fit() {
    let mother = edited(|tensors| {
        tensors.push(("layers.2.input_layernorm.weight".into(), Dtype::Bf16, vec![1], vec![0.0]));
    });
    insta::assert_snapshot!("depth", refused(&blend("linear"), mother));
    let text = "merge_method: linear\nbase_model: father\nmodels: [{model: father, parameters: {weight: 1}}, {model: mother, parameters: {weight: {filter: embed, value: -1}}}]";
    let refusal = refused(&Recipe::parse(text).unwrap(), pair().1);
    let first: Vec<&str> = refusal.lines().take(3).collect();
    insta::assert_snapshot!("weights", first.join("\n"));
    let text = "merge_method: slerp\nbase_model: father\nslices: [{sources: [{model: father, layer_range: [0, 1]}, {model: mother, layer_range: [1, 2]}]}]\nparameters: {t: 0.5}";
    insta::assert_snapshot!("kinds", refused(&Recipe::parse(text).unwrap(), pair().1));
    let text =
        "merge_method: passthrough\nslices: [{sources: [{model: mother, layer_range: [1, 5]}]}]";
    insta::assert_snapshot!("range", refused(&Recipe::parse(text).unwrap(), pair().1));
}

#[test]
fn a_tensor_that_only_the_mother_has_is_left_out_and_named() {
    let mut sources = Sources::new();
    sources.insert("father", Arc::new(model("father", 0, 0.0, false)));
    sources.insert("mother", Arc::new(model("mother", 1, 0.3, true)));
    let merge = Merge::new(&blend("linear"), &sources).unwrap();
    let left_out: Vec<String> =
        merge.plan().left_out().iter().map(|(t, why)| format!("{t}: {why}")).collect();
    insta::assert_snapshot!("left_out", left_out.join("\n"));
}

/// Writes the pair, lets `damage` at the mother's folder and opens both.
fn opened(damage: impl Fn(&Path)) -> String {
    let dir = tempfile::tempdir().unwrap();
    write_pair(dir.path(), true);
    damage(&dir.path().join("mother"));
    let folder = dir.path().display().to_string();
    let recipe = blend("linear")
        .with_parents(Some(&format!("{folder}/father")), Some(&format!("{folder}/mother")));
    let outcome = Sources::open(&recipe)
        .and_then(|sources| Merge::new(&recipe, &sources))
        .and_then(|merge| {
            let options = MergeOptions {
                max_shard_bytes: 1 << 30,
                memory: 1 << 20,
                documents: Vec::new(),
                progress: &NoProgress,
                cancel: &Cancel::default(),
            };
            merge_to(&merge, &dir.path().join("out"), &options)
        });
    let names: Vec<String> = std::fs::read_dir(dir.path())
        .unwrap()
        .map(|e| e.unwrap().file_name().display().to_string())
        .collect();
    match outcome {
        Ok(_) => "written".to_owned(),
        Err(error) => {
            assert!(!names.iter().any(|name| name == "out"), "nothing under the final name");
            let rest = names.iter().filter(|n| *n != "father" && *n != "mother").count();
            assert_eq!(rest, 0, "nothing half-written either: {names:?}");
            sentence(&error).replace(&folder, "DIR")
        }
    }
}

#[test]
fn damaged_models_are_named() {
    let rewrite = |folder: &Path, source: &MemorySource| {
        std::fs::remove_dir_all(folder).unwrap();
        write(source, &layout(source.manifest(), "model.", true), folder);
    };
    assert_eq!(opened(|_| {}), "written");
    let found = opened(|folder| {
        std::fs::remove_dir_all(folder).unwrap();
    });
    insta::assert_snapshot!("no_folder", found);
    let found = opened(|folder| {
        let stray = edited(|tensors| {
            tensors.push(("layers.0.extra.weight".into(), Dtype::Bf16, vec![1], vec![0.0]));
        });
        rewrite(folder, &stray);
        let file = folder.join("config.json");
        let text = std::fs::read_to_string(&file).unwrap();
        darwin_core::fs::write_atomic(&file, text.as_bytes()).unwrap();
    });
    insta::assert_snapshot!("unknown_tensor", found);
    let found = opened(|folder| {
        let path = folder.join("model.safetensors");
        let mut bytes = std::fs::read(&path).unwrap();
        let end = bytes.len();
        bytes[end - 2..].copy_from_slice(&[0xc0, 0x7f]);
        darwin_core::fs::write_atomic(&path, &bytes).unwrap();
    });
    insta::assert_snapshot!("nan", found);
    let found = opened(|folder| {
        let file = |folder: &Path, text: &str| {
            darwin_core::fs::write_atomic(&folder.join("tokenizer.json"), text.as_bytes()).unwrap();
        };
        file(folder, "{}");
        file(&folder.with_file_name("father"), "{\"a\": 1}");
    });
    insta::assert_snapshot!("tokenizers", found);
    let found = opened(|folder| {
        let path = folder.join("model.safetensors");
        let bytes = std::fs::read(&path).unwrap();
        let from = b"\"dtype\":\"BF16\",\"shape\":[64,96]";
        let to = b"\"dtype\":\"I16\", \"shape\":[64,96]";
        let text = replace(&bytes, from, to);
        darwin_core::fs::write_atomic(&path, &text).unwrap();
    });
    insta::assert_snapshot!("dtype", found);
}

fn replace(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let mut out = bytes.to_vec();
    for at in 0..out.len().min(1 << 16) - from.len() {
        if out[at..].starts_with(from) {
            out[at..at + to.len()].copy_from_slice(to);
        }
    }
    out
}

#[test]
fn recipes_of_the_fixtures() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../darwin-testkit/fixtures/recipes");
    for name in ["mergekit-gradient.yaml", "mergekit-slices.yaml"] {
        let recipe = Recipe::load(&folder.join(name)).unwrap();
        assert_eq!(Recipe::parse(&recipe.to_yaml()).unwrap(), recipe, "{name}");
    }
    let error = Recipe::load(&folder.join("typos.yaml")).unwrap_err();
    let text = sentence(&error).replace(&folder.display().to_string(), "DIR");
    insta::assert_snapshot!("typos", text);
    assert!(
        Recipe::load(&folder.join("missing.yaml")).unwrap_err().to_string().contains("missing")
    );
}

#[test]
fn the_published_recipes_are_canonical_and_run_at_any_depth() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples");
    for name in ["card-v5-override.yaml", "card-v5-composed.yaml", "card-v4.yaml"] {
        let recipe = Recipe::load(&folder.join(name)).unwrap();
        assert_eq!(Recipe::parse(&recipe.to_yaml()).unwrap(), recipe, "{name}");
        let recipe = recipe.with_parents(Some("father"), Some("mother"));
        let mut sources = Sources::new();
        sources.insert("father", Arc::new(pair().0));
        sources.insert("mother", Arc::new(pair().1));
        let merge = Merge::new(&recipe, &sources).unwrap();
        insta::assert_snapshot!(format!("{name}"), merge.plan().describe().join("\n"));
    }
}

#[test]
fn checkpoints_keep_their_depth_in_stacks() {
    let dir = tempfile::tempdir().unwrap();
    write_pair(dir.path(), true);
    let mut sources = Sources::new();
    for name in ["father", "mother"] {
        let checkpoint = Checkpoint::open(dir.path().join(name)).unwrap();
        sources.insert_checkpoint(name, Arc::new(checkpoint));
    }
    let text = "merge_method: passthrough\ndarwin: {structure: father}\nout_dtype: float32\nslices: [{sources: [{model: father, layer_range: [0, 2]}]}, {sources: [{model: mother, layer_range: [0, 1]}]}, {sources: [{model: father, layer_range: [1, 2]}]}]";
    let merge = Merge::new(&Recipe::parse(text).unwrap(), &sources).unwrap();
    let options = MergeOptions {
        max_shard_bytes: 1 << 30,
        memory: 1 << 20,
        documents: Vec::new(),
        progress: &NoProgress,
        cancel: &Cancel::default(),
    };
    let out = dir.path().join("out");
    merge_to(&merge, &out, &options).unwrap();
    let child = Checkpoint::open(&out).unwrap();
    child.check_known().unwrap();
    let text = child.text_config();
    assert_eq!((&text["num_hidden_layers"], &text["dtype"]), (&4.into(), &"float32".into()));
    let kinds = ["linear_attention", "full_attention", "linear_attention", "full_attention"];
    assert_eq!(text["layer_types"], serde_json::json!(kinds));
    assert_eq!(child.manifest().num_layers(), 4);
}
