//! What must agree between models before anything is merged.

use super::depth::text;
use super::{Input, Line};
use crate::recipe::{Inputs, filter_matches};
use crate::sources::Source;
use crate::tokenizers::Vocabulary;
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

/// Token ids must mean the same in all models.
pub(super) fn tokenizers(recipe: &Recipe, sources: &Sources, problems: &mut Problems) {
    let models = recipe.models();
    let used = sources.list.iter().filter(|s| models.contains(&s.model.as_str()));
    let chosen = sources.list.iter().find(|source| source.model == recipe.tokenizer());
    if let Some(source) = chosen.filter(|_| recipe.tokenizer.is_some())
        && source.checkpoint.is_some()
        && source.tokenizer.is_none()
    {
        problems.push(Problem::new(
            format!("`{}` is to give its tokenizer and has no tokenizer.json", source.model),
            "choose another model of the merge under `tokenizer_source`",
        ));
    }
    let known: Vec<(&Source, &str)> =
        used.filter_map(|s| s.tokenizer.as_deref().map(|hash| (s, hash))).collect();
    let Some(((first, expected), rest)) = known.split_first() else { return };
    for (other, found) in rest {
        if found != expected && recipe.tokenizer.is_some() {
            problems.extend(same_tokens(first, other));
        } else if found != expected {
            problems.push(Problem::new(
                format!(
                    "`{}` and `{}` have different tokenizers: tokenizer.json is {} and {}",
                    first.model,
                    other.model,
                    &expected[..12],
                    &found[..12]
                ),
                "merge models of one tokenizer; if equal ids mean equal tokens, say whose to take, \
                 such as `tokenizer_source: base`",
            ));
        }
    }
}

/// The problem of two tokenizers that are not equal to the byte: tokens with other ids.
fn same_tokens(first: &Source, other: &Source) -> Option<Problem> {
    let folder = |source: &Source| source.checkpoint.as_ref().map(|c| c.folder().to_owned());
    let (one, two) = folder(first).zip(folder(other))?;
    let read = Vocabulary::read(&one).and_then(|one| Ok((one, Vocabulary::read(&two)?)));
    let hint = "merge models of one vocabulary; rows of the vocabulary are not moved yet";
    match read {
        Ok((one, two)) => {
            one.difference(&first.model, &two, &other.model).map(|text| Problem::new(text, hint))
        }
        Err(error) => Some(Problem::new(error.to_string(), hint)),
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
                "merge models of one shape (same size, vocabulary and number of experts)",
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
