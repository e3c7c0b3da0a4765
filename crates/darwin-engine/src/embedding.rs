//! Embeddings of many batches by the rows that they need.

use crate::{Batch, Config, Error, State};
use darwin_checkpoint::{TensorPlan, TensorSource};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Calls `each` with every batch before the first layer. A row of the embedding is read once; where
/// the rows of all batches take more than `room` bytes, the rarest once for each batch.
pub(crate) fn embed(
    source: &dyn TensorSource,
    config: &Config,
    batches: &[Batch],
    room: u64,
    each: &mut dyn FnMut(State) -> Result<(), Error>,
) -> Result<(), Error> {
    batches.iter().try_for_each(|batch| config.check_batch(batch))?;
    let name = "embed_tokens.weight";
    let id = source.manifest().find(name).ok_or_else(|| {
        let (model, tensor) = (source.name().to_owned(), name.to_owned());
        darwin_checkpoint::Error::MissingTensor { model, tensor }
    })?;
    let (plan, width) = (source.prepare(id)?, config.hidden_size);
    let often = frequent(batches, room / (4 * width as u64));
    let often = Table::read(source, &plan, often)?;
    for batch in batches {
        let ids = || batch.sequences().iter().flat_map(|s| s.ids.iter().copied());
        let mut others: Vec<u32> = ids().filter(|id| often.row(*id).is_none()).collect();
        others.sort_unstable();
        others.dedup();
        let others = Table::read(source, &plan, others)?;
        let mut hidden = Vec::with_capacity(batch.tokens() * width);
        for id in ids() {
            let row = often.row(id).or_else(|| others.row(id));
            hidden.extend_from_slice(row.expect("every id is in one of the tables"));
        }
        each(State::new(hidden, Arc::new(batch.clone())))?;
    }
    Ok(())
}

/// The ids that come most often, at most `most`, in rising order.
fn frequent(batches: &[Batch], most: u64) -> Vec<u32> {
    let mut counts: BTreeMap<u32, u64> = BTreeMap::new();
    let sequences = batches.iter().flat_map(Batch::sequences);
    sequences.flat_map(|s| &s.ids).for_each(|id| *counts.entry(*id).or_default() += 1);
    let mut ids: Vec<u32> = counts.keys().copied().collect();
    if ids.len() as u64 > most {
        ids.sort_by_key(|id| (std::cmp::Reverse(counts[id]), *id));
        ids.truncate(most as usize);
        ids.sort_unstable();
    }
    ids
}

/// Some rows.
pub(crate) struct Table {
    /// In rising order.
    ids: Vec<u32>,
    /// (ids, width)
    rows: Vec<f32>,
    width: usize,
}

impl Table {
    pub(crate) fn read(
        source: &dyn TensorSource,
        plan: &TensorPlan,
        ids: Vec<u32>,
    ) -> Result<Self, Error> {
        let width = plan.cols;
        let mut rows = vec![0.0; ids.len() * width];
        let mut rest = rows.as_mut_slice();
        for run in ids.chunk_by(|a, b| a + 1 == *b) {
            let (now, later) = rest.split_at_mut(run.len() * width);
            let first = run[0] as usize;
            source.read_tile(plan, first..first + run.len(), now)?;
            rest = later;
        }
        Ok(Self { ids, rows, width })
    }

    pub(crate) fn row(&self, id: u32) -> Option<&[f32]> {
        let at = self.ids.binary_search(&id).ok()?;
        Some(&self.rows[at * self.width..(at + 1) * self.width])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Model, Sequence};
    use darwin_checkpoint::Tapped;
    use darwin_testkit::tiny_qwen35;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn embeddings_are_the_models_whatever_the_room() {
        let source = tiny_qwen35(1);
        let model = Model::load(&source).unwrap();
        let of = |n: u32| (0..n).map(|i| i * i % 40 + n % 3).collect();
        let batches: Vec<Batch> = (1..6)
            .map(|n| Batch::new(vec![Sequence::new(of(n * 7)), Sequence::new(of(n))]))
            .collect();
        let distinct = frequent(&batches, u64::MAX).len();
        let row = 4 * model.config().hidden_size as u64;
        for room in [0, 3 * row, u64::MAX] {
            let rows = AtomicUsize::new(0);
            let counted = Tapped::new(&source, |_, tile, _| {
                rows.fetch_add(tile.len(), Ordering::Relaxed);
            });
            let mut wanted = batches.iter();
            embed(&counted, model.config(), &batches, room, &mut |state| {
                let batch = wanted.next().unwrap();
                assert_eq!(state.hidden, model.embed(batch).unwrap().hidden);
                assert_eq!(state.batch(), batch);
                Ok(())
            })
            .unwrap();
            assert!(wanted.next().is_none());
            assert_eq!(rows.into_inner() == distinct, room == u64::MAX);
        }
    }
}
