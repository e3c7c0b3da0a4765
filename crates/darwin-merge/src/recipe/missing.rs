//! Parameters without a default that no level gives (mergekit 0.1.5, `config.py`).

use super::validate::Finding;
use super::{Inputs, Parameters, Recipe};

/// A finding for each model, or for the merge, that can only fail later. Parameters that filters
/// give to some tensors are seen when the tensors are known.
pub(super) fn parameters(recipe: &Recipe, findings: &mut Vec<Finding>) {
    if recipe.darwin.t.is_some() {
        return;
    }
    let none = Parameters::new();
    match &recipe.inputs {
        Inputs::Models(entries) => {
            for (i, entry) in entries.iter().enumerate() {
                let levels = [&entry.parameters, &recipe.parameters];
                let base = recipe.base.as_ref() == Some(&entry.model);
                own(recipe, &entry.model, base, &levels, &format!("models/{i}"), findings);
            }
            let named = |base: &str| entries.iter().any(|entry| entry.model == base);
            if let Some(base) = recipe.base.as_deref().filter(|base| !named(base)) {
                let levels = [&none, &recipe.parameters];
                own(recipe, base, true, &levels, "the recipe/base_model", findings);
            }
            shared(recipe, &[&recipe.parameters], "the recipe/merge_method", findings);
        }
        Inputs::Slices(slices) => {
            for (i, slice) in slices.iter().enumerate() {
                let base = slice.base.as_ref().or(recipe.base.as_ref());
                for (j, source) in slice.sources.iter().enumerate() {
                    let levels = [&source.parameters, &slice.parameters, &recipe.parameters];
                    let base = base == Some(&source.model);
                    own(recipe, &source.model, base, &levels, &format!("slices/{i}/{j}"), findings);
                }
                let levels = [&slice.parameters, &recipe.parameters];
                shared(recipe, &levels, &format!("slices/{i}"), findings);
            }
        }
    }
}

fn absent<'r>(
    recipe: &'r Recipe,
    per_model: bool,
    levels: &'r [&Parameters],
) -> impl Iterator<Item = &'static str> + 'r {
    let needed = recipe.method.parameters.iter();
    let needed = needed.filter(move |p| p.default.is_none() && p.per_model == per_model);
    needed
        .map(|p| p.name)
        .filter(move |name| levels.iter().all(|level| !level.0.contains_key(*name)))
}

fn own(
    recipe: &Recipe,
    model: &str,
    base: bool,
    levels: &[&Parameters],
    key: &str,
    findings: &mut Vec<Finding>,
) {
    if base && !recipe.method.weighs_base() {
        return;
    }
    for name in absent(recipe, true, levels) {
        findings.push(Finding {
            key: key.to_owned(),
            text: format!("the parameter `{name}` of `{model}` is missing"),
            hint: format!("write `{name}:` under its `parameters`, or under the recipe's"),
        });
    }
}

fn shared(recipe: &Recipe, levels: &[&Parameters], key: &str, findings: &mut Vec<Finding>) {
    for name in absent(recipe, false, levels) {
        findings.push(Finding {
            key: key.to_owned(),
            text: format!("the parameter `{name}` of `{}` is missing", recipe.method.name),
            hint: format!("write `{name}:` under `parameters`"),
        });
    }
}
