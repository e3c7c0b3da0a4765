//! Expert correspondence (method 1.5): before models are merged with `darwin: {align: experts}`,
//! the routed experts of each are put into the order of the structural parent's.
//!
//! In each MoE block (MTP's included) the experts of a model are assigned to those of the parent
//! so that the sum of similarities is largest. The similarity of two experts is the cosine of
//! their router rows plus the mean cosine of their weights. An expert of up to 8,192 elements a
//! tensor enters whole; of a larger one, whole rows that a fixed key chooses, the same of every
//! expert. Where no assignment is better than the order as it is, the order stays.

mod aligned;
mod blocks;
mod similarity;

use crate::plan::Plan;
use crate::recipe::Align;
use crate::sources::{Source, Sources};
use crate::{Error, Recipe};
use aligned::Aligned;
pub(crate) use blocks::block_of;
use blocks::blocks;
use darwin_checkpoint::{Problem, TensorSource};
use darwin_core::stats::assignment;
use similarity::similarities;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Total similarity that another order must win by, an expert: below it is rounding.
const NOTHING_WON: f64 = 1e-9;

/// How the experts of a model stand to those of another.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Alignment {
    /// For each block whose order changes, whose expert stands where the parent's `i`-th does.
    moved: BTreeMap<String, Vec<usize>>,
    /// How many blocks were looked at.
    blocks: usize,
    /// Bytes of weights that were read.
    bytes: u64,
}

/// What was found for pairs of open models, so that a search aligns once.
#[derive(Default)]
pub(crate) struct Alignments {
    found: Mutex<BTreeMap<(String, String), Arc<Alignment>>>,
}

impl Alignments {
    fn get(&self, parent: &Source, model: &Source) -> Result<Arc<Alignment>, Error> {
        let key = (parent.model.clone(), model.model.clone());
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = found.get(&key) {
            return Ok(Arc::clone(known));
        }
        let alignment = Arc::new(alignment(parent, model)?);
        found.insert(key, Arc::clone(&alignment));
        Ok(alignment)
    }
}

/// The sources with their experts in the structural parent's order, where the recipe asks for it;
/// the plan says what moved.
///
/// # Errors
/// [`Error::Plan`] where models have different numbers of experts; whatever reading them brings.
pub(crate) fn align(
    recipe: &Recipe,
    sources: &Sources,
    plan: &mut Plan,
) -> Result<Vec<Source>, Error> {
    let mut list = sources.list.clone();
    let Some(Align::Experts) = recipe.darwin.align else { return Ok(list) };
    let Some(parent) = sources.position(recipe.structure()) else { return Ok(list) };
    let models: Vec<usize> = recipe
        .models()
        .iter()
        .filter_map(|model| sources.position(model))
        .filter(|at| *at != parent)
        .collect();
    let parent = &sources.list[parent];
    let problems: Vec<Problem> =
        models.iter().flat_map(|at| counts(parent, &sources.list[*at])).collect();
    if !problems.is_empty() {
        return Err(Error::Plan(problems));
    }
    for at in models {
        let model = &sources.list[at];
        let alignment = sources.alignments.get(parent, model)?;
        alignment.note(parent, model, plan);
        if !alignment.moved.is_empty() {
            let aligned = Aligned::new(Arc::clone(&model.tensors), &alignment.moved);
            list[at].tensors = Arc::new(aligned) as Arc<dyn TensorSource>;
        }
    }
    Ok(list)
}

/// Blocks in which two models have different numbers of experts.
fn counts(parent: &Source, model: &Source) -> Vec<Problem> {
    let of_model = blocks(model.tensors.manifest());
    let both = blocks(parent.tensors.manifest()).into_iter().filter_map(|(prefix, block)| {
        let other = of_model.get(&prefix)?.experts;
        (other != block.experts).then_some((prefix, block.experts, other))
    });
    both.map(|(prefix, wanted, found)| {
        Problem::new(
            format!(
                "`{prefix}` has {found} experts in `{}` and {wanted} in `{}`, so that they cannot \
                 be aligned",
                model.model, parent.model
            ),
            "merge models with equally many experts",
        )
    })
    .collect()
}

fn alignment(parent: &Source, model: &Source) -> Result<Alignment, Error> {
    let of_model = blocks(model.tensors.manifest());
    let mut alignment = Alignment::default();
    for (prefix, block) in blocks(parent.tensors.manifest()) {
        let Some(other) = of_model.get(&prefix) else { continue };
        alignment.blocks += 1;
        let (similar, bytes) = similarities([(parent, &block), (model, other)], &prefix)?;
        alignment.bytes += bytes;
        if let Some(order) = order(&similar) {
            alignment.moved.insert(prefix, order);
        }
    }
    Ok(alignment)
}

/// The assignment of greatest total similarity; `None` where the identity is as good.
fn order(similar: &[Vec<f64>]) -> Option<Vec<usize>> {
    let cost: Vec<Vec<f64>> =
        similar.iter().map(|row| row.iter().map(|value| -value).collect()).collect();
    let order = assignment(&cost)?;
    let total = |column: &dyn Fn(usize) -> usize| -> f64 {
        (0..order.len()).map(|i| similar[i][column(i)]).sum()
    };
    let won = total(&|i| order[i]) - total(&|i| i);
    (won > NOTHING_WON * order.len() as f64).then_some(order)
}

impl Alignment {
    /// Says in the plan what moved.
    fn note(&self, parent: &Source, model: &Source, plan: &mut Plan) {
        let (parent, model) = (&parent.model, &model.model);
        let read = crate::plan::size(self.bytes);
        if self.blocks == 0 {
            plan.notes
                .push(format!("align: `{model}` and `{parent}` have no routed experts in common"));
        } else if self.moved.is_empty() {
            plan.notes.push(format!(
                "align: the experts of `{model}` correspond to those of `{parent}` already ({read} \
                 of weights were read to find out)"
            ));
        } else {
            plan.notes.push(format!(
                "align: experts of `{model}` are moved in {} of {} blocks to correspond to those \
                 of `{parent}` ({read} of weights were read to find out)",
                self.moved.len(),
                self.blocks
            ));
        }
        for (prefix, order) in &self.moved {
            let moved = order.iter().enumerate().filter(|(i, j)| i != *j).count();
            let text = format!("{moved} of {} experts of `{model}` moved", order.len());
            plan.notes.push(format!("align: {prefix}: {text}"));
            for line in plan.lines.iter_mut().filter(|line| {
                block_of(&line.info.name) == Some(prefix.as_str())
                    && line.record.sources.iter().any(|source| source.model == *model)
            }) {
                line.record.reason.push_str("; ");
                line.record.reason.push_str(&text);
            }
        }
        if !self.moved.is_empty() {
            plan.aligned.insert(model.clone(), self.moved.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_experts_stay_where_they_are() {
        let same = vec![vec![1.0; 3]; 3];
        assert_eq!(order(&same), None);
        let swapped = vec![vec![0.1, 0.9, 0.0], vec![0.9, 0.1, 0.0], vec![0.0, 0.0, 1.0]];
        assert_eq!(order(&swapped), Some(vec![1, 0, 2]));
    }
}
