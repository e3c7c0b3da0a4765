//! Runs of output layers that share sources and parameters.

use crate::Recipe;
use crate::recipe::{Inputs, Parameters};
use crate::sources::Source;
use darwin_checkpoint::{Manifest, TensorInfo};
use std::collections::BTreeMap;
use std::ops::Range;

/// A model within a scope.
#[derive(Clone, Debug)]
pub(super) struct ScopeSource<'r> {
    /// Which source.
    pub(super) source: usize,
    /// Its layers.
    pub(super) layers: Range<usize>,
    /// Its own parameters.
    pub(super) parameters: &'r Parameters,
}

/// A run of output layers that share sources and parameters: all layers of `models`, or a slice.
#[derive(Clone, Debug)]
pub(super) struct Scope<'r> {
    pub(super) sources: Vec<ScopeSource<'r>>,
    pub(super) base: Option<usize>,
    pub(super) parameters: &'r Parameters,
}

impl Scope<'_> {
    pub(super) fn len(&self) -> usize {
        self.sources.first().map_or(0, |source| source.layers.len())
    }
}

static NO_PARAMETERS: Parameters = Parameters(BTreeMap::new());

/// The scopes of a recipe, `at` telling a model's source.
pub(super) fn scopes<'r>(
    recipe: &'r Recipe,
    sources: &[Source],
    at: &impl Fn(&str) -> usize,
) -> Vec<Scope<'r>> {
    match &recipe.inputs {
        Inputs::Models(entries) => {
            let mut list: Vec<(&str, &'r Parameters)> =
                entries.iter().map(|e| (e.model.as_str(), &e.parameters)).collect();
            let extra = [recipe.base.as_deref(), recipe.father(), recipe.mother()];
            let blend = recipe.darwin.t.is_some();
            let wanted = if blend { &extra[..] } else { &extra[..1] };
            for model in wanted.iter().flatten() {
                if !list.iter().any(|(other, _)| other == model) {
                    list.push((model, &NO_PARAMETERS));
                }
            }
            let scope_sources = list.into_iter().map(|(model, parameters)| {
                let source = at(model);
                let layers = 0..sources[source].tensors.manifest().num_layers();
                ScopeSource { source, layers, parameters }
            });
            vec![Scope {
                sources: scope_sources.collect(),
                base: recipe.base.as_deref().map(at),
                parameters: &NO_PARAMETERS,
            }]
        }
        Inputs::Slices(slices) => slices
            .iter()
            .map(|slice| Scope {
                sources: slice
                    .sources
                    .iter()
                    .map(|s| ScopeSource {
                        source: at(&s.model),
                        layers: s.layers.clone(),
                        parameters: &s.parameters,
                    })
                    .collect(),
                base: slice.base.as_deref().or(recipe.base.as_deref()).map(at),
                parameters: &slice.parameters,
            })
            .collect(),
    }
}

/// Position of layer `index` of `count` for gradients (mergekit 0.1.5, `config.py`).
pub(super) fn position(index: usize, count: usize) -> f64 {
    if count <= 1 { 1.0 } else { index as f64 / (count - 1) as f64 }
}

/// How many blocks there are of each kind outside the decoder, such as the vision tower's, by what
/// stands before their numbers.
pub(super) struct Blocks<'m>(BTreeMap<&'m str, usize>);

impl<'m> Blocks<'m> {
    pub(super) fn of(manifest: &'m Manifest) -> Self {
        let mut counts = BTreeMap::new();
        for (prefix, index) in manifest.tensors().iter().filter_map(|info| block(&info.name)) {
            let count: &mut usize = counts.entry(prefix).or_default();
            *count = index.saturating_add(1).max(*count);
        }
        Self(counts)
    }

    /// The position of a tensor's block for gradients; 0 for single tensors.
    pub(super) fn position(&self, info: &TensorInfo) -> f64 {
        let Some((prefix, index)) = block(&info.name) else { return 0.0 };
        position(index, self.0.get(prefix).copied().unwrap_or(1))
    }
}

fn block(name: &str) -> Option<(&str, usize)> {
    let mut start = 0;
    for part in name.split('.') {
        if let Ok(index) = part.parse() {
            return Some((&name[..start], index));
        }
        start += part.len() + 1;
    }
    None
}
