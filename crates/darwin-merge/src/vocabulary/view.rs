//! A model whose vocabulary has the child's rows.

use super::rows::{Fill, NONE, RowMap, RowOf};
use darwin_checkpoint::{Dtype, Error, Manifest, TensorId, TensorPlan, TensorSource};
use serde_json::Value;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

/// Elements read at once on the way to a mean.
const TILE: usize = 1 << 16;

/// One tensor of the vocabulary as one model has it, its rows in the child's order.
pub(super) struct Rows {
    pub(super) map: Arc<RowMap>,
    /// Which of the map's models this is.
    pub(super) model: usize,
    /// The map's models with this tensor.
    pub(super) owners: Arc<Vec<(Arc<dyn TensorSource>, TensorId)>>,
    /// What is rounded after each step; `None`: computed rows stay as they are, for the merge
    /// rounds once.
    pub(super) steps: Option<Dtype>,
    pub(super) mean: Mutex<Option<Arc<[f64]>>>,
}

/// A model with a vocabulary of other rows; all other tensors are its own.
pub(super) struct View {
    inner: Arc<dyn TensorSource>,
    manifest: Manifest,
    tensors: BTreeMap<usize, Rows>,
}

impl View {
    /// The model with these tensors exchanged; `None` where its tensors have no other names.
    pub(super) fn new(
        inner: Arc<dyn TensorSource>,
        tensors: BTreeMap<usize, Rows>,
    ) -> Option<Self> {
        let mut infos = inner.manifest().tensors().to_vec();
        for (at, rows) in &tensors {
            infos[*at].shape[0] = rows.map.own[rows.model].len();
        }
        let manifest = Manifest::new(infos).ok()?;
        Some(Self { inner, manifest, tensors })
    }
}

/// A tensor of all owners, opened for reading.
struct Table<'a> {
    rows: &'a Rows,
    cols: usize,
    plans: Vec<TensorPlan>,
    /// Whole vectors: a bias has its tokens side by side.
    vectors: Vec<Vec<f32>>,
}

impl<'a> Table<'a> {
    fn open(rows: &'a Rows) -> Result<Self, Error> {
        let mut plans = Vec::new();
        let mut vectors = Vec::new();
        let mut cols = 1;
        for (source, id) in rows.owners.iter() {
            let plan = source.prepare(*id)?;
            if source.manifest().get(*id).shape.len() == 1 {
                let mut values = vec![0.0; plan.cols];
                source.read_tile(&plan, 0..1, &mut values)?;
                vectors.push(values);
            } else {
                cols = plan.cols;
            }
            plans.push(plan);
        }
        Ok(Self { rows, cols, plans, vectors })
    }

    /// Rows of an owner.
    fn read(&self, owner: usize, rows: Range<usize>, out: &mut [f32]) -> Result<(), Error> {
        match self.vectors.get(owner) {
            Some(values) => out.copy_from_slice(&values[rows]),
            None => self.rows.owners[owner].0.read_tile(&self.plans[owner], rows, out)?,
        }
        self.round(out);
        Ok(())
    }

    fn round(&self, values: &mut [f32]) {
        if let Some(dtype) = self.rows.steps {
            dtype.round(values);
        }
    }

    /// The child's rows as this model has them; `of_tokens` is the mean for padding.
    fn fill(&self, rows: Range<usize>, of_tokens: &[f64], out: &mut [f32]) -> Result<(), Error> {
        let own = &self.rows.map.own[self.rows.model];
        let mut at = rows.start;
        while at < rows.end {
            // Rows that lie behind each other in the model, too, come in one piece.
            let run = (at..rows.end)
                .take_while(|i| own[*i] != NONE && own[*i] as usize == own[at] as usize + i - at)
                .count();
            let end = at + run.max(1);
            let part = (at - rows.start) * self.cols..(end - rows.start) * self.cols;
            let out = &mut out[part];
            match run {
                0 => self.computed(at, of_tokens, out)?,
                _ => self.read(self.rows.model, own[at] as usize..own[at] as usize + run, out)?,
            }
            at = end;
        }
        Ok(())
    }

    fn computed(&self, at: usize, of_tokens: &[f64], out: &mut [f32]) -> Result<(), Error> {
        let row = |of: &RowOf, out: &mut [f32]| {
            self.read(of.model, of.row as usize..of.row as usize + 1, out)
        };
        match self.rows.map.fill.get(&(at as u32)) {
            None | Some(Fill::Zero) => out.fill(0.0),
            Some(Fill::Row(of)) => row(of, out)?,
            Some(Fill::Mean(all)) => {
                let mut one = vec![0.0; out.len()];
                out.fill(0.0);
                for of in all {
                    row(of, &mut one)?;
                    out.iter_mut().zip(&one).for_each(|(sum, value)| *sum += value);
                    self.round(out);
                }
                out.iter_mut().for_each(|sum| *sum /= all.len() as f32);
                self.round(out);
            }
            Some(Fill::OfTokens) => {
                out.iter_mut().zip(of_tokens).for_each(|(out, mean)| *out = *mean as f32);
                self.round(out);
            }
        }
        Ok(())
    }

    /// The mean of the rows of all tokens, where padding needs it: one pass, in f64.
    fn mean(&self) -> Result<Vec<f64>, Error> {
        let fill = &self.rows.map.fill;
        let padding = |at: usize| fill.get(&(at as u32)) == Some(&Fill::OfTokens);
        if !fill.values().any(|fill| *fill == Fill::OfTokens) {
            return Ok(Vec::new());
        }
        let size = self.rows.map.own[self.rows.model].len();
        let step = (TILE / self.cols.max(1)).max(1);
        let (mut sums, mut count) = (vec![0.0; self.cols], 0_usize);
        let mut values = Vec::new();
        let nothing = vec![0.0; self.cols];
        for start in (0..size).step_by(step) {
            let end = size.min(start + step);
            values.resize((end - start) * self.cols, 0.0);
            self.fill(start..end, &nothing, &mut values)?;
            for at in (start..end).filter(|at| !padding(*at)) {
                let row = &values[(at - start) * self.cols..][..self.cols];
                sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += f64::from(*value));
                count += 1;
            }
        }
        sums.iter_mut().for_each(|sum| *sum /= count.max(1) as f64);
        Ok(sums)
    }
}

impl TensorSource for View {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    fn config(&self) -> &Value {
        self.inner.config()
    }

    fn prepare(&self, id: TensorId) -> Result<TensorPlan, Error> {
        let Some(rows) = self.tensors.get(&id.index()) else { return self.inner.prepare(id) };
        let mut kept = rows.mean.lock().unwrap_or_else(PoisonError::into_inner);
        let mean = match &*kept {
            Some(mean) => Arc::clone(mean),
            None => Arc::clone(kept.insert(Table::open(rows)?.mean()?.into())),
        };
        Ok(TensorPlan { statistics: mean, ..TensorPlan::whole(id, self.manifest.get(id)) })
    }

    fn read_tile(
        &self,
        plan: &TensorPlan,
        rows: Range<usize>,
        out: &mut [f32],
    ) -> Result<(), Error> {
        let Some(of) = self.tensors.get(&plan.id.index()) else {
            return self.inner.read_tile(plan, rows, out);
        };
        let table = Table::open(of)?;
        match self.manifest.get(plan.id).shape.len() {
            1 => table.fill(0..plan.cols, &plan.statistics, out),
            _ => table.fill(rows, &plan.statistics, out),
        }
    }

    fn read_bytes(
        &self,
        plan: &TensorPlan,
        rows: Range<usize>,
        out: &mut [u8],
    ) -> Result<bool, Error> {
        let changed = self.tensors.contains_key(&plan.id.index());
        Ok(!changed && self.inner.read_bytes(plan, rows, out)?)
    }

    fn read_raw(&self, id: TensorId, rows: Range<usize>, out: &mut Vec<u8>) -> Result<bool, Error> {
        if self.tensors.contains_key(&id.index()) {
            return Ok(false);
        }
        self.inner.read_raw(id, rows, out)
    }
}
