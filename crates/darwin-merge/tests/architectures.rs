//! Every family merges whole, in either expert layout, as text alone, stacked anew, tied, with
//! and without multi-token prediction, from 8-bit weights. Names and configs are those that
//! transformers writes (`tools/oracle/families.py`); numbers such as #669 are threads of
//! docs/user-threads.md.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "a test")]

#[path = "../../darwin-checkpoint/tests/common/mod.rs"]
mod files;

use darwin_checkpoint::{Checkpoint, Dtype, Manifest, TensorSource, read_tensor};
use darwin_core::{Cancel, NoProgress};
use darwin_merge::{Error, Merge, MergeOptions, Recipe, Sources, merge_to};
use files::{shapes, write, write_counting};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;

fn golden() -> BTreeMap<String, Value> {
    serde_json::from_str(include_str!("../../darwin-checkpoint/tests/golden/families.json"))
        .unwrap()
}

type Tensors = Vec<(String, Vec<usize>)>;

/// A pair under `dir`, each with its own list of tensors, that differ in every element.
fn write_pair(dir: &Path, config: &Value, father: &Tensors, mother: &Tensors) {
    write_counting(&dir.join("father"), config, father);
    let bytes = |shape: &[usize]| {
        let all = 0..shape.iter().product::<usize>();
        all.flat_map(|i| (0x3d80 + (i as u16 % 97)).to_le_bytes()).collect()
    };
    let mother: Vec<_> =
        mother.iter().map(|(n, shape)| (n.clone(), "BF16", shape.clone(), bytes(shape))).collect();
    write(&dir.join("mother"), config, &mother);
}

fn recipe(dir: &Path, text: &str) -> Recipe {
    let dir = dir.display().to_string();
    Recipe::parse(
        &text
            .replace("FATHER", &format!("{dir}/father"))
            .replace("MOTHER", &format!("{dir}/mother")),
    )
    .unwrap()
}

const AVERAGE: &str = "merge_method: linear\ndtype: float32\nmodels:\n\
    - {model: FATHER, parameters: {weight: 0.5}}\n- {model: MOTHER, parameters: {weight: 0.5}}\n";

fn plan(recipe: &Recipe) -> Result<Merge, Error> {
    Merge::new(recipe, &Sources::open(recipe)?)
}

fn written(recipe: &Recipe, out: &Path) -> Checkpoint {
    let cancel = Cancel::default();
    let options = MergeOptions {
        max_shard_bytes: 40_000,
        memory: 1 << 16,
        documents: Vec::new(),
        progress: &NoProgress,
        cancel: &cancel,
    };
    merge_to(&plan(recipe).unwrap(), out, &options).unwrap();
    Checkpoint::open(out).unwrap()
}

fn refusal(recipe: &Recipe) -> String {
    plan(recipe).err().map(|error| format!("{error:?}")).unwrap_or_default()
}

fn names(checkpoint: &Checkpoint) -> Tensors {
    let stored = checkpoint.layout().stored.iter();
    let mut names: Tensors = stored.map(|s| (s.name.clone(), s.shape.clone())).collect();
    names.sort();
    names
}

fn listed(manifest: &Manifest) -> BTreeMap<String, Vec<usize>> {
    manifest.tensors().iter().map(|t| (t.name.clone(), t.shape.clone())).collect()
}

fn values(source: &dyn TensorSource, name: &str) -> Vec<f32> {
    read_tensor(source, source.manifest().find(name).unwrap()).unwrap()
}

/// #669, #672, #612, #512, #622, #398, #445, PR #699: no family loses a tensor, whatever layouts
/// meet (tools/parity/dropped.py: mergekit drops experts of Qwen3.5-MoE in two of three cases).
#[test]
fn every_family_is_merged_whole_from_and_into_either_layout() {
    for (family, model) in golden() {
        let dir = tempfile::tempdir().unwrap();
        let saved = shapes(&model["saved"]);
        let fused = model.get("fused").map_or_else(|| saved.clone(), shapes);
        write_pair(dir.path(), &model["config"], &saved, &fused);
        let average = recipe(dir.path(), AVERAGE);
        let child = written(&average, &dir.path().join("child"));
        assert_eq!(names(&child), saved, "{family}: the father's names");
        let [father, mother] =
            ["father", "mother"].map(|parent| Checkpoint::open(dir.path().join(parent)).unwrap());
        assert_eq!(listed(child.manifest()), listed(father.manifest()), "{family}");
        for info in child.manifest().tensors() {
            let found = values(&child, &info.name);
            let parents = values(&father, &info.name).into_iter().zip(values(&mother, &info.name));
            for (found, (f, m)) in found.into_iter().zip(parents) {
                assert_eq!(found, 0.5 * f + 0.5 * m, "{family}: {}", info.name);
            }
        }
        for (layout, expected) in [("fused", &fused), ("per-expert", &saved), ("parent", &saved)] {
            let text = format!("{AVERAGE}darwin: {{layout: {layout}}}\n");
            let other = recipe(dir.path(), &text);
            if family == "gpt_oss" && layout == "per-expert" {
                assert!(refusal(&other).contains("experts of gpt-oss are always fused"));
                continue;
            }
            let other = written(&other, &dir.path().join(layout));
            assert_eq!(&names(&other), expected, "{family}, {layout}");
            for info in child.manifest().tensors() {
                let (a, b) = (values(&child, &info.name), values(&other, &info.name));
                assert_eq!(a, b, "{family}, {layout}: {}", info.name);
            }
        }
    }
}

#[test]
fn a_text_only_child_has_names_and_config_of_the_text_only_class() {
    let golden = golden();
    let pairs = [
        ("qwen3_5_moe", "qwen3_5_moe_text", "qwen3_5_moe_text"),
        ("qwen3_5", "qwen3_5_text", "qwen3_5_text"),
        ("gemma3", "gemma3_text", "gemma3_text"),
        ("mistral3", "mistral", "mistral"),
    ];
    for (whole, text, model_type) in pairs {
        let dir = tempfile::tempdir().unwrap();
        let saved = shapes(&golden[whole]["saved"]);
        write_pair(dir.path(), &golden[whole]["config"], &saved, &saved);
        std::fs::write(dir.path().join("father/preprocessor_config.json"), "{}").unwrap();
        std::fs::write(dir.path().join("father/generation_config.json"), "{}").unwrap();
        let text_only = recipe(dir.path(), &format!("{AVERAGE}darwin: {{text_only: true}}\n"));
        let merge = plan(&text_only).unwrap();
        let towers = merge.plan().left_out();
        assert!(towers.values().any(|why| why == "only the language model is written"));
        let child = written(&text_only, &dir.path().join("child"));
        let tied = golden[whole]["config"]["tie_word_embeddings"] == true;
        let mut expected = shapes(&golden[text]["saved"]);
        expected.retain(|(name, _)| !(tied && name == "lm_head.weight"));
        assert_eq!(names(&child), expected, "{whole}");
        let config = child.config();
        assert_eq!(config["architectures"], golden[text]["config"]["architectures"]);
        assert_eq!(
            (&config["model_type"], &config["dtype"]),
            (&json!(model_type), &json!("float32"))
        );
        assert_eq!(config["tie_word_embeddings"], tied);
        assert_eq!(config["hidden_size"], golden[text]["config"]["hidden_size"]);
        assert!(config.get("text_config").is_none() && config.get("vision_config").is_none());
        assert!(!dir.path().join("child/preprocessor_config.json").exists());
        assert!(dir.path().join("child/generation_config.json").exists());
    }
}

#[test]
fn text_only_of_an_unknown_class_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let config =
        json!({"model_type": "x", "text_config": {"model_type": "x_text", "num_hidden_layers": 1}});
    let tensors = vec![("model.language_model.layers.0.mlp.up_proj.weight".to_owned(), vec![2, 2])];
    write_pair(dir.path(), &config, &tensors, &tensors);
    let text = refusal(&recipe(dir.path(), &format!("{AVERAGE}darwin: {{text_only: true}}\n")));
    assert!(text.contains("no text-only class is known for `model_type: x_text`"), "{text}");
}

/// #390: a tied head is not written out.
#[test]
fn tied_heads_stay_tied() {
    let golden = golden();
    let (config, saved) = (&golden["gemma2"]["config"], shapes(&golden["gemma2"]["saved"]));
    let mut with_head = saved.clone();
    with_head.push(("lm_head.weight".to_owned(), vec![24, 8]));
    let dir = tempfile::tempdir().unwrap();
    write_pair(dir.path(), config, &with_head, &with_head);
    let average = recipe(dir.path(), AVERAGE);
    let left_out = plan(&average).unwrap().plan().left_out().clone();
    assert_eq!(left_out.len(), 2);
    assert!(left_out.values().all(|why| why == "the head is tied to the embedding"));
    assert_eq!(names(&written(&average, &dir.path().join("child"))), saved);
}

#[test]
fn a_head_beside_a_tied_one_is_not_lost() {
    let golden = golden();
    let saved = shapes(&golden["llama"]["saved"]);
    let mut tied = saved.clone();
    tied.retain(|(name, _)| name != "lm_head.weight");
    let dir = tempfile::tempdir().unwrap();
    let mut config = golden["llama"]["config"].clone();
    write_pair(dir.path(), &config, &saved, &tied);
    config["tie_word_embeddings"] = json!(true);
    std::fs::write(dir.path().join("mother/config.json"), config.to_string()).unwrap();
    // The father has a head: the mother's embedding stands in for hers.
    let child = written(&recipe(dir.path(), AVERAGE), &dir.path().join("child"));
    let father = Checkpoint::open(dir.path().join("father")).unwrap();
    let mother = Checkpoint::open(dir.path().join("mother")).unwrap();
    let head = values(&father, "lm_head.weight");
    let embedding = values(&mother, "embed_tokens.weight");
    let expected: Vec<f32> = head.iter().zip(&embedding).map(|(f, m)| 0.5 * f + 0.5 * m).collect();
    assert_eq!(values(&child, "lm_head.weight"), expected);
    // The other way round it would be lost.
    let turned = AVERAGE.replace("FATHER", "X").replace("MOTHER", "FATHER").replace('X', "MOTHER");
    let text = refusal(&recipe(dir.path(), &turned));
    assert!(text.contains("has a head of its own (`lm_head.weight`)"), "{text}");
}

#[test]
fn multi_token_prediction_is_there_exactly_when_the_config_says_so() {
    let golden = golden();
    let saved = shapes(&golden["qwen3_5_moe"]["saved"]);
    let mut with_mtp = saved.clone();
    for name in ["mtp.fc.weight", "mtp.layers.0.mlp.gate.weight"] {
        with_mtp.push((name.to_owned(), vec![2, 8]));
    }
    let counted = |count: Value| {
        let mut config = golden["qwen3_5_moe"]["config"].clone();
        config["text_config"]["mtp_num_hidden_layers"] = count;
        config
    };
    // (config, tensors, layers in the child's config, MTP tensors in the child)
    let cases = [
        (counted(json!(1)), &with_mtp, json!(1), 2),
        (counted(json!(0)), &with_mtp, json!(0), 0),
        (counted(json!(1)), &saved, json!(0), 0),
        (golden["qwen3_5_moe"]["config"].clone(), &with_mtp, json!(1), 2),
        (golden["qwen3_5_moe"]["config"].clone(), &saved, Value::Null, 0),
    ];
    for (config, tensors, layers, expected) in cases {
        let dir = tempfile::tempdir().unwrap();
        write_pair(dir.path(), &config, tensors, tensors);
        let child = written(&recipe(dir.path(), AVERAGE), &dir.path().join("child"));
        assert_eq!(child.config()["text_config"]["mtp_num_hidden_layers"], layers);
        let found = names(&child).iter().filter(|(name, _)| name.starts_with("mtp.")).count();
        assert_eq!(found, expected);
    }
}

/// DeepSeek and GLM number their layers of multi-token prediction behind the decoder's.
#[test]
fn layers_behind_the_decoder_are_multi_token_prediction() {
    let golden = golden();
    let mut config = golden["deepseek_v3"]["config"].clone();
    let mut tensors = shapes(&golden["deepseek_v3"]["saved"]);
    tensors.push(("model.layers.4.eh_proj.weight".to_owned(), vec![8, 16]));
    tensors.push(("model.layers.4.shared_head.norm.weight".to_owned(), vec![8]));
    let dir = tempfile::tempdir().unwrap();
    config["num_nextn_predict_layers"] = json!(0);
    write_pair(dir.path(), &config, &tensors, &tensors);
    let text = refusal(&recipe(dir.path(), AVERAGE));
    assert!(text.contains("config.json says 4 layers, the files have 5"), "{text}");
    config["num_nextn_predict_layers"] = json!(1);
    write_pair(dir.path(), &config, &tensors, &tensors);
    let child = written(&recipe(dir.path(), AVERAGE), &dir.path().join("child"));
    assert_eq!(child.manifest().num_layers(), 4);
    assert_eq!(names(&child).len(), tensors.len());
    // Stacked anew, they would stand in the middle of the decoder.
    let stacked =
        "merge_method: passthrough\nslices: [{sources: [{model: FATHER, layer_range: [0, 3]}]}]\n";
    let child = written(&recipe(dir.path(), stacked), &dir.path().join("stacked"));
    assert_eq!(child.config()["num_nextn_predict_layers"], 0);
    assert!(names(&child).iter().all(|(name, _)| !name.contains("layers.4.")));
}

fn stacked(family: &str, change: impl Fn(&mut Value), ranges: &str) -> Result<Value, String> {
    let golden = golden();
    let mut config = golden[family]["config"].clone();
    change(&mut config);
    let tensors = shapes(&golden[family]["saved"]);
    let dir = tempfile::tempdir().unwrap();
    write_pair(dir.path(), &config, &tensors, &tensors);
    let slices: Vec<String> = ranges
        .split(' ')
        .map(|range| format!("{{sources: [{{model: FATHER, layer_range: [{range}]}}]}}"))
        .collect();
    let text = format!("merge_method: passthrough\nslices: [{}]\n", slices.join(", "));
    let recipe = recipe(dir.path(), &text);
    match refusal(&recipe) {
        text if text.is_empty() => {
            let child = written(&recipe, &dir.path().join("child"));
            let layers = child.manifest().num_layers();
            let text = child.text_config().clone();
            assert_eq!(text["num_hidden_layers"], layers);
            Ok(text)
        }
        text => Err(text),
    }
}

/// #544, #537: `slices` work, and the config follows the layers.
#[test]
fn stacking_rewrites_what_the_config_says_of_layers() {
    let same = |_: &mut Value| {};
    let types = |text: Value| text["layer_types"].to_string().replace("_attention", "");
    let text = stacked("qwen3_5_moe", same, "0,4 3,4 1,4").unwrap();
    let expected = r#"["linear","linear","linear","full","full","linear","linear","full"]"#;
    assert_eq!(types(text), expected);
    // The period that a config implies no longer holds: the list says it.
    let no_list = |c: &mut Value| {
        c.as_object_mut().unwrap().shift_remove("layer_types");
    };
    assert_eq!(
        types(stacked("gemma2", no_list, "0,1 0,2").unwrap()),
        r#"["sliding","sliding","full"]"#
    );
    assert_eq!(types(stacked("gpt_oss", same, "1,3").unwrap()), r#"["full","sliding"]"#);
    assert_eq!(stacked("llama", same, "0,2 1,4").unwrap().get("layer_types"), None);
    // Dense layers come first, or cannot be said.
    let text = stacked("deepseek_v3", same, "0,2 0,1").unwrap_err();
    assert!(
        text.contains("output layer 2 is dense and stands behind layers with experts"),
        "{text}"
    );
    assert_eq!(stacked("deepseek_v3", same, "0,1 0,3").unwrap()["first_k_dense_replace"], 2);
    let text = stacked("glm4_moe_lite", same, "0,2 0,1").unwrap();
    assert_eq!(text["mlp_layer_types"], json!(["dense", "sparse", "dense"]));
    assert_eq!(stacked("qwen3_moe", same, "1,3").unwrap()["mlp_only_layers"], json!([]));
}

#[test]
fn layers_of_different_kinds_are_not_merged() {
    let golden = golden();
    let dir = tempfile::tempdir().unwrap();
    let text = "merge_method: linear\nparameters: {weight: 1}\nslices: [{sources: \
        [{model: FATHER, layer_range: [0, 1]}, {model: MOTHER, layer_range: [1, 2]}]}]\n";
    for (family, kinds) in
        [("deepseek_v2", "is full_attention, layer 1"), ("gemma2", "is sliding_attention, layer 1")]
    {
        let saved = shapes(&golden[family]["saved"]);
        write_pair(dir.path(), &golden[family]["config"], &saved, &saved);
        let text = refusal(&recipe(dir.path(), text));
        assert!(text.contains(kinds) && text.contains("merge layers of one kind"), "{text}");
    }
}

/// #612, #512: an FP8 parent is read as the bfloat16 that it stands for (mergekit casts it without
/// its scales).
#[test]
fn an_8_bit_parent_merges_as_its_dequantised_self() {
    let golden = golden();
    let mut config = golden["deepseek_v3"]["config"].clone();
    let saved = shapes(&golden["deepseek_v3"]["saved"]);
    let dir = tempfile::tempdir().unwrap();
    write_pair(dir.path(), &config, &saved, &saved);
    config["quantization_config"] = json!({"quant_method": "fp8", "weight_block_size": [4, 4]});
    let mut father = Vec::new();
    for (name, shape) in &saved {
        let quantised = name.contains("_proj") && shape.len() == 2;
        let elements = shape.iter().product::<usize>();
        if quantised {
            // 0x38 is 1, 0x40 is 2; each block of a matrix has a scale of its own.
            let bytes = (0..elements).map(|i| if i % 2 == 0 { 0x38 } else { 0x40 }).collect();
            father.push((name.clone(), "F8_E4M3", shape.clone(), bytes));
            let grid = vec![shape[0].div_ceil(4), shape[1].div_ceil(4)];
            let scales = (0..grid[0] * grid[1]).flat_map(|i| (0.5 + i as f32).to_le_bytes());
            father.push((format!("{name}_scale_inv"), "F32", grid.clone(), scales.collect()));
        } else {
            father.push((name.clone(), "BF16", shape.clone(), vec![0x3f; 2 * elements]));
        }
    }
    write(&dir.path().join("father"), &config, &father);
    let bf16 = recipe(dir.path(), &AVERAGE.replace("dtype: float32\n", ""));
    let merge = plan(&bf16).unwrap();
    assert!(merge.plan().notes().iter().any(|note| note.contains("quantised weights")));
    let child = written(&bf16, &dir.path().join("child"));
    assert_eq!(names(&child), saved);
    assert!(child.config().get("quantization_config").is_none());
    assert!(child.manifest().tensors().iter().all(|t| t.dtype == Dtype::Bf16));
    let name = "layers.1.self_attn.o_proj.weight";
    let mother = Checkpoint::open(dir.path().join("mother")).unwrap();
    let cols = child.manifest().get(child.manifest().find(name).unwrap()).cols();
    let other = values(&mother, name);
    for (i, found) in values(&child, name).into_iter().enumerate() {
        let block = (i / cols / 4) * cols.div_ceil(4) + i % cols / 4;
        let own = (1.0 + (i % 2) as f32) * (0.5 + block as f32);
        let mut expected = [0.5 * own + 0.5 * other[i]];
        Dtype::Bf16.round(&mut expected);
        assert_eq!([found], expected, "element {i}");
    }
}

/// A model that no family knows is merged tensor by tensor (#696 and the like: nothing is needed
/// but names and shapes).
#[test]
fn an_unknown_architecture_is_blended_tensor_by_tensor() {
    let dir = tempfile::tempdir().unwrap();
    let tensors: Tensors = [
        ("transformer.wte.weight", vec![6, 4]),
        ("transformer.h.0.attn.c_attn.weight", vec![4, 12]),
        ("transformer.h.0.ln_1.bias", vec![4]),
    ]
    .map(|(name, shape)| (name.to_owned(), shape))
    .into();
    write_pair(dir.path(), &json!({"model_type": "gpt2"}), &tensors, &tensors);
    let text = "merge_method: slerp\nmodels: [{model: FATHER}, {model: MOTHER}]\nbase_model: FATHER\n\
        darwin: {t: 0.25}\n";
    let merge = plan(&recipe(dir.path(), text)).unwrap();
    let manifest = merge.plan().manifest();
    assert!(manifest.tensors.iter().all(|line| line.sources.len() == 2), "nothing is copied");
    assert_eq!(manifest.tensors[2].method, "linear", "vectors are blended linearly");
}
