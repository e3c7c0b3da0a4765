//! A `config.json` from the metadata of a Llama model.

use super::keys::Keys;
use super::names::{ATTENTION, MLP};
use super::rope;
use crate::names::MAX_NUMBER;
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;

/// The architecture that is read.
pub(super) const ARCHITECTURE: &str = "llama";

/// Keys of the architecture whose meaning is known, beside those of [`rope::KEYS`].
const KNOWN: [&str; 16] = [
    "attention.causal",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.layer_norm_rms_epsilon",
    "attention.value_length",
    "block_count",
    "context_length",
    "embedding_length",
    "expert_count",
    "expert_used_count",
    "feed_forward_length",
    "rope.dimension_count",
    "rope.freq_base",
    "tensor_data_layout",
    "vocab_size",
];

/// Rotary base where the file has none, as in llama.cpp.
const ROPE_THETA: f64 = 1e4;

/// What the tensors say about a model.
pub(super) struct Found<'a> {
    /// Canonical names.
    pub(super) names: &'a BTreeSet<String>,
    /// Rows of the embedding, where it is there.
    pub(super) embedding_rows: Option<u64>,
    /// `rope_freqs.weight`.
    pub(super) rope_factors: Option<&'a [f32]>,
    /// transformers' name of the dtype of most weights.
    pub(super) dtype: &'static str,
}

/// Refuses what is no whole Llama model.
pub(super) fn check_architecture(keys: &mut Keys<'_>) {
    match keys.text("general.architecture") {
        Some(ARCHITECTURE) => {}
        Some(other) => keys.problem(
            format!("key `general.architecture` is `{other}`, supported is `{ARCHITECTURE}`"),
            "get the model as safetensors",
        ),
        None if keys.has("general.architecture") => {}
        None => keys.wrong("general.architecture", &format!("`{ARCHITECTURE}`")),
    }
    let kind = keys.text("general.type");
    if kind.is_some_and(|kind| kind != "model") {
        keys.wrong("general.type", "`model`: adapters and towers are no models");
    }
    if keys.size("split.count", Some(1)) != 1 {
        keys.problem(
            "key `split.count` says that this is one of several files",
            "join them (`llama-gguf-split --merge`)",
        );
    }
}

/// The config; what is wrong with it is noted in `keys`.
pub(super) fn config(keys: &mut Keys<'_>, found: &Found<'_>) -> Value {
    check_known(keys);
    let heads = keys.size("llama.attention.head_count", None);
    let hidden = keys.size("llama.embedding_length", None);
    let context = keys.size("llama.context_length", None);
    let head_dim = head_dim(keys, hidden, heads);
    let vocab_size = vocab_size(keys, found.embedding_rows);
    let layers = keys.size("llama.block_count", None);
    if layers > MAX_NUMBER as u64 {
        keys.wrong("llama.block_count", &format!("at most {MAX_NUMBER}"));
    }
    let key_value_heads = keys.size("llama.attention.head_count_kv", Some(heads));
    if !heads.is_multiple_of(key_value_heads) {
        keys.wrong("llama.attention.head_count_kv", &format!("a divisor of {heads}"));
    }
    let epsilon = keys.positive("llama.attention.layer_norm_rms_epsilon");
    if epsilon.is_none() && !keys.has("llama.attention.layer_norm_rms_epsilon") {
        keys.wrong("llama.attention.layer_norm_rms_epsilon", "a number above 0");
    }
    let theta = keys.positive("llama.rope.freq_base").unwrap_or(ROPE_THETA);
    let rope = rope::parameters(keys, theta, head_dim, context, found.rope_factors);
    let mut config = json!({
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": vocab_size,
        "hidden_size": hidden,
        "intermediate_size": keys.size("llama.feed_forward_length", None),
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": key_value_heads,
        "head_dim": head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": context,
        "rms_norm_eps": epsilon,
        "rope_parameters": rope,
        "attention_bias": biases(keys, found.names, &ATTENTION, layers),
        "mlp_bias": biases(keys, found.names, &MLP, layers),
        "tie_word_embeddings": !found.names.contains("lm_head.weight"),
        "dtype": found.dtype,
    });
    if let Value::Object(config) = &mut config {
        token_ids(keys, vocab_size, config);
    }
    config
}

/// A key that is not known may change what the model computes.
fn check_known(keys: &mut Keys<'_>) {
    for key in keys.under("llama.") {
        let name = &key["llama.".len()..];
        if !KNOWN.contains(&name) && !rope::KEYS.contains(&name) {
            keys.problem(
                format!("key `{key}` is not known, and may change what the model computes"),
                "get the model as safetensors",
            );
        }
    }
    if keys.has("llama.expert_count") && !keys.is_zero("llama.expert_count") {
        keys.problem(
            "key `llama.expert_count` says that this is a mixture of experts, which is not read from GGUF",
            "get the model as safetensors",
        );
    }
    if !keys.flag("llama.attention.causal", true) {
        keys.wrong("llama.attention.causal", "true");
    }
}

fn head_dim(keys: &mut Keys<'_>, hidden: u64, heads: u64) -> u64 {
    let default = (hidden / heads).max(1);
    let head_dim = keys.size("llama.attention.key_length", Some(default));
    for key in ["llama.attention.value_length", "llama.rope.dimension_count"] {
        if keys.size(key, Some(head_dim)) != head_dim {
            keys.wrong(key, &format!("the width of a head, {head_dim}"));
        }
    }
    if !head_dim.is_multiple_of(2) {
        keys.problem(
            format!("its heads are {head_dim} wide, needed is an even width"),
            "get the model from its source again",
        );
    }
    head_dim
}

fn vocab_size(keys: &mut Keys<'_>, embedding_rows: Option<u64>) -> u64 {
    let Some(rows) = embedding_rows else {
        keys.problem(
            "tensor `token_embd.weight` is missing",
            "the file holds a vocabulary alone, or is damaged: get the whole model",
        );
        return 1;
    };
    if keys.size("llama.vocab_size", Some(rows)) != rows {
        keys.wrong("llama.vocab_size", &format!("{rows}, the rows of `token_embd.weight`"));
    }
    rows
}

/// Whether every projection of every layer has a bias; some with and some without is refused.
fn biases(keys: &mut Keys<'_>, names: &BTreeSet<String>, parts: &[&str], layers: u64) -> bool {
    let is_one = |name: &&String| parts.iter().any(|part| name.ends_with(&format!("{part}.bias")));
    let found = names.iter().filter(is_one).count() as u64;
    let all = layers.saturating_mul(parts.len() as u64);
    if found != 0 && found != all {
        keys.problem(
            format!(
                "{found} of the {all} projections like `{}` have a bias, needed are all or none",
                parts[0]
            ),
            "get the model as safetensors",
        );
    }
    found != 0
}

fn token_ids(keys: &mut Keys<'_>, vocab_size: u64, config: &mut Map<String, Value>) {
    let mut id = |name: &str| keys.token_id(&format!("tokenizer.ggml.{name}_token_id"), vocab_size);
    let ends: Vec<u64> = ["eos", "eot", "eom"].into_iter().filter_map(&mut id).collect();
    let (begin, pad) = (id("bos"), id("padding"));
    let mut distinct: Vec<u64> = Vec::new();
    for end in ends {
        if !distinct.contains(&end) {
            distinct.push(end);
        }
    }
    config.insert("bos_token_id".to_owned(), json!(begin));
    config.insert(
        "eos_token_id".to_owned(),
        match distinct[..] {
            [] => Value::Null,
            [only] => json!(only),
            _ => json!(distinct),
        },
    );
    config.insert("pad_token_id".to_owned(), json!(pad));
}
