//! Adapters in recipes and adapters out of fine-tunes, on the models of tools/parity/lora.py.
//!
//! mergekit's users ask for merges of adapters on one base: #75, #86, #470 (docs/user-threads.md).

#![allow(clippy::unwrap_used)]
#![allow(clippy::disallowed_methods, reason = "a test may write plainly")]

use darwin_checkpoint::{Adapted, Checkpoint, Dtype, TensorSource, read_tensor};
use darwin_core::{Cancel, NoProgress};
use darwin_merge::{
    ExtractOptions, Extraction, Merge, MergeOptions, Recipe, Sources, extract_lora, merge_to,
};
use std::path::{Path, PathBuf};
use std::sync::Arc;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../darwin-testkit/fixtures/golden/lora").join(name)
}

fn open(folder: &Path) -> Checkpoint {
    Checkpoint::open(folder).unwrap()
}

fn values(source: &dyn TensorSource, name: &str) -> Vec<f32> {
    read_tensor(source, source.manifest().find(name).unwrap()).unwrap()
}

fn reference(base: &str, adapter: &str) -> String {
    format!("{}+{}", golden(base).display(), golden(adapter).display())
}

fn merge(text: &str) -> Merge {
    let recipe = Recipe::parse(text).unwrap();
    Merge::new(&recipe, &Sources::open(&recipe).unwrap()).unwrap()
}

fn write(merge: &Merge, out: &Path) {
    let options = MergeOptions {
        max_shard_bytes: 1 << 40,
        memory: 1 << 26,
        documents: Vec::new(),
        progress: &NoProgress,
        cancel: &Cancel::default(),
    };
    merge_to(merge, out, &options).unwrap();
}

/// #86, #470: adapters of one base are merged as the task vectors that they are.
#[test]
fn two_adapters_are_two_task_vectors() {
    let (plain, other) = (reference("base/fused", "plain"), reference("base/fused", "patterns"));
    let base = golden("base/fused").display().to_string();
    let merged = merge(&format!(
        "merge_method: task_arithmetic\nbase_model: {base}\nmodels:\n\
         - {{model: {plain}, parameters: {{weight: 0.5}}}}\n\
         - {{model: {other}, parameters: {{weight: 0.25}}}}\n"
    ));
    let base = Arc::new(open(&golden("base/fused")));
    let one = Adapted::open(Arc::clone(&base), golden("plain")).unwrap();
    let two = Adapted::open(Arc::clone(&base), golden("patterns")).unwrap();
    let name = "layers.1.self_attn.q_proj.weight";
    let (w, a, b) = (values(base.as_ref(), name), values(&one, name), values(&two, name));
    assert!(w != a && w != b && a != b);
    for (i, got) in values(&merged, name).into_iter().enumerate() {
        let expected = w[i] + 0.5 * (a[i] - w[i]) + 0.25 * (b[i] - w[i]);
        assert!((got - expected).abs() <= 1e-6, "{got} instead of {expected}");
    }
    let kept = "layers.1.self_attn.k_proj.weight";
    assert_eq!(values(&merged, kept), values(base.as_ref(), kept));
}

/// #75: a base with its adapter is a model of a merge like any other, the base itself among them.
#[test]
fn an_adapter_and_its_base_are_two_models() {
    let (model, base) = (reference("base/fused", "experts"), golden("base/fused"));
    let merged = merge(&format!(
        "merge_method: linear\nmodels:\n- {{model: {model}, parameters: {{weight: 0.5}}}}\n\
         - {{model: {}, parameters: {{weight: 0.5}}}}\n",
        base.display()
    ));
    let base = Arc::new(open(&base));
    let adapted = Adapted::open(Arc::clone(&base), golden("experts")).unwrap();
    for name in ["layers.0.mlp.experts.gate_up_proj", "layers.1.mlp.experts.down_proj"] {
        let (w, a) = (values(base.as_ref(), name), values(&adapted, name));
        assert_ne!(w, a);
        for (got, (w, a)) in values(&merged, name).iter().zip(w.iter().zip(&a)) {
            assert!((got - 0.5 * (w + a)).abs() <= 1e-6);
        }
    }
}

/// Slices of a model with and without its adapter, and the inputs that the manifest names.
#[test]
fn slices_and_manifest_tell_adapters_from_bases() {
    let (model, base) = (reference("base/fused", "plain"), golden("base/fused"));
    let merged = merge(&format!(
        "merge_method: passthrough\nslices:\n- sources: [{{model: {model}, layer_range: [0, 1]}}]\n\
         - sources: [{{model: {}, layer_range: [1, 2]}}]\n",
        base.display()
    ));
    let plain = open(&base);
    let [first, second] = [0, 1].map(|layer| format!("layers.{layer}.self_attn.q_proj.weight"));
    assert_ne!(values(&merged, &first), values(&plain, &first));
    assert_eq!(values(&merged, &second), values(&plain, &second));
    let inputs = merged.plan().manifest().inputs;
    assert_eq!(inputs.len(), 2);
    assert_ne!(inputs[&model], inputs[&base.display().to_string()]);
}

/// Written whole, an adapter on its base is what PEFT merges; the folder loads as a checkpoint.
#[test]
fn a_passthrough_writes_the_adapter_into_the_base() {
    let folder = tempfile::tempdir().unwrap();
    let (model, base) = (reference("base/modules", "experts"), open(&golden("base/modules")));
    write(
        &merge(&format!("merge_method: passthrough\nmodels: [{{model: {model}}}]\n")),
        &folder.path().join("x"),
    );
    let written = open(&folder.path().join("x"));
    assert!(written.layout().is_per_expert());
    assert_eq!(written.config(), base.config());
    let adapted = Adapted::open(Arc::new(base), golden("experts")).unwrap();
    for info in adapted.manifest().tensors() {
        assert_eq!(values(&written, &info.name), values(&adapted, &info.name));
    }
}

/// The problems of all adapters come at once.
#[test]
fn all_adapters_are_checked() {
    let (wrong, missing) = (reference("base/fused", "square"), reference("base/fused", "nothing"));
    let recipe = Recipe::parse(&format!(
        "merge_method: linear\nmodels:\n- {{model: {wrong}, parameters: {{weight: 1}}}}\n\
         - {{model: {missing}, parameters: {{weight: 1}}}}\n"
    ))
    .unwrap();
    let error = Sources::open(&recipe).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("trained on another model"), "{error}");
    assert!(error.contains("nothing: no such folder"), "{error}");
}

fn extract(finetuned: &Path, base: &Path, out: &Path, rank: usize) -> Extraction {
    let options = options(rank);
    extract_lora(&open(finetuned), &open(base), out, &options).unwrap()
}

fn options(rank: usize) -> ExtractOptions<'static> {
    ExtractOptions {
        max_rank: rank,
        epsilon: 0.0,
        include: Vec::new(),
        exclude: Vec::new(),
        save_modules: Vec::new(),
        embed_lora: false,
        progress: &NoProgress,
        cancel: Box::leak(Box::default()),
    }
}

/// Base and extracted adapter give the fine-tune within the error that is reported.
#[test]
fn a_round_trip_keeps_what_it_says() {
    for (base, adapter) in [("base/fused", "experts"), ("base/modules", "experts")] {
        let folder = tempfile::tempdir().unwrap();
        let [tuned, out] = ["tuned", "adapter"].map(|name| folder.path().join(name));
        let text = reference(base, adapter);
        write(&merge(&format!("merge_method: passthrough\nmodels: [{{model: {text}}}]\n")), &tuned);
        let (tuned, base) = (open(&tuned), Arc::new(open(&golden(base))));
        for rank in [1, 2, 8] {
            let _ = std::fs::remove_dir_all(&out);
            let found = extract_lora(&tuned, &base, &out, &options(rank)).unwrap();
            assert!(found.lost.is_empty() && found.left_out == 0);
            let adapted = Adapted::open(Arc::clone(&base), &out).unwrap();
            let mut rest = 0.0;
            for info in base.manifest().tensors() {
                let pairs =
                    values(&adapted, &info.name).into_iter().zip(values(&tuned, &info.name));
                rest += pairs.map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>();
            }
            let error = (rest / found.squared_norm()).sqrt();
            assert!((error - found.error()).abs() < 1e-6, "{rank}: {error} {}", found.error());
            assert!(rank < 8 || found.error() < 1e-6);
            assert!(rank > 1 || found.error() > 0.05);
        }
    }
}

/// A planted difference of rank 4 is found at rank 4, in bf16 as in f32: values are exact in both.
#[test]
fn a_planted_rank_is_found_exactly() {
    for dtype in [Dtype::F32, Dtype::Bf16] {
        let folder = tempfile::tempdir().unwrap();
        let name = "layers.0.self_attn.q_proj.weight";
        let config = serde_json::json!({"model_type": "llama"});
        let (rows, cols) = (40, 24);
        let model = |planted: f32| {
            let value = |at: usize| {
                let (i, j) = (at / cols, at % cols);
                let base = ((i * 7 + j * 3) % 9) as f32 - 4.0;
                let hit = i % 10 == j % 6 && i % 10 < 4;
                base + if hit { planted * (1 + i % 10) as f32 } else { 0.0 }
            };
            let norm = ("norm.weight".to_owned(), dtype, vec![cols], vec![planted; cols]);
            let tensors = vec![
                (name.to_owned(), dtype, vec![rows, cols], (0..rows * cols).map(value).collect()),
                norm,
            ];
            darwin_checkpoint::MemorySource::new("m", config.clone(), tensors).unwrap()
        };
        let save = |source: &dyn TensorSource, out: &Path| {
            let stored = source.manifest().ids().zip(source.manifest().tensors());
            let stored = stored.map(|(id, info)| darwin_checkpoint::Stored {
                name: format!("model.{}", info.name),
                id,
                rows: 0..info.rows(),
                shape: info.shape.clone(),
            });
            let options = darwin_checkpoint::WriteOptions {
                max_shard_bytes: 1 << 40,
                memory: 1 << 26,
                side_files: Vec::new(),
                documents: vec![("config.json".to_owned(), config.to_string().into_bytes())],
                identity: None,
                progress: &NoProgress,
                cancel: &Cancel::default(),
            };
            let layout = darwin_checkpoint::Layout { stored: stored.collect() };
            darwin_checkpoint::write_checkpoint(source, &layout, out, &options).unwrap();
        };
        let [base, tuned, out] = ["base", "tuned", "out"].map(|name| folder.path().join(name));
        save(&model(0.0), &base);
        save(&model(2.0), &tuned);
        let found = extract(&tuned, &base, &out, 16);
        assert_eq!(found.tensors[0].rank, Some(4));
        assert!(found.tensors[0].error < 1e-6);
        assert_eq!(found.lost, ["model.norm.weight"]);
        let adapted = Adapted::open(Arc::new(open(&base)), &out).unwrap();
        for (got, expected) in values(&adapted, name).iter().zip(values(&open(&tuned), name)) {
            assert!((got - expected).abs() <= 1e-5 * expected.abs().max(1.0));
        }
        // Asked for, the vector is kept whole.
        let whole = folder.path().join("whole");
        let save_modules = vec!["norm".to_owned()];
        let options =
            ExtractOptions { save_modules, exclude: vec!["q_proj".to_owned()], ..options(4) };
        let found = extract_lora(&open(&tuned), &open(&base), &whole, &options).unwrap();
        assert_eq!((found.left_out, found.lost.len(), found.error()), (1, 0, 0.0));
        let adapted = Adapted::open(Arc::new(open(&base)), &whole).unwrap();
        assert_eq!(values(&adapted, "norm.weight"), vec![2.0; cols]);
    }
}

/// Embeddings: whole, or decomposed where asked.
#[test]
fn embeddings_are_whole_or_decomposed() {
    let folder = tempfile::tempdir().unwrap();
    let [tuned, whole, lora] = ["tuned", "whole", "lora"].map(|name| folder.path().join(name));
    let text = reference("base/fused", "embedding");
    write(&merge(&format!("merge_method: passthrough\nmodels: [{{model: {text}}}]\n")), &tuned);
    let (tuned, base) = (open(&tuned), Arc::new(open(&golden("base/fused"))));
    let found = extract_lora(&tuned, &base, &whole, &options(16)).unwrap();
    assert_eq!(found.lost, ["model.norm.weight"]);
    let adapted = Adapted::open(Arc::clone(&base), &whole).unwrap();
    assert_eq!(values(&adapted, "embed_tokens.weight"), values(&tuned, "embed_tokens.weight"));
    let options = ExtractOptions { embed_lora: true, ..options(16) };
    let found = extract_lora(&tuned, &base, &lora, &options).unwrap();
    let embedding = found.tensors.iter().find(|t| t.tensor.contains("embed_tokens")).unwrap();
    assert_eq!(embedding.rank, Some(8));
    let adapted = Adapted::open(Arc::clone(&base), &lora).unwrap();
    let pairs = values(&adapted, "embed_tokens.weight").into_iter();
    for (a, b) in pairs.zip(values(&tuned, "embed_tokens.weight")) {
        assert!((a - b).abs() < 1e-5);
    }
}

/// Nothing is left where there is nothing to extract, where models differ, or after Ctrl-C.
#[test]
fn extraction_is_refused_with_a_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let refused = |finetuned: &str, base: &str, options: &ExtractOptions<'_>| {
        let (finetuned, base) = (open(&golden(finetuned)), open(&golden(base)));
        extract_lora(&finetuned, &base, &out, options).unwrap_err().to_string()
    };
    let (same, square) = ("base/fused", "base/square");
    assert!(refused(same, same, &options(4)).contains("is left to make an adapter of"));
    let text = refused(square, same, &options(4));
    assert!(text.contains("mlp.experts.gate_up_proj` is [3, 12, 8] in the base"), "{text}");
    let bad = ExtractOptions {
        max_rank: 0,
        epsilon: f64::NAN,
        include: vec!["(".to_owned()],
        ..options(1)
    };
    let text = refused(same, same, &bad);
    for word in ["`--rank` is 0", "`--epsilon` is NaN", "`--include (`"] {
        assert!(text.contains(word), "{text}");
    }
    let cancel = Cancel::default();
    cancel.cancel();
    let stopped = ExtractOptions { cancel: &cancel, ..options(4) };
    assert_eq!(refused(same, same, &stopped), "interrupted");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}
