//! What the child looks like on disk: layout, names, config.

use super::Line;
use super::bind::Binding;
use super::check::Problems;
use super::depth;
use crate::vocabulary::is_of_tokens;
use darwin_checkpoint::{
    ExpertLayout, ExpertNaming, Family, Layout, Manifest, Problem, Stored, TensorInfo,
    text_only_name,
};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// Layout and config of the child.
pub(super) struct Child {
    /// `None` where the structural parent is not a checkpoint on disk.
    pub(super) layout: Option<Layout>,
    pub(super) config: Value,
    pub(super) notes: Vec<String>,
}

pub(super) fn child(binding: &Binding<'_>, lines: &mut [Line], problems: &mut Problems) -> Child {
    let layout = layout(binding, lines, problems);
    let mut notes = Vec::new();
    let config = config(binding, &mut notes, problems);
    Child { layout, config, notes }
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
    let alike = alike(of_parent);
    let mut layout = Layout::default();
    let ids: Vec<_> = manifest.ids().collect();
    for (line, id) in lines.iter().zip(ids) {
        let Some((template, rename)) = template(&line.info, of_parent, &alike) else {
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
    }
    let layout = arranged(binding, layout, &manifest, problems);
    let mut of_line: Vec<Vec<&Stored>> = vec![Vec::new(); lines.len()];
    for stored in &layout.stored {
        of_line[stored.id.index()].push(stored);
    }
    for (line, pieces) in lines.iter_mut().zip(of_line) {
        line.record.tensor = on_disk(&pieces, &line.info);
    }
    Some(layout)
}

/// The layout that the recipe asks for: experts fused or one by one, text-only names.
fn arranged(
    binding: &Binding<'_>,
    mut layout: Layout,
    manifest: &Manifest,
    problems: &mut Problems,
) -> Layout {
    let darwin = &binding.recipe.darwin;
    if let Some(experts) = darwin.layout {
        let config = binding.sources[binding.structure].tensors.config();
        let family = Family::of(config);
        let naming = family.map_or(ExpertNaming::Projections, |family| family.experts);
        if naming == ExpertNaming::FusedOnly && experts == ExpertLayout::PerExpert {
            let name = family.map_or("", |family| family.name);
            problems.push(Problem::new(
                format!("`layout` is per-expert and experts of {name} are always fused"),
                "leave `layout` out",
            ));
        }
        layout = layout.with_experts(manifest, experts, naming);
    }
    if darwin.text_only {
        for stored in &mut layout.stored {
            stored.name = text_only_name(&stored.name);
        }
    }
    layout
}

/// The parent's tensor whose pieces and names the child's tensor takes, with the layer's prefix
/// to exchange where it is of another layer.
fn template(
    info: &TensorInfo,
    parent: &Manifest,
    alike: &BTreeMap<String, Vec<usize>>,
) -> Option<(usize, Option<(String, String)>)> {
    if let Some(id) = parent.find(&info.name)
        && (parent.get(id).shape == info.shape || is_of_tokens(info))
    {
        return Some((id.index(), None));
    }
    let layer = info.layer?;
    let to = format!("layers.{layer}.");
    let same = alike.get(&without_layer(info)?)?;
    let like = *same.iter().find(|other| parent.tensors()[**other].shape == info.shape)?;
    let from = parent.tensors()[like].layer?;
    Some((like, Some((format!("layers.{from}."), to))))
}

/// The tensors of all layers by their names without the layer.
fn alike(parent: &Manifest) -> BTreeMap<String, Vec<usize>> {
    let mut alike: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for (i, info) in parent.tensors().iter().enumerate() {
        if let Some(name) = without_layer(info) {
            alike.entry(name).or_default().push(i);
        }
    }
    alike
}

fn without_layer(info: &TensorInfo) -> Option<String> {
    Some(info.name.replacen(&format!("layers.{}.", info.layer?), "layers.", 1))
}

/// The name in the files; experts that lie one by one are one line.
fn on_disk(pieces: &[&Stored], info: &TensorInfo) -> String {
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

fn config(binding: &Binding<'_>, notes: &mut Vec<String>, problems: &mut Problems) -> Value {
    let structure = &binding.sources[binding.structure];
    let mut config = structure.tensors.config().clone();
    let recipe = binding.recipe;
    if let Some(dtype) = recipe.out_dtype.or(recipe.dtype) {
        edit(&mut config, |object| {
            for key in ["dtype", "torch_dtype"] {
                if let Some(value) = object.get_mut(key) {
                    *value = json!(dtype.torch_name());
                }
            }
        });
    }
    if structure.checkpoint.as_ref().is_some_and(|parent| parent.is_quantised()) {
        edit(&mut config, |object| {
            if object.shift_remove("quantization_config").is_some() {
                notes.push(
                    "quantised weights are written as bfloat16, without their scales".to_owned(),
                );
            }
        });
    }
    if let Some(text) = text_object(&mut config) {
        if binding.stacked() {
            depth::restack(text, &binding.origins(), binding.sources, &binding.kinds, problems);
        }
        notes.extend(binding.extent.count_mtp(text));
    }
    if recipe.darwin.text_only { text_alone(config, problems) } else { config }
}

/// Applies an edit to the config and to its part for the text model.
fn edit(config: &mut Value, mut edit: impl FnMut(&mut Map<String, Value>)) {
    if let Some(object) = config.as_object_mut() {
        edit(object);
        if let Some(text) = object.get_mut("text_config").and_then(Value::as_object_mut) {
            edit(text);
        }
    }
}

fn text_object(config: &mut Value) -> Option<&mut Map<String, Value>> {
    let key = "text_config";
    if config.get(key).is_some() {
        config.get_mut(key)?.as_object_mut()
    } else {
        config.as_object_mut()
    }
}

/// What the config of a text-only class takes over from the whole model's.
const SHARED_KEYS: [&str; 7] = [
    "dtype",
    "torch_dtype",
    "tie_word_embeddings",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "transformers_version",
];

/// The config of the language model alone, with the class that loads it.
fn text_alone(config: Value, problems: &mut Problems) -> Value {
    let Some(text) = config.get("text_config").and_then(Value::as_object) else { return config };
    let model_type = text.get("model_type").and_then(Value::as_str).unwrap_or("");
    let Some(class) = Family::architecture(model_type) else {
        problems.push(Problem::new(
            format!("no text-only class is known for `model_type: {model_type}`"),
            "leave `text_only` out; `darwin ls families` lists those that are known",
        ));
        return config;
    };
    let mut alone = Map::new();
    alone.insert("architectures".to_owned(), json!([class]));
    alone.extend(text.clone());
    for key in SHARED_KEYS {
        let of_whole = config.get(key).filter(|value| !value.is_null());
        if let Some(value) =
            of_whole.filter(|_| key.starts_with("tie") || alone.get(key).is_none_or(Value::is_null))
        {
            alone.insert(key.to_owned(), value.clone());
        }
    }
    Value::Object(alone)
}
