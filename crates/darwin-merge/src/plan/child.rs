//! What the child looks like on disk: layout, names, config.

use super::Line;
use super::bind::Binding;
use super::check::Problems;
use crate::vocabulary::is_of_tokens;
use darwin_checkpoint::{Layout, Manifest, Problem, Stored, TensorInfo};
use darwin_core::LayerIdx;
use serde_json::{Value, json};

/// Layout and config of the child.
pub(super) struct Child {
    /// `None` where the structural parent is not a checkpoint on disk.
    pub(super) layout: Option<Layout>,
    pub(super) config: Value,
}

/// The kind of a decoder layer, as `layer_types` names it.
pub(super) fn layer_kind(manifest: &Manifest, layer: usize) -> &'static str {
    let linear = manifest
        .tensors()
        .iter()
        .any(|t| t.layer == Some(LayerIdx(layer)) && t.name.contains(".linear_attn."));
    if linear { "linear_attention" } else { "full_attention" }
}

pub(super) fn child(binding: &Binding<'_>, lines: &mut [Line], problems: &mut Problems) -> Child {
    let layout = layout(binding, lines, problems);
    Child { layout, config: config(binding, lines) }
}

/// The structural parent's names and pieces for the child's tensors.
fn layout(binding: &Binding<'_>, lines: &mut [Line], problems: &mut Problems) -> Option<Layout> {
    let parent = binding.sources[binding.structure].checkpoint.as_ref()?;
    let infos = lines.iter().map(|line| line.info.clone()).collect();
    let manifest = match Manifest::new(infos) {
        Ok(manifest) => manifest,
        Err(name) => {
            problems
                .push(Problem::new(format!("two output tensors are both `{name}`"), "report this"));
            return None;
        }
    };
    let of_parent = darwin_checkpoint::TensorSource::manifest(parent.as_ref());
    let mut pieces: Vec<Vec<&Stored>> = vec![Vec::new(); of_parent.tensors().len()];
    for stored in &parent.layout().stored {
        pieces[stored.id.index()].push(stored);
    }
    let mut layout = Layout::default();
    let ids: Vec<_> = manifest.ids().collect();
    for (line, id) in lines.iter_mut().zip(ids) {
        let Some((template, rename)) = template(&line.info, of_parent) else {
            problems.push(Problem::new(
                format!("the structural parent has no tensor like `{}`", line.info.name),
                "choose another structural parent under `darwin: {structure: MODEL}`",
            ));
            continue;
        };
        let own = &pieces[template];
        for stored in own {
            let name = match &rename {
                Some((from, to)) => stored.name.replacen(from, to, 1),
                None => stored.name.clone(),
            };
            let mut stored = Stored { name, id, ..(*stored).clone() };
            if let ([_], true) = (&own[..], is_of_tokens(&line.info)) {
                (stored.rows, stored.shape) = (0..line.info.rows(), line.info.shape.clone());
            }
            layout.stored.push(stored);
        }
        line.record.tensor = on_disk(&layout.stored[layout.stored.len() - own.len()..], &line.info);
    }
    Some(layout)
}

/// The parent's tensor whose pieces and names the child's tensor takes, with the layer's prefix
/// to exchange where it is of another layer.
fn template(info: &TensorInfo, parent: &Manifest) -> Option<(usize, Option<(String, String)>)> {
    if let Some(id) = parent.find(&info.name)
        && (parent.get(id).shape == info.shape || is_of_tokens(info))
    {
        return Some((id.index(), None));
    }
    let layer = info.layer?;
    let to = format!("layers.{layer}.");
    let like = parent.tensors().iter().position(|other| {
        other.layer.is_some_and(|from| {
            other.shape == info.shape
                && other.name.replacen(&format!("layers.{from}."), &to, 1) == info.name
        })
    })?;
    let from = parent.tensors()[like].layer?;
    Some((like, Some((format!("layers.{from}."), to))))
}

/// The name in the files; experts that lie one by one are one line.
fn on_disk(pieces: &[Stored], info: &TensorInfo) -> String {
    match pieces {
        [one] => one.name.clone(),
        [first, ..] => match first.name.find(".experts.") {
            Some(at) => {
                let part = info.name.rsplit('.').next().unwrap_or("");
                format!("{}.experts.*.{part}", &first.name[..at])
            }
            None => info.name.clone(),
        },
        [] => info.name.clone(),
    }
}

fn config(binding: &Binding<'_>, lines: &[Line]) -> Value {
    let mut config = binding.sources[binding.structure].tensors.config().clone();
    let recipe = binding.recipe;
    let dtype = recipe.out_dtype.or(recipe.dtype);
    let kinds = binding.stacked().then(|| stacked_kinds(binding, lines));
    edit(&mut config, |object| {
        if let Some(dtype) = dtype {
            for key in ["dtype", "torch_dtype"] {
                if let Some(value) = object.get_mut(key) {
                    *value = json!(dtype.torch_name());
                }
            }
        }
        if let Some(kinds) = &kinds {
            if let Some(value) = object.get_mut("num_hidden_layers") {
                *value = json!(kinds.len());
            }
            if let Some(value) = object.get_mut("layer_types") {
                *value = json!(kinds);
            }
        }
    });
    config
}

/// Applies an edit to the config and to its part for the text model.
fn edit(config: &mut Value, edit: impl Fn(&mut serde_json::Map<String, Value>)) {
    if let Some(object) = config.as_object_mut() {
        edit(object);
        if let Some(text) = object.get_mut("text_config").and_then(Value::as_object_mut) {
            edit(text);
        }
    }
}

fn stacked_kinds(binding: &Binding<'_>, lines: &[Line]) -> Vec<&'static str> {
    (0..binding.num_layers)
        .map(|layer| {
            let linear = lines.iter().any(|line| {
                line.info.layer == Some(LayerIdx(layer)) && line.info.name.contains(".linear_attn.")
            });
            if linear { "linear_attention" } else { "full_attention" }
        })
        .collect()
}
