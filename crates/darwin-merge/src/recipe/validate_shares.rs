//! What `darwin.t` must hold together with method, base and parents.

use super::groups::{MAX_SHARES, too_many};
use super::parse_shares::MAX_SCALE;
use super::validate::scopes;
use super::{Blocks, Inputs, Recipe, Shares};
use crate::methods::{Kind, Sparsifier};
use darwin_core::Share;

/// A blend by shares (method 3.1).
pub(super) fn blend(recipe: &Recipe, find: &mut impl FnMut(&str, String, &str)) {
    let method = recipe.method;
    if !method.takes_shares() {
        let text = format!("`darwin.t` blends two parents by shares, `{}` does not", method.name);
        find("`darwin`/t", text, "choose linear, slerp or dare_ties");
    }
    let parents = (recipe.father(), recipe.mother());
    match (&recipe.inputs, parents) {
        (Inputs::Slices(_), _) => {
            let text = "`darwin.t` does not apply to `slices`".to_owned();
            find("`darwin`/t", text, "use `models`");
        }
        (Inputs::Models(entries), (Some(father), Some(mother))) => {
            if father == mother {
                let text = format!("father and mother are both `{father}`");
                find("`darwin`/t", text, "name two models");
            }
            let others = entries.iter().map(|e| e.model.as_str());
            let base = recipe.base.as_deref();
            for other in others.filter(|m| ![Some(father), Some(mother), base].contains(&Some(m))) {
                let text = format!("`{other}` is neither father nor mother of `darwin.t`");
                find("the recipe/models", text, "blend two parents, or give weights instead");
            }
        }
        _ => {
            let text = "`darwin.t` needs two parents".to_owned();
            find("`darwin`/t", text, "write `father:` and `mother:` under `darwin`");
        }
    }
    for name in ["weight", "t", "density", "normalize"] {
        if scopes(recipe).iter().any(|scope| scope.0.contains_key(name)) {
            let text = format!("both `darwin.t` and the parameter `{name}` are given");
            let hint = "`darwin.t` sets weights 1 - t and t, not normalised; remove the parameter";
            find("`darwin`/t", text, hint);
        }
    }
    let thins = matches!(method.kind, Kind::TaskVectors { sparsifier, .. } if sparsifier != Sparsifier::None);
    let blocks = recipe.darwin.t.iter().flat_map(|t| &t.layers);
    let given = recipe.darwin.density.is_some() || blocks.into_iter().any(|b| b.density.is_some());
    if given && !thins {
        let text = format!("`darwin.density` has no effect with `{}`", method.name);
        find("`darwin`/density", text, "choose dare_ties, dare_linear or ties, or remove it");
    }
    if let Some(t) = &recipe.darwin.t {
        ranges(recipe, t, find);
        groups(t, find);
        scale(recipe, t, find);
    }
}

/// Where shares beyond the parents have no meaning.
fn ranges(recipe: &Recipe, t: &Shares, find: &mut impl FnMut(&str, String, &str)) {
    let Some(beyond) = t.all().find(|t| !t.is_between()).map(Share::get) else { return };
    if recipe.method.kind == Kind::Slerp {
        let text = format!("a share is {beyond}, `slerp` takes shares from 0 to 1");
        find("`darwin`/t", text, "stay on the arc between the parents, or choose linear");
    }
    if t.blocks == Blocks::Compose {
        let text = format!("a share is {beyond}, `blocks: compose` takes shares from 0 to 1");
        find("`darwin`/t", text, "others have no logits to be added: write `blocks: override`");
    }
}

fn groups(t: &Shares, find: &mut impl FnMut(&str, String, &str)) {
    let Some(groups) = &t.groups else { return };
    if let Some((tensor, _)) = groups.iter().find(|(_, shares)| shares.is_empty()) {
        let text = format!("`darwin.t.groups` has no share for `{tensor}`");
        find("`darwin.t`/groups", text, "give one share, or one for each expert");
    }
    if groups.count() > MAX_SHARES {
        let found = too_many("`darwin.t.groups`", groups.count());
        find("`darwin.t`/groups", found.text, &found.hint);
    }
}

/// A factor of both task vectors means something where there are two.
fn scale(recipe: &Recipe, t: &Shares, find: &mut impl FnMut(&str, String, &str)) {
    let Some(scale) = t.scale else { return };
    let key = "`darwin.t`/scale";
    if !(0.0..=MAX_SCALE).contains(&scale) {
        let text = format!("`scale` is {scale}, allowed is a number from 0 to 10");
        find(key, text, "1 adds the task vectors as they are");
    }
    if !recipe.method.uses_task_vectors() {
        let text = format!("`darwin.t.scale` has no effect with `{}`", recipe.method.name);
        let hint = "it is a factor of task vectors: choose task_arithmetic, ties or dare_ties";
        find(key, text, hint);
    } else if let Some(base) = recipe.base.as_deref()
        && [recipe.father(), recipe.mother()].contains(&Some(base))
    {
        let text = format!("`darwin.t.scale` with the base `{base}`, which is a parent");
        let hint = "that parent's task vector is 0, so that the scale would be another share: name \
                    the common ancestor as `base_model`, or remove `scale`";
        find(key, text, hint);
    }
}
