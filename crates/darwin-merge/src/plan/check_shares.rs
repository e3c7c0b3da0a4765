//! Whether shares of single tensors and single experts fit the models.

use super::check::Problems;
use super::lower::Target;
use crate::recipe::{GroupShares, Shares, shortened};
use crate::{Numerics, Recipe};
use darwin_checkpoint::{Problem, Role, TensorInfo, canonical_name};
use darwin_core::nearest;
use std::collections::BTreeMap;

/// Names that are looked for among the model's tensors when they are wrong.
const HINTED: usize = 20;

/// Every group is a tensor's, with one share or as many as it takes, and every expert is there.
pub(super) fn shares(
    recipe: &Recipe,
    targets: &[Target<'_>],
    copied: impl Fn(&TensorInfo) -> bool,
    num_layers: usize,
    problems: &mut Problems,
) {
    let Some(shares) = &recipe.darwin.t else { return };
    if let Some(given) = &shares.groups {
        groups(given, targets, copied, problems);
    }
    experts(shares, targets, num_layers, problems);
    let several = shares.groups.iter().flat_map(GroupShares::iter).any(|(_, of)| of.len() > 1);
    let listed = shares.layers.iter().any(|entry| !entry.experts.is_empty());
    if recipe.numerics() == Numerics::Mergekit && (several || listed) {
        problems.push(Problem::new(
            "shares of single experts are not computed in mergekit's numerics, which has none",
            "native numerics has them: write `numerics: native`, or leave it out",
        ));
    }
}

fn groups(
    groups: &GroupShares,
    targets: &[Target<'_>],
    copied: impl Fn(&TensorInfo) -> bool,
    problems: &mut Problems,
) {
    let known: BTreeMap<&str, &TensorInfo> =
        targets.iter().map(|target| (target.info.name.as_str(), &target.info)).collect();
    let mut unknown = 0;
    for (tensor, shares) in groups.iter() {
        let named = shortened(tensor);
        let Some(info) = known.get(tensor) else {
            unknown += 1;
            if unknown > HINTED {
                continue;
            }
            let canonical = canonical_name(tensor);
            let near = match known.contains_key(canonical.as_str()) {
                true => Some(canonical.as_str()),
                false => nearest(&named, known.keys().copied()),
            };
            let hint = match near {
                Some(near) => format!("did you mean `{near}`?"),
                None => "`darwin inspect` lists the tensors, experts fused".to_owned(),
            };
            let text = format!("`darwin.t.groups` names `{named}`, which the child does not have");
            problems.push(Problem::new(text, hint));
            continue;
        };
        if matches!(info.role, Role::Vision | Role::Mtp) {
            problems.push(Problem::new(
                format!("`darwin.t.groups` names `{named}`, which is never blended"),
                "vision and MTP are the structural parent's: remove it",
            ));
        } else if copied(info) {
            problems.push(Problem::new(
                format!("`{named}` has shares in `darwin.t.groups` and is copied by `darwin.copy`"),
                "remove one of the two",
            ));
        } else if shares.len() > 1 && info.shares().map(|(count, _)| count) != Some(shares.len()) {
            let (found, takes) = (shares.len(), info.shares());
            let takes = match takes {
                Some((count, _)) => format!("1 or {count}, one for each expert"),
                None => "1".to_owned(),
            };
            problems.push(Problem::new(
                format!("`darwin.t.groups` gives `{named}` {found} shares, it takes {takes}"),
                "give as many as the tensor takes",
            ));
        }
    }
    if let Some(more) = unknown.checked_sub(HINTED).filter(|more| *more > 0) {
        problems.push(Problem::new(
            format!("`darwin.t.groups` names {more} more tensors that the child does not have"),
            "the shares are of another model",
        ));
    }
}

/// Lists of experts, in the layers that they are for.
fn experts(shares: &Shares, targets: &[Target<'_>], num_layers: usize, problems: &mut Problems) {
    let mut of_layers = BTreeMap::new();
    for info in targets.iter().map(|target| &target.info) {
        if let (Role::RoutedExpert, Some(layer), Some(experts)) =
            (info.role, info.layer, info.experts())
        {
            of_layers.insert(layer, experts);
        }
    }
    for entry in shares.layers.iter().filter(|entry| !entry.experts.is_empty()) {
        let mut inside =
            of_layers.iter().filter(|(layer, _)| entry.layers.contains(**layer, num_layers));
        let Some(first) = inside.next() else {
            problems.push(Problem::new(
                format!(
                    "`darwin.t.layers` lists experts of layers {}, which have none",
                    entry.layers
                ),
                "give these layers a `t`, or `components`",
            ));
            continue;
        };
        let beyond = std::iter::once(first).chain(inside).find_map(|(layer, experts)| {
            let of = |list: &crate::recipe::ExpertShares| list.experts.beyond(*experts);
            Some((layer, experts, entry.experts.iter().find_map(of)?))
        });
        if let Some((layer, experts, position)) = beyond {
            problems.push(Problem::new(
                format!(
                    "`darwin.t.layers` names expert {position} of layer {layer}, which has {experts} \
                     experts"
                ),
                "count experts from 0, or from the back: last, last-1",
            ));
        }
    }
}
