//! What must agree between models before anything is merged.

use super::depth::text;
use super::{Input, Line};
use crate::recipe::{Inputs, filter_matches};
use crate::sources::Source;
use crate::{Numerics, Recipe, Sources};
use darwin_checkpoint::{Problem, Role, TensorInfo};
use serde_json::Value;

pub(super) type Problems = Vec<Problem>;

/// mergekit's rounding is followed for some methods only.
pub(super) fn numerics(recipe: &Recipe, problems: &mut Problems) {
    let method = recipe.method();
    if recipe.numerics() == Numerics::Mergekit && !method.follows_mergekit() {
        problems.push(Problem::new(
            format!("`{}` is not computed in mergekit's numerics", method.name),
            "native numerics has it: write `numerics: native`, or leave it out",
        ));
    }
}

/// Token ids must mean the same in all models, where the recipe does not say whose to take.
pub(super) fn tokenizers(recipe: &Recipe, sources: &Sources, problems: &mut Problems) {
    if recipe.tokenizer.is_some() {
        return;
    }
    let models = recipe.models();
    let used = sources.list.iter().filter(|s| models.contains(&s.model.as_str()));
    let known: Vec<(&Source, &str)> =
        used.filter_map(|s| s.tokenizer.as_deref().map(|hash| (s, hash))).collect();
    let Some(((first, expected), rest)) = known.split_first() else { return };
    for (other, _) in rest.iter().filter(|(_, found)| found != expected) {
        problems.push(Problem::new(
            format!(
                "`{}` and `{}` have different tokenizers: their tokenizer.json differ",
                first.model, other.model
            ),
            "say whose vocabulary the child gets: `tokenizer_source: union` for the tokens of all \
             models, or `base`",
        ));
    }
}

/// What to do about tensors of other shapes.
pub(super) fn shape_hint(target: &TensorInfo, other: &[usize]) -> &'static str {
    let width = target.shape.get(1..) == other.get(1..);
    match target.role {
        Role::Embedding | Role::Head if width => {
            "the vocabularies are of different sizes: write `tokenizer_source: union` for the \
             tokens of all models, or `base`"
        }
        _ => "merge models of one shape (same size, vocabulary and number of experts)",
    }
}

/// A config must count the layers that are there: loaders believe it.
pub(super) fn depth(source: &Source, problems: &mut Problems) {
    let stated = text(source.tensors.config()).get("num_hidden_layers").and_then(Value::as_u64);
    let has = source.tensors.manifest().num_layers();
    if let Some(stated) = stated.filter(|stated| has > 0 && *stated != has as u64) {
        let cause = if stated < has as u64 {
            "set `num_hidden_layers`, or count layers of multi-token prediction in \
             `num_nextn_predict_layers`"
        } else {
            "the checkpoint is incomplete: download it again"
        };
        problems.push(Problem::new(
            format!("`{}`: config.json says {stated} layers, the files have {has}", source.model),
            cause,
        ));
    }
}

/// Recipes that name a module are for models that have one alone, as mergekit counts them.
pub(super) fn modules(recipe: &Recipe, sources: &Sources, problems: &mut Problems) {
    let Some(module) = &recipe.module else { return };
    for model in recipe.models() {
        let vision = sources.get(model).and_then(|tensors| {
            tensors.manifest().tensors().iter().find(|t| t.role == Role::Vision)
        });
        if let Some(tensor) = vision {
            problems.push(Problem::new(
                format!(
                    "`modules` names `{module}` alone and `{model}` has a vision tower (`{}`)",
                    tensor.name
                ),
                "write `models:` or `slices:` without `modules:`; the tower is merged or kept then",
            ));
        }
    }
}

/// Whether tensors can be merged with one another; a sentence for each that cannot.
pub(super) fn mergeable(
    target: &TensorInfo,
    inputs: &[Input],
    sources: &[Source],
    problems: &mut Problems,
) -> bool {
    let before = problems.len();
    let mut expected: Option<(&TensorInfo, &str)> = None;
    for input in inputs {
        let source = &sources[input.source];
        let info = source.tensors.manifest().get(input.id);
        if !info.dtype.is_mergeable() {
            problems.push(Problem::new(
                format!("`{}`: tensor `{}` is {}", source.model, info.name, info.dtype),
                "only F32, F16 and BF16 can be merged: convert the model first",
            ));
        }
        match expected {
            None => expected = Some((info, &source.model)),
            Some((first, model)) if first.shape != info.shape => problems.push(Problem::new(
                format!(
                    "tensor `{}` is {:?} in `{model}` and {:?} in `{}`",
                    target.name, first.shape, info.shape, source.model
                ),
                shape_hint(info, &first.shape),
            )),
            Some(_) => {}
        }
    }
    problems.len() == before
}

/// A filter that matches no tensor is most likely a typo.
pub(super) fn unused_filters(recipe: &Recipe, lines: &[Line]) -> Vec<String> {
    let mut filters: Vec<&str> = recipe.parameters.filters().collect();
    match &recipe.inputs {
        Inputs::Models(entries) => {
            filters.extend(entries.iter().flat_map(|e| e.parameters.filters()));
        }
        Inputs::Slices(slices) => {
            for slice in slices {
                filters.extend(slice.parameters.filters());
                filters.extend(slice.sources.iter().flat_map(|s| s.parameters.filters()));
            }
        }
    }
    filters.extend(recipe.darwin.copy.iter().filter_map(|rule| rule.filter.as_deref()));
    filters.sort_unstable();
    filters.dedup();
    filters.retain(|filter| !lines.iter().any(|line| filter_matches(filter, &line.info.name)));
    filters.into_iter().map(|filter| format!("the filter `{filter}` matches no tensor")).collect()
}
