//! A model whose experts stand in another order: the same function, tensor for tensor.

use super::blocks::blocks;
use darwin_checkpoint::{Error, Manifest, TensorId, TensorPlan, TensorSource};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

/// A tensor source whose blocks of experts are read in another order. Everything else, names and
/// shapes included, is the inner source's.
pub(super) struct Aligned {
    inner: Arc<dyn TensorSource>,
    /// For each tensor, whose expert stands where; `None` where nothing moves.
    orders: Vec<Option<Arc<[usize]>>>,
}

impl Aligned {
    pub(super) fn new(inner: Arc<dyn TensorSource>, moved: &BTreeMap<String, Vec<usize>>) -> Self {
        let mut orders = vec![None; inner.manifest().tensors().len()];
        for (prefix, block) in blocks(inner.manifest()) {
            let Some(order) = moved.get(&prefix) else { continue };
            let order: Arc<[usize]> = Arc::from(order.as_slice());
            for id in block.all {
                orders[id.index()] = Some(Arc::clone(&order));
            }
        }
        Self { inner, orders }
    }

    fn order(&self, id: TensorId) -> Option<&[usize]> {
        self.orders[id.index()].as_deref()
    }
}

/// Calls `f` with the inner rows and their offset in the request, a run for each expert.
fn for_experts(
    order: &[usize],
    rows_per_expert: usize,
    rows: &Range<usize>,
    mut f: impl FnMut(Range<usize>, usize) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut start = rows.start;
    while start < rows.end {
        let expert = start / rows_per_expert;
        let end = rows.end.min((expert + 1) * rows_per_expert);
        let inner = order[expert] * rows_per_expert + start % rows_per_expert;
        f(inner..inner + (end - start), start - rows.start)?;
        start = end;
    }
    Ok(())
}

impl TensorSource for Aligned {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn manifest(&self) -> &Manifest {
        self.inner.manifest()
    }

    fn config(&self) -> &serde_json::Value {
        self.inner.config()
    }

    fn prepare(&self, id: TensorId) -> Result<TensorPlan, Error> {
        self.inner.prepare(id)
    }

    fn read_tile(
        &self,
        plan: &TensorPlan,
        rows: Range<usize>,
        out: &mut [f32],
    ) -> Result<(), Error> {
        let Some(order) = self.order(plan.id).filter(|_| !rows.is_empty()) else {
            return self.inner.read_tile(plan, rows, out);
        };
        if self.manifest().get(plan.id).shape.len() == 1 {
            let mut values = vec![0.0; out.len()];
            self.inner.read_tile(plan, rows, &mut values)?;
            out.iter_mut().zip(order).for_each(|(out, from)| *out = values[*from]);
            return Ok(());
        }
        for_experts(order, plan.rows / order.len(), &rows, |inner, at| {
            let out = &mut out[at * plan.cols..(at + inner.len()) * plan.cols];
            self.inner.read_tile(plan, inner, out)
        })
    }

    fn read_bytes(
        &self,
        plan: &TensorPlan,
        rows: Range<usize>,
        out: &mut [u8],
    ) -> Result<bool, Error> {
        let changed = self.order(plan.id).is_some();
        Ok(!changed && self.inner.read_bytes(plan, rows, out)?)
    }

    fn read_raw(&self, id: TensorId, rows: Range<usize>, out: &mut Vec<u8>) -> Result<bool, Error> {
        let Some(order) = self.order(id).filter(|_| !rows.is_empty()) else {
            return self.inner.read_raw(id, rows, out);
        };
        let info = self.manifest().get(id);
        if info.shape.len() == 1 {
            let mut bytes = Vec::new();
            let stored = self.inner.read_raw(id, rows, &mut bytes)?;
            let size = bytes.len() / order.len();
            for from in order.iter().filter(|_| stored) {
                out.extend_from_slice(&bytes[from * size..(from + 1) * size]);
            }
            return Ok(stored);
        }
        let mut stored = true;
        let before = out.len();
        for_experts(order, info.rows() / order.len(), &rows, |inner, _| {
            stored &= self.inner.read_raw(id, inner, out)?;
            Ok(())
        })?;
        if !stored {
            out.truncate(before);
        }
        Ok(stored)
    }
}
