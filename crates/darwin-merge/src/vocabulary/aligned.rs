//! The models with their vocabularies in the child's order.

use super::rows::{Owner, RowMap, Wanted};
use super::tokenizer::Tokenizer;
use super::{Part, view};
use crate::numerics::promoted;
use crate::recipe::Tokenizer as Block;
use crate::{Numerics, Recipe, Sources};
use darwin_checkpoint::{Dtype, Problem, TensorId, TensorSource};
use darwin_core::hash::sha256_hex;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

/// Everything that the models' new rows depend on.
pub(super) struct Views<'a> {
    pub(super) recipe: &'a Recipe,
    pub(super) block: &'a Block,
    pub(super) parts: &'a [Part<'a>],
    pub(super) giver: usize,
    pub(super) child: &'a Tokenizer,
    pub(super) size: usize,
}

impl Views<'_> {
    /// The models with their vocabularies in the child's order, and a hash of what was done.
    pub(super) fn apply(
        &self,
        sources: &Sources,
        notes: &mut Vec<String>,
        problems: &mut Vec<Problem>,
    ) -> Option<(Sources, String)> {
        let names: BTreeSet<&str> = self.parts.iter().flat_map(Self::names).collect();
        let before = problems.len();
        let mut missing = BTreeSet::new();
        let mut maps: BTreeMap<Vec<usize>, Arc<RowMap>> = BTreeMap::new();
        let mut tensors: Vec<BTreeMap<usize, view::Rows>> =
            self.parts.iter().map(|_| BTreeMap::new()).collect();
        for name in names {
            let of = |part: &Part<'_>| {
                let id = part.source.tensors.manifest().find(name)?;
                part.tensors.contains(&id).then_some(id)
            };
            let found: Vec<(usize, TensorId)> =
                self.parts.iter().enumerate().filter_map(|(at, p)| Some((at, of(p)?))).collect();
            let owners: Vec<usize> = found.iter().map(|(at, _)| *at).collect();
            let map = maps
                .entry(owners)
                .or_insert_with_key(|owners| Arc::new(self.map(owners, &mut missing, problems)));
            let readers: Vec<(Arc<dyn TensorSource>, TensorId)> = found
                .iter()
                .map(|(at, id)| (Arc::clone(&self.parts[*at].source.tensors), *id))
                .collect();
            let (steps, owners) = (self.steps(&readers), Arc::new(readers));
            for (model, (at, id)) in found.into_iter().enumerate() {
                let rows = view::Rows {
                    map: Arc::clone(map),
                    model,
                    owners: Arc::clone(&owners),
                    steps,
                    mean: Mutex::default(),
                };
                tensors[at].insert(id.index(), rows);
            }
        }
        if !missing.is_empty() {
            notes.push(unowned(&missing));
        }
        if problems.len() > before {
            return None;
        }
        let mut aligned = Sources { list: sources.list.clone(), ..Sources::default() };
        for (part, tensors) in self.parts.iter().zip(tensors) {
            let inner = Arc::clone(&part.source.tensors);
            aligned.list[part.at].tensors = Arc::new(view::View::new(inner, tensors)?);
        }
        Some((aligned, sha256_hex(format!("{:?}", maps).as_bytes())))
    }

    fn names<'p>(part: &'p Part<'_>) -> impl Iterator<Item = &'p str> {
        let manifest = part.source.tensors.manifest();
        part.tensors.iter().map(|id| manifest.get(*id).name.as_str())
    }

    fn map(
        &self,
        owners: &[usize],
        missing: &mut BTreeSet<String>,
        problems: &mut Vec<Problem>,
    ) -> RowMap {
        let giver = self.parts[self.giver].tokenizer.as_ref().unwrap_or(self.child);
        let listed: Vec<Owner<'_>> = owners
            .iter()
            .map(|at| {
                let part = &self.parts[*at];
                let tokenizer = part.tokenizer.as_ref().unwrap_or(giver);
                Owner { model: part.name(), tokenizer, rows: part.rows }
            })
            .collect();
        let place = |model: &str| owners.iter().position(|at| self.parts[*at].name() == model);
        let wanted = Wanted {
            tokens: &self.child.tokens,
            rules: &self.block.tokens,
            size: self.size,
            base: self.recipe.base().and_then(place),
            padding: place(self.parts[self.giver].name())
                .filter(|_| self.block.pad_to_multiple_of.is_none()),
        };
        wanted.map(&listed, missing, problems)
    }

    /// What mergekit rounds computed rows to.
    fn steps(&self, owners: &[(Arc<dyn TensorSource>, TensorId)]) -> Option<Dtype> {
        let stored = owners.iter().map(|(source, id)| source.manifest().get(*id).dtype);
        match self.recipe.numerics() {
            Numerics::Native => None,
            Numerics::Mergekit => self.recipe.dtype.or_else(|| stored.reduce(promoted)),
        }
    }
}

/// Tokens that no model has.
fn unowned(missing: &BTreeSet<String>) -> String {
    let shown: Vec<String> = missing.iter().take(3).map(|token| format!("`{token}`")).collect();
    let more = if missing.len() > 3 { " and others" } else { "" };
    format!("no model has the tokens {}{more}: their rows are zero", shown.join(", "))
}
