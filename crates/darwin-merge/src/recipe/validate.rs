//! What a recipe's parts must hold together, whether it was read or built.

use super::{Inputs, Parameters, Recipe, Slice, missing, validate_shares};
use crate::methods::{Kind, Rule};
use crate::{METHODS, RecipeProblem};
use std::collections::BTreeSet;

/// A problem before its place is known; `key` is the path that the reader remembers.
pub(super) struct Finding {
    pub(super) key: String,
    pub(super) text: String,
    pub(super) hint: String,
}

impl Finding {
    pub(super) fn problem(self, file: &str, at: Option<(usize, usize)>) -> RecipeProblem {
        RecipeProblem { file: file.to_owned(), at, text: self.text, hint: self.hint }
    }
}

/// The names of all methods, for hints.
pub(super) fn method_names() -> String {
    METHODS.iter().map(|method| method.name).collect::<Vec<_>>().join(", ")
}

/// Everything that contradicts itself; parameters without effect become notes.
pub(super) fn validate(recipe: &mut Recipe) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut find = |key: &str, text: String, hint: &str| {
        findings.push(Finding { key: key.to_owned(), text, hint: hint.to_owned() });
    };
    if let Some(found) = too_many(recipe) {
        find("the recipe/models", found, "merge fewer models at a time");
        return findings;
    }
    inputs(recipe, &mut find);
    if recipe.darwin.t.is_some() {
        validate_shares::blend(recipe, &mut find);
    } else if recipe.darwin.density.is_some() {
        let text = "`darwin.density` is given without `darwin.t`".to_owned();
        find("`darwin`/density", text, "give each model its `density` under `parameters`");
    }
    if recipe.darwin.align.is_some() && matches!(recipe.inputs, Inputs::Slices(_)) {
        let text = "`darwin.align` is given with `slices`".to_owned();
        find(
            "`darwin`/align",
            text,
            "layers that slices put together need not correspond: write `models`",
        );
    }
    super::regmean::validate(recipe, &mut find);
    let rules = !recipe.darwin.router.is_empty() || !recipe.darwin.copy.is_empty();
    if rules && (recipe.father().is_none() || recipe.mother().is_none()) {
        let text = "`darwin.router` and `darwin.copy` need two parents".to_owned();
        find("the recipe/darwin", text, "write `father:` and `mother:` under `darwin`");
    }
    base(recipe, &mut find);
    let models: BTreeSet<&str> = recipe.models().into_iter().collect();
    for model in recipe.tokenizer.iter().flat_map(|tokenizer| tokenizer.models()) {
        if !models.contains(model) {
            let key = "the recipe/tokenizer_source";
            let text = format!("`{model}` gives tokens and is no model of the merge");
            find(key, text, "name one of the models, `base` or `union`");
        }
    }
    if findings.is_empty() {
        missing::parameters(recipe, &mut findings);
    }
    recipe.notes.extend(notes(recipe));
    recipe.notes.extend(cancelled(recipe));
    findings
}

/// The most models of a recipe, and of a slice.
const MAX_MODELS: usize = 1000;

fn too_many(recipe: &Recipe) -> Option<String> {
    let (found, most): (BTreeSet<&str>, usize) = match &recipe.inputs {
        Inputs::Models(entries) => {
            (entries.iter().map(|entry| entry.model.as_str()).collect(), entries.len())
        }
        Inputs::Slices(slices) => {
            let sources = slices.iter().flat_map(|slice| &slice.sources);
            let bases = slices.iter().filter_map(|slice| slice.base.as_deref());
            let models = sources.map(|source| source.model.as_str()).chain(bases).collect();
            (models, slices.iter().map(|slice| slice.sources.len()).max().unwrap_or(0))
        }
    };
    let found = found.len().max(most);
    (found > MAX_MODELS).then(|| format!("{found} models are named, allowed are {MAX_MODELS}"))
}

fn inputs(recipe: &Recipe, find: &mut impl FnMut(&str, String, &str)) {
    match &recipe.inputs {
        Inputs::Models(entries) => {
            if entries.is_empty() {
                find("the recipe/models", "`models` is empty".to_owned(), "name a model");
            }
            let names: Vec<&str> = entries.iter().map(|e| e.model.as_str()).collect();
            twice(&names, "models", find);
            count(recipe, recipe.base.as_deref(), &names, "the recipe/models", find);
            for entry in entries {
                own(recipe, &entry.model, &entry.parameters, "the recipe/models", find);
            }
        }
        Inputs::Slices(slices) => {
            if slices.is_empty() {
                find("the recipe/slices", "`slices` is empty".to_owned(), "name a slice");
            } else if slices.iter().all(|s| s.sources.iter().all(|s| s.layers.is_empty())) {
                let text = "no slice has a layer".to_owned();
                find("the recipe/slices", text, "write `layer_range: [FIRST, END]`");
            }
            for (i, slice) in slices.iter().enumerate() {
                self::slice(recipe, slice, i, find);
            }
        }
    }
}

fn slice(recipe: &Recipe, slice: &Slice, i: usize, find: &mut impl FnMut(&str, String, &str)) {
    let key = format!("slices/{i}");
    let names: Vec<&str> = slice.sources.iter().map(|s| s.model.as_str()).collect();
    if names.is_empty() {
        find(&key, format!("slice {i} has no sources"), "name a model and its `layer_range`");
        return;
    }
    twice(&names, &key, find);
    let base = slice.base.as_deref().or(recipe.base.as_deref());
    count(recipe, base.filter(|base| names.contains(base)), &names, &key, find);
    for source in &slice.sources {
        own(recipe, &source.model, &source.parameters, &key, find);
    }
    let lengths: Vec<usize> = slice.sources.iter().map(|s| s.layers.len()).collect();
    if lengths.windows(2).any(|pair| pair[0] != pair[1]) {
        let text = format!("the sources of slice {i} have {lengths:?} layers");
        find(&key, text, "give all sources equally many layers");
    }
    if let Some(base) = base.filter(|base| needs_base(recipe) && !names.contains(base)) {
        let text = format!("the base `{base}` is not among the sources of slice {i}");
        find(&key, text, "name it in every slice, or give the slice a `base_model` of its own");
    }
}

fn needs_base(recipe: &Recipe) -> bool {
    let shares = recipe.method.kind == Kind::Slerp && recipe.darwin.t.is_some();
    recipe.method.needs_base() && !shares
}

/// `key` and a position are the path of an entry.
fn twice(names: &[&str], key: &str, find: &mut impl FnMut(&str, String, &str)) {
    for (i, name) in names.iter().enumerate() {
        if names[..i].contains(name) {
            let text = format!("the model `{name}` comes twice");
            find(&format!("{key}/{i}"), text, "name each model once");
        }
    }
}

/// How many models a method takes (mergekit 0.1.5, `merge_methods/registry.py`).
fn count(
    recipe: &Recipe,
    base: Option<&str>,
    names: &[&str],
    key: &str,
    find: &mut impl FnMut(&str, String, &str),
) {
    let method = recipe.method;
    let extra = base.filter(|base| !names.contains(base));
    let found = names.len() + usize::from(extra.is_some());
    let models = names.iter().filter(|name| Some(**name) != base).count();
    let (wanted, fits) = match method.kind {
        Kind::Passthrough => ("one model", names.len() == 1),
        Kind::Slerp if recipe.darwin.t.is_none() => ("two models, the base among them", found == 2),
        Kind::Formula(Rule::NearSwap | Rule::Fusion) => ("one model and the base", models == 1),
        Kind::Formula(Rule::ModelStock) => ("two models or more and the base", models >= 2),
        Kind::Formula(Rule::Nuslerp) => ("two models, a base apart", models == 2),
        Kind::Formula(Rule::Multislerp | Rule::Ram | Rule::RamPlus | Rule::Sce) => {
            ("a model or more, a base apart", models >= 1)
        }
        _ => return,
    };
    if !fits {
        let text = format!("`{}` takes {wanted}, found are {found}", method.name);
        find(key, text, "add or remove models");
    }
}

/// What one model gives as its own must not be what all share: one name can be either, by method.
fn own(
    recipe: &Recipe,
    model: &str,
    parameters: &Parameters,
    key: &str,
    find: &mut impl FnMut(&str, String, &str),
) {
    let method = recipe.method;
    for name in parameters.0.keys() {
        if method.parameter(name).is_some_and(|parameter| !parameter.per_model) {
            let text = format!("`{name}` of `{model}`: with `{}` all models share it", method.name);
            find(key, text, "move it to the recipe's own `parameters`");
        }
    }
}

fn base(recipe: &Recipe, find: &mut impl FnMut(&str, String, &str)) {
    let method = recipe.method;
    let slices_have_it = matches!(&recipe.inputs, Inputs::Slices(slices)
        if slices.iter().all(|slice| slice.base.is_some()));
    if recipe.base.is_none() && needs_base(recipe) && !slices_have_it {
        let text = format!("`{}` needs a `base_model`", method.name);
        find("the recipe/merge_method", text, "write `base_model:` and the common ancestor");
    }
}

/// One task vector divided by its own weight: the weight has no effect (method 3.4). Recipes of
/// mergekit's say so by default, so it is no error.
fn cancelled(recipe: &Recipe) -> Option<String> {
    let (Inputs::Models(entries), Some(base)) = (&recipe.inputs, &recipe.base) else { return None };
    if !recipe.method.uses_task_vectors() || recipe.darwin.t.is_some() {
        return None;
    }
    let others: Vec<_> = entries.iter().filter(|entry| entry.model != *base).collect();
    let [other] = others[..] else { return None };
    let normalize = recipe.parameters.find("normalize", "").map(|value| value.at(0.0));
    let default = recipe.method.parameter("normalize").and_then(|p| p.default);
    (normalize.or(default) == Some(1.0)).then(|| {
        format!(
            "with `normalize: true` and one task vector, of `{}`, its weight cancels exactly; \
             `normalize: false` makes it count",
            other.model
        )
    })
}

pub(super) fn scopes(recipe: &Recipe) -> Vec<&Parameters> {
    let mut scopes = vec![&recipe.parameters];
    match &recipe.inputs {
        Inputs::Models(entries) => scopes.extend(entries.iter().map(|e| &e.parameters)),
        Inputs::Slices(slices) => {
            for slice in slices {
                scopes.push(&slice.parameters);
                scopes.extend(slice.sources.iter().map(|s| &s.parameters));
            }
        }
    }
    scopes
}

fn notes(recipe: &Recipe) -> Vec<String> {
    let mut names: Vec<&str> =
        scopes(recipe).into_iter().flat_map(|scope| scope.0.keys().map(String::as_str)).collect();
    names.sort_unstable();
    names.dedup();
    let method = recipe.method;
    let unused = names.into_iter().filter(|name| method.parameter(name).is_none());
    unused
        .map(|name| format!("the parameter `{name}` has no effect with `{}`", method.name))
        .collect()
}
