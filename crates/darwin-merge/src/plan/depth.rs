//! Kinds of decoder layers, and the config of a child whose layers are stacked anew: every entry
//! that speaks of layers follows them (mergekit 0.1.5, `plan.py`).

use super::check::Problems;
use crate::sources::Source;
use darwin_checkpoint::{Problem, Role, TensorSource};
use serde_json::{Map, Value, json};

const LINEAR: &str = "linear_attention";
const FULL: &str = "full_attention";
const SLIDING: &str = "sliding_attention";

/// What each layer of a model is: its mixer and its feed-forward part.
#[derive(Clone, Debug, Default)]
pub(super) struct Kinds {
    mixers: Vec<String>,
    sparse: Vec<bool>,
    /// The config implies the mixers by a period instead of listing them.
    periodic: bool,
}

impl Kinds {
    /// Reads them off config and tensor names.
    pub(super) fn of(tensors: &dyn TensorSource) -> Self {
        let manifest = tensors.manifest();
        let layers = manifest.num_layers();
        let (mut linear, mut sparse) = (vec![false; layers], vec![false; layers]);
        for info in manifest.tensors() {
            let Some(layer) = info.layer else { continue };
            linear[layer.0] |= info.role == Role::LinearAttention;
            sparse[layer.0] |= info.role == Role::RoutedExpert;
        }
        let config = text(tensors.config());
        let stated = stated(config, layers);
        let periodic = stated.is_some() && config.get("layer_types").is_none();
        let mixer = |layer: usize| match &stated {
            Some(stated) => stated[layer].clone(),
            None if linear[layer] => LINEAR.to_owned(),
            None => FULL.to_owned(),
        };
        Self { mixers: (0..layers).map(mixer).collect(), sparse, periodic }
    }

    /// A layer's kind in words.
    pub(super) fn describe(&self, layer: usize) -> String {
        let mixer = self.mixers.get(layer).map_or("?", String::as_str);
        match self.sparse.get(layer) {
            Some(true) => format!("{mixer} with experts"),
            _ => mixer.to_owned(),
        }
    }
}

/// The text model's part of a config.
pub(super) fn text(config: &Value) -> &Value {
    config.get("text_config").unwrap_or(config)
}

fn number(text: &Value, key: &str) -> Option<usize> {
    text.get(key)?.as_u64().map(|n| n as usize)
}

/// The mixers as the config lists them, or as it implies them by a period.
fn stated(text: &Value, layers: usize) -> Option<Vec<String>> {
    if let Some(list) = text.get("layer_types").and_then(Value::as_array) {
        let names: Vec<String> =
            list.iter().filter_map(|v| v.as_str().map(str::to_owned)).collect();
        return (names.len() == layers).then_some(names);
    }
    let periodic = |period: usize, most: &str| {
        let kind = |i: usize| if (i + 1).is_multiple_of(period.max(1)) { FULL } else { most };
        Some((0..layers).map(|i| kind(i).to_owned()).collect())
    };
    if let Some(period) = number(text, "full_attention_interval") {
        return periodic(period, LINEAR);
    }
    let pattern =
        number(text, "sliding_window_pattern").or_else(|| number(text, "_sliding_window_pattern"));
    match (pattern, text.get("model_type").and_then(Value::as_str)) {
        (Some(period), _) => periodic(period, SLIDING),
        (None, Some("gemma2" | "gpt_oss")) => periodic(2, SLIDING),
        (None, Some("gemma3_text")) => periodic(6, SLIDING),
        _ if text.get("use_sliding_window") == Some(&Value::Bool(true)) => {
            let first = number(text, "max_window_layers").unwrap_or(0);
            let kind = |i: usize| if i < first { FULL } else { SLIDING };
            Some((0..layers).map(|i| kind(i).to_owned()).collect())
        }
        _ => None,
    }
}

/// Where an output layer comes from: the source that leads its slice, and its layer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Origin {
    pub(super) source: usize,
    pub(super) layer: usize,
}

/// Rewrites everything in the text model's config that speaks of layers.
pub(super) fn restack(
    config: &mut Map<String, Value>,
    origins: &[Origin],
    sources: &[Source],
    kinds: &[Kinds],
    problems: &mut Problems,
) {
    for key in ["num_hidden_layers", "n_layer", "num_layers"] {
        if let Some(value) = config.get_mut(key) {
            *value = json!(origins.len());
        }
    }
    per_layer_lists(config, origins, sources);
    let mixer = |o: &Origin| kinds[o.source].mixers.get(o.layer).cloned().unwrap_or_default();
    let mixers: Vec<String> = origins.iter().map(mixer).collect();
    // A period that the config implies no longer holds: the list says it.
    let periodic = kinds.iter().any(|kinds| kinds.periodic);
    if config.contains_key("layer_types") || periodic || mixers.iter().any(|m| m == LINEAR) {
        config.insert("layer_types".to_owned(), json!(mixers));
    }
    let sparse: Vec<bool> = origins
        .iter()
        .map(|o| kinds[o.source].sparse.get(o.layer).copied().unwrap_or(false))
        .collect();
    feed_forward(config, &sparse, problems);
}

/// Lists with an entry a layer, such as `layer_types`, `mlp_layer_types`, `no_rope_layers`.
fn per_layer_lists(config: &mut Map<String, Value>, origins: &[Origin], sources: &[Source]) {
    for (key, value) in config.iter_mut() {
        if key == "mlp_only_layers" || !(key.contains("layer") || key.ends_with("_types")) {
            continue;
        }
        let entry = |origin: &Origin| {
            let tensors = &sources[origin.source].tensors;
            let list = text(tensors.config()).get(key)?.as_array()?;
            (list.len() == tensors.manifest().num_layers())
                .then(|| list.get(origin.layer).cloned())?
        };
        if value.is_array()
            && let Some(list) = origins.iter().map(entry).collect::<Option<Vec<Value>>>()
        {
            *value = Value::Array(list);
        }
    }
}

/// Which layers have experts, in the words of the family's config.
fn feed_forward(config: &mut Map<String, Value>, sparse: &[bool], problems: &mut Problems) {
    let dense: Vec<usize> = (0..sparse.len()).filter(|layer| !sparse[*layer]).collect();
    if dense.len() == sparse.len() || config.contains_key("mlp_layer_types") {
        return;
    }
    if let Some(value) = config.get_mut("first_k_dense_replace") {
        let first = sparse.iter().take_while(|sparse| !**sparse).count();
        *value = json!(first);
        if let Some(layer) = dense.get(first) {
            let text =
                format!("output layer {layer} is dense and stands behind layers with experts");
            let hint = "this family's config can only say how many of the first layers are dense: \
                        put dense layers first";
            problems.push(Problem::new(text, hint));
        }
    } else if config.contains_key("mlp_only_layers") || config.contains_key("decoder_sparse_step") {
        config.insert("mlp_only_layers".to_owned(), json!(dense));
        config.insert("decoder_sparse_step".to_owned(), json!(1));
    } else if let Some(layer) = dense.first() {
        let text = format!("output layer {layer} is dense, others have experts");
        let hint = "this family's config cannot say so: stack layers of one kind";
        problems.push(Problem::new(text, hint));
    }
}
