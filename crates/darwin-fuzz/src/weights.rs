//! Targets that read models: headers, index, GGUF, configuration, adapters.

use crate::scratch::{folder, put};
use crate::{models, recipes};
use darwin_checkpoint::{
    Adapted, AnyModel, Checkpoint, TensorSource, gguf_file, inspect, read_tensor, whole_tensors,
};
use darwin_engine::{Batch, Budget, Interventions, Model, NoTap, Sequence, Stream, Workload};
use std::path::Path;
use std::sync::Arc;

/// Tensors that are read are smaller; what a file of the size of an input holds is.
const MAX_ELEMENTS: usize = 1 << 22;

/// The shard of a model in one file.
pub(crate) fn safetensors(input: &[u8]) {
    let folder = folder("safetensors", |folder| models::write_llama(folder, 1));
    put(&folder.join("model.safetensors"), input);
    read_model(&folder);
    if whole_tensors(&folder.join("model.safetensors")).is_ok() {
        recipes::write_passthrough(&folder);
    }
}

/// The index beside two good shards.
pub(crate) fn index(input: &[u8]) {
    let folder = folder("index", |folder| {
        models::write_llama(folder, 1);
        let whole = folder.join("model.safetensors");
        for name in ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"] {
            let bytes = std::fs::read(&whole).expect("written above");
            put(&folder.join(name), &half(&bytes, name.contains("-00002-of")));
        }
        std::fs::remove_file(&whole).expect("written above");
    });
    put(&folder.join("model.safetensors.index.json"), input);
    read_model(&folder);
}

/// A file of every second tensor of a file.
fn half(bytes: &[u8], odd: bool) -> Vec<u8> {
    let (length, rest) = bytes.split_first_chunk::<8>().expect("a length");
    let (header, data) = rest.split_at(u64::from_le_bytes(*length) as usize);
    let header: serde_json::Value = serde_json::from_slice(header).expect("a header");
    let (mut half, mut kept) = (serde_json::Map::new(), Vec::new());
    let tensors = header.as_object().expect("an object").iter();
    for (i, (name, tensor)) in tensors.filter(|(name, _)| *name != "__metadata__").enumerate() {
        if (i % 2 == 1) == odd {
            let at = |k: usize| tensor["data_offsets"][k].as_u64().expect("an offset") as usize;
            let mut tensor = tensor.clone();
            let begin = kept.len();
            kept.extend_from_slice(&data[at(0)..at(1)]);
            tensor["data_offsets"] = serde_json::json!([begin, kept.len()]);
            half.insert(name.clone(), tensor);
        }
    }
    let header = serde_json::to_vec(&half).expect("JSON");
    [&(header.len() as u64).to_le_bytes()[..], &header, &kept].concat()
}

/// A GGUF file.
pub(crate) fn gguf(input: &[u8]) {
    let folder = folder("gguf", |_| ());
    let path = folder.join("model.gguf");
    put(&path, input);
    read_model(&path);
    let _ = gguf_file(&path);
    if let Ok(model) = darwin_checkpoint::Gguf::open(&path) {
        let _ = model.tokenizer_json();
        let _ = model.chat_template();
        open_engine(&model);
    }
}

/// The `config.json` of a model of the family that it names.
pub(crate) fn config(input: &[u8]) {
    let has = |word: &[u8]| input.windows(word.len()).any(|w| w == word);
    let folder = if has(b"qwen3_5_moe") {
        folder("qwen35", models::write_qwen35)
    } else if has(b"qwen3_moe") {
        folder("moe", models::write_moe)
    } else {
        folder("llama", |folder| models::write_llama(folder, 1))
    };
    put(&folder.join("config.json"), input);
    let Ok(model) = AnyModel::open(&folder) else { return };
    let _ = inspect(&model);
    open_engine(&model);
}

/// Opens a model in the engine; one that is accepted is run.
fn open_engine(source: &dyn TensorSource) {
    let Ok(stream) = Stream::open(source) else { return };
    let _ = stream.footprint();
    let work =
        Workload { tokens: 100, longest: 10, batch_tokens: 20, states: 1, ..Workload::default() };
    for memory in [None, Some(1 << 20), Some(1 << 30)] {
        let _ = stream.plan(&work, &Budget { memory, scratch: None });
    }
    let Ok(model) = Model::load(source) else { return };
    let _ = model.config().active_weights();
    let vocab = model.config().vocab_size;
    let batch = Batch::new(vec![Sequence::new(vec![0, 1, 0]), Sequence::new(vec![1])]);
    let Ok(mut state) = model.embed(&batch) else { return };
    let layers = model.config().num_hidden_layers;
    if model.run(&mut state, 0..layers, &mut NoTap, &Interventions::new()).is_ok() {
        assert_eq!(model.logits(&state, &[2, 3]).len(), 2 * vocab);
    }
}

/// An adapter's configuration, or its weights where the first byte is odd.
pub(crate) fn adapter(input: &[u8]) {
    let Some((first, input)) = input.split_first() else { return };
    let base = folder("base", |folder| models::write_llama(folder, 1));
    let base = Arc::new(Checkpoint::open(base).expect("a good model"));
    let odd = first % 2 == 1;
    let folder = folder(if odd { "adapter-weights" } else { "adapter-config" }, |folder| {
        put(&folder.join("adapter_config.json"), ADAPTER.as_bytes());
        put(&folder.join("adapter_model.safetensors"), &adapter_weights());
    });
    put(&folder.join(if odd { "adapter_model.safetensors" } else { "adapter_config.json" }), input);
    let Ok(adapted) = Adapted::open(base, &folder) else { return };
    assert!(adapted.num_changed() <= adapted.manifest().tensors().len());
    read_tensors(&adapted);
}

const ADAPTER: &str = r#"{"peft_type": "LORA", "peft_version": "0.19.1", "r": 2, "lora_alpha": 4,
"target_modules": ["q_proj"], "rank_pattern": {}, "alpha_pattern": {}, "bias": "none",
"base_model_name_or_path": "base"}"#;

/// The weights of a rank-2 adapter of one projection.
fn adapter_weights() -> Vec<u8> {
    let name = "base_model.model.model.layers.0.self_attn.q_proj.lora_";
    let n = 4 * 2 * models::HIDDEN;
    let header = format!(
        r#"{{"{name}A.weight":{{"dtype":"F32","shape":[2,{h}],"data_offsets":[0,{n}]}},"{name}B.weight":{{"dtype":"F32","shape":[{h},2],"data_offsets":[{n},{two}]}}}}"#,
        h = models::HIDDEN,
        two = 2 * n,
    );
    let values = (0..n / 2).flat_map(|i| (i as f32 / 100.0).to_le_bytes()).collect::<Vec<u8>>();
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &values].concat()
}

/// Opens a model as every command does and reads all of it.
fn read_model(path: &Path) {
    let Ok(model) = AnyModel::open(path) else { return };
    if let Ok(seen) = inspect(&model) {
        let _ = format!("{seen:?}");
    }
    read_tensors(&model);
}

fn read_tensors(source: &dyn TensorSource) {
    let manifest = source.manifest();
    for id in manifest.ids() {
        let info = manifest.get(id);
        assert_eq!(manifest.find(&info.name), Some(id), "{} is found", info.name);
        if info.elements() > MAX_ELEMENTS {
            continue;
        }
        if !info.dtype.is_mergeable() {
            let mut bytes = Vec::new();
            if source.read_raw(id, 0..info.rows(), &mut bytes).unwrap_or(false) {
                assert_eq!(bytes.len(), info.elements() * info.dtype.size(), "{}", info.name);
            }
            continue;
        }
        if let Ok(values) = read_tensor(source, id) {
            assert_eq!(values.len(), info.elements(), "{}", info.name);
        }
    }
}
