//! A LoRA adapter on a checkpoint, applied while it is read (PEFT's format; mergekit 0.1.5, `common.py`).
//!
//! W' = W + scale B A, product and sum in f32, rounded once to the tensor's dtype. PEFT's
//! `merge_and_unload`, which mergekit uses, gives the same for linear layers, since it keeps A and B
//! in float32; of fused experts it rounds B A to the weights' dtype before it adds it, so that in
//! bfloat16 a quarter of the elements differ by a unit.

mod bind;
mod config;
mod factors;
mod weights;

use crate::unchanged::Unchanged;
use crate::{Checkpoint, Error, Manifest, Problem, TensorId, TensorPlan, TensorSource};
use config::AdapterConfig;
use factors::{Edit, Factors, Product};
use serde_json::Value;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use weights::Weights;

/// Factors are kept for the next tile up to so many bytes; the newest always are.
const KEPT_BYTES: usize = 256 << 20;

/// A checkpoint with a LoRA adapter on it.
///
/// Tensors that the adapter does not touch are the base's, byte for byte. Of the adapter, one
/// tensor's A and B are in memory at a time, and what is left of 256 MiB from the tensors before.
#[derive(Debug)]
pub struct Adapted {
    name: String,
    base: Arc<Checkpoint>,
    config_path: PathBuf,
    weights: Weights,
    unchanged: Unchanged,
    edits: bind::Edits,
    kept: Mutex<Vec<(TensorId, usize, Arc<Factors>)>>,
}

impl Adapted {
    /// Puts the adapter in `folder` (`adapter_config.json`, `adapter_model.safetensors`) on a
    /// checkpoint; headers are checked against the base, no weight is computed.
    ///
    /// # Errors
    /// [`Error::Invalid`] with all problems: another method than plain LoRA, tensors that match
    /// none of the base, shapes and ranks that do not fit, square experts whose orientation is not
    /// recorded; [`Error::Io`] where a file cannot be read.
    pub fn open(base: Arc<Checkpoint>, folder: impl AsRef<Path>) -> Result<Self, Error> {
        let folder = folder.as_ref();
        let config_path = folder.join("adapter_config.json");
        if !config_path.exists() {
            let found = if folder.exists() { "no adapter_config.json" } else { "no such folder" };
            return Err(Error::one(
                format!("{}: {found}", folder.display()),
                "give the folder of a PEFT adapter (adapter_config.json, adapter_model.safetensors)",
            ));
        }
        let (config, opened) = (AdapterConfig::read(&config_path), Weights::open(folder));
        let (config, (weights, entries)) = match (config, opened) {
            (Ok(config), Ok(opened)) => (config, opened),
            (Err(Error::Invalid(mut found)), Err(Error::Invalid(more))) => {
                found.extend(more);
                return Err(Error::Invalid(found));
            }
            (Err(error), _) | (_, Err(error)) => return Err(error),
        };
        let unchanged = Unchanged::of([config_path.as_path(), &weights.path].into_iter())?;
        let file = weights.path.display().to_string();
        let edits = bind::bind(&base, &config, &file, entries).map_err(Error::Invalid)?;
        Ok(Self {
            name: format!("{}+{}", base.name(), folder.display()),
            base,
            config_path,
            weights,
            unchanged,
            edits,
            kept: Mutex::default(),
        })
    }

    /// The checkpoint that it lies on.
    #[must_use]
    pub fn base(&self) -> &Arc<Checkpoint> {
        &self.base
    }

    /// The adapter's files.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        [self.config_path.as_path(), self.weights.path.as_path()].into_iter()
    }

    /// How many tensors the adapter changes.
    #[must_use]
    pub fn num_changed(&self) -> usize {
        self.edits.len()
    }

    fn factors(&self, id: TensorId, at: usize, product: &Product) -> Result<Arc<Factors>, Error> {
        let lock = || self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((.., found)) = lock().iter().find(|(i, a, _)| (*i, *a) == (id, at)) {
            return Ok(Arc::clone(found));
        }
        let loaded = Arc::new(product.load(&self.weights)?);
        let mut kept = lock();
        kept.push((id, at, Arc::clone(&loaded)));
        while kept.len() > 1
            && kept.iter().map(|(.., factors)| factors.bytes()).sum::<usize>() > KEPT_BYTES
        {
            kept.remove(0);
        }
        Ok(loaded)
    }

    fn apply(
        &self,
        (id, at): (TensorId, usize),
        edit: &Edit,
        rows: &Range<usize>,
        cols: usize,
        out: &mut [f32],
    ) -> Result<(), Error> {
        match edit {
            Edit::Product(product) => {
                let touched = product.rows.start < rows.end && rows.start < product.rows.end;
                if touched {
                    let factors = self.factors(id, at, product)?;
                    product.add(&factors, rows.clone(), cols, out);
                }
            }
            Edit::Replace { rows: replaced, by } => {
                let (first, end) = (replaced.start.max(rows.start), replaced.end.min(rows.end));
                if first < end {
                    let count = (end - first) * cols;
                    let values =
                        self.weights.read_rows(by, (first - replaced.start) * cols, count)?;
                    out[(first - rows.start) * cols..][..count].copy_from_slice(&values);
                }
            }
            Edit::Vector { values, scale } => {
                let values = self.weights.read(values)?;
                for (w, v) in out.iter_mut().zip(values) {
                    *w += scale * v;
                }
            }
        }
        Ok(())
    }
}

impl TensorSource for Adapted {
    fn name(&self) -> &str {
        &self.name
    }

    fn manifest(&self) -> &Manifest {
        self.base.manifest()
    }

    fn config(&self) -> &Value {
        self.base.config()
    }

    fn prepare(&self, id: TensorId) -> Result<TensorPlan, Error> {
        self.base.prepare(id)
    }

    fn read_tile(
        &self,
        plan: &TensorPlan,
        rows: Range<usize>,
        out: &mut [f32],
    ) -> Result<(), Error> {
        self.base.read_tile(plan, rows.clone(), out)?;
        let Some(edits) = self.edits.get(&plan.id) else { return Ok(()) };
        for (at, edit) in edits.iter().enumerate() {
            self.apply((plan.id, at), edit, &rows, plan.cols, out)?;
        }
        plan.dtype.round(out);
        match out.iter().position(|v| !v.is_finite()) {
            None => Ok(()),
            Some(at) => {
                let tensor = &self.manifest().get(plan.id).name;
                let element = rows.start * plan.cols + at;
                Err(Error::Invalid(vec![Problem::new(
                    format!(
                        "{}: `{tensor}` overflows {} at element {element} with the adapter",
                        self.name, plan.dtype
                    ),
                    "the adapter is damaged, or was trained on another model",
                )]))
            }
        }
    }

    fn read_bytes(
        &self,
        plan: &TensorPlan,
        rows: Range<usize>,
        out: &mut [u8],
    ) -> Result<bool, Error> {
        let changed = self.edits.contains_key(&plan.id);
        Ok(!changed && self.base.read_bytes(plan, rows, out)?)
    }

    fn read_raw(&self, id: TensorId, rows: Range<usize>, out: &mut Vec<u8>) -> Result<bool, Error> {
        if self.edits.contains_key(&id) { Ok(false) } else { self.base.read_raw(id, rows, out) }
    }

    fn check_unchanged(&self) -> Result<(), Error> {
        self.base.check_unchanged()?;
        self.unchanged.check()
    }
}
