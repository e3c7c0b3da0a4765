//! The shares of a recipe, for people.

use super::{GroupShares, Recipe, Shares};
use darwin_checkpoint::{part_of, role_of};
use darwin_core::{LayerIdx, Part, Share};
use std::collections::BTreeMap;

/// How shares are spread.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spread {
    pub(crate) mean: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
    pub(crate) count: usize,
}

impl Spread {
    /// Of at least one share.
    pub(crate) fn of(shares: impl Iterator<Item = f64>) -> Option<Self> {
        let first = Self { mean: 0.0, min: f64::INFINITY, max: f64::NEG_INFINITY, count: 0 };
        let spread = shares.fold(first, |s, t| Self {
            mean: s.mean + t,
            min: s.min.min(t),
            max: s.max.max(t),
            count: s.count + 1,
        });
        (spread.count > 0).then(|| Self { mean: spread.mean / spread.count as f64, ..spread })
    }

    fn text(self) -> String {
        let Self { mean, min, max, count } = self;
        if count == 1 {
            return format!("{mean:.3}");
        }
        format!("{mean:.3} ({min:.3} to {max:.3}, {count} shares)")
    }
}

impl Recipe {
    /// Shares by rule, the coarsest first; groups as a table of layers and parts.
    pub(super) fn describe_shares(&self, shares: &Shares, line: &mut impl FnMut(&str, String)) {
        let (father, mother) = (self.father().unwrap_or("?"), self.mother().unwrap_or("?"));
        let t = shares.default.get();
        line("blend", format!("{father} + {mother}, share of the mother {t}"));
        if let Some(scale) = shares.scale {
            line("scale", format!("{scale} times both task vectors"));
        }
        if !shares.components.is_empty() {
            line("components", components(shares.components.iter().map(|(s, t)| (s.name(), *t))));
        }
        for entry in &shares.layers {
            let mut parts: Vec<String> = entry.t.iter().map(|t| format!("t {}", t.get())).collect();
            if !entry.components.is_empty() {
                parts.push(components(entry.components.iter().map(|(s, t)| (s.name(), *t))));
            }
            parts.extend(
                entry.experts.iter().map(|of| format!("experts {} {}", of.experts, of.t.get())),
            );
            if let Some(density) = entry.density {
                let (father, mother) = (density.father.get(), density.mother.get());
                parts.push(format!("density father {father}, mother {mother}"));
            }
            line(&format!("  layers {}", entry.layers), parts.join("; "));
        }
        if let Some(groups) = &shares.groups {
            describe_groups(groups, line);
        }
    }
}

fn components<'n>(shares: impl Iterator<Item = (&'n str, Share)>) -> String {
    shares.map(|(name, t)| format!("{name} {}", t.get())).collect::<Vec<_>>().join(", ")
}

/// A line for each layer and for what lies outside the layers, in it the mean, least and most share
/// of each part.
fn describe_groups(groups: &GroupShares, line: &mut impl FnMut(&str, String)) {
    let mut table: BTreeMap<Option<LayerIdx>, BTreeMap<Option<Part>, Vec<f64>>> = BTreeMap::new();
    for (tensor, shares) in groups.iter() {
        let (role, layer) = role_of(tensor);
        let cell = table.entry(layer).or_default().entry(part_of(role, tensor)).or_default();
        cell.extend(shares.iter().map(|t| t.get()));
    }
    let tensors = groups.len();
    let (shares, tensors) = (counted(groups.count(), "share"), counted(tensors, "tensor"));
    line("groups", format!("{shares} for {tensors}; mean (least to most) by part"));
    for (layer, parts) in table {
        let what = layer.map_or("  outside".to_owned(), |layer| format!("  layer {layer}"));
        let cells = parts.into_iter().filter_map(|(part, shares)| {
            let spread = Spread::of(shares.into_iter())?;
            Some(format!("{} {}", part.map_or("other", Part::name), spread.text()))
        });
        line(&what, cells.collect::<Vec<_>>().join("; "));
    }
}

fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}
