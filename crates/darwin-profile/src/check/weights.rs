//! What the weights themselves show, gathered while a model is loaded so that no byte is read
//! twice.

use super::finding;
use crate::Error;
use darwin_checkpoint::{Manifest, Tapped, TensorId, TensorPlan, TensorSource};
use darwin_core::files::{Finding, Severity};
use darwin_engine::Model;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Values read at once of tensors that the engine does not load.
const TILE_VALUES: usize = 1 << 20;

/// A model, and what its weights showed on the way into it.
pub struct Loaded {
    /// The model.
    pub model: Model,
    /// Norms of its tensors, NaN and infinities among them.
    pub weights: Weights,
}

impl Loaded {
    /// Loads a model; every weight is read once, those too that the engine has no use for.
    ///
    /// # Errors
    /// As [`Model::load`]; whatever reading brings.
    pub fn open(source: &dyn TensorSource) -> Result<Self, Error> {
        let watched = Watched::new(source);
        let model = Model::load(&watched.source())?;
        Ok(Self { model, weights: watched.finish()? })
    }
}

/// The norm of every tensor, and a sentence about the first value of each that is not finite.
#[derive(Clone, Debug)]
pub struct Weights {
    norms: Vec<Option<f64>>,
    not_finite: Vec<(TensorId, String)>,
}

impl Weights {
    /// Reads every weight of a source once.
    ///
    /// # Errors
    /// Whatever reading brings; weights that are not finite are no error.
    pub fn read(source: &dyn TensorSource) -> Result<Self, Error> {
        Watched::new(source).finish()
    }

    /// The L2 norm of a tensor; `None` where it is not finite or the dtype is not a float.
    #[must_use]
    pub fn norm(&self, id: TensorId) -> Option<f64> {
        self.norms[id.index()]
    }

    /// A finding for every tensor with NaN or infinities.
    pub(super) fn findings(&self, manifest: &Manifest) -> Vec<Finding> {
        let describe = |(id, problem): &(TensorId, String)| {
            let info = manifest.get(*id);
            let place = info.layer.map_or(String::new(), |l| format!("L{l} "));
            Finding {
                layer: info.layer.map(|l| l.0),
                component: info.part().map(|part| part.name().to_owned()),
                ..finding(
                    Severity::Fail,
                    "nan",
                    format!("{place}{}: {problem}", info.role.name()),
                    "merge again; if it comes back, a parent is damaged",
                )
            }
        };
        self.not_finite.iter().map(describe).collect()
    }
}

/// What was seen of a tensor: by first row the end of a tile and its sum of squares.
#[derive(Default)]
struct Seen {
    tiles: BTreeMap<usize, (usize, f64)>,
    not_finite: Option<String>,
}

impl Seen {
    fn is_whole(&self, rows: usize) -> bool {
        let joined =
            self.tiles.iter().try_fold(0, |at, (start, (end, _))| (*start == at).then_some(*end));
        joined == Some(rows)
    }

    /// In the order of rows, whatever the order of reading.
    fn norm(&self) -> Option<f64> {
        let norm = self.tiles.values().map(|(_, squares)| squares).sum::<f64>().sqrt();
        Some(norm).filter(|norm| norm.is_finite() && self.not_finite.is_none())
    }
}

/// A source and what was seen of it while others read it.
pub(super) struct Watched<'a> {
    source: &'a dyn TensorSource,
    seen: Vec<Mutex<Seen>>,
}

impl<'a> Watched<'a> {
    pub(super) fn new(source: &'a dyn TensorSource) -> Self {
        let seen = source.manifest().tensors().iter().map(|_| Mutex::default()).collect();
        Self { source, seen }
    }

    /// The source, to be read by whoever needs it.
    pub(super) fn source(&self) -> impl TensorSource {
        Tapped::new(self.source, |plan, rows, read| self.look(plan, &rows, read))
    }

    /// Reads what nobody has read yet.
    pub(super) fn finish(self) -> Result<Weights, Error> {
        let manifest = self.source.manifest();
        let mut weights = Weights { norms: Vec::new(), not_finite: Vec::new() };
        for (id, info) in manifest.ids().zip(manifest.tensors()) {
            if !info.dtype.is_mergeable() {
                weights.norms.push(None);
                continue;
            }
            if !self.seen(id).is_whole(info.rows()) && self.seen(id).not_finite.is_none() {
                self.read(id)?;
            }
            let seen = self.seen(id);
            weights.norms.push(seen.norm());
            weights.not_finite.extend(seen.not_finite.clone().map(|problem| (id, problem)));
        }
        Ok(weights)
    }

    fn read(&self, id: TensorId) -> Result<(), Error> {
        *self.seen(id) = Seen::default();
        let source = self.source();
        let plan = source.prepare(id)?;
        let step = (TILE_VALUES / plan.cols.max(1)).max(1);
        let mut tile = Vec::new();
        for start in (0..plan.rows).step_by(step) {
            let rows = start..(start + step).min(plan.rows);
            tile.resize(rows.len() * plan.cols, 0.0);
            match source.read_tile(&plan, rows, &mut tile) {
                Err(darwin_checkpoint::Error::NotFinite { .. }) => break,
                read => read?,
            }
        }
        Ok(())
    }

    fn seen(&self, id: TensorId) -> MutexGuard<'_, Seen> {
        // Whoever panicked while it held the lock has ended the load as well.
        self.seen[id.index()].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn look(
        &self,
        plan: &TensorPlan,
        rows: &Range<usize>,
        read: Result<&[f32], &darwin_checkpoint::Error>,
    ) {
        let tile = match read {
            Ok(tile) => tile,
            // Checkpoints refuse to read such a weight; other sources hand it out.
            Err(error) => {
                if let darwin_checkpoint::Error::NotFinite { .. } = error {
                    self.seen(plan.id).not_finite = Some(error.to_string());
                }
                return;
            }
        };
        let squares = tile.iter().map(|v| f64::from(*v) * f64::from(*v)).sum::<f64>();
        let mut seen = self.seen(plan.id);
        seen.tiles.insert(rows.start, (rows.end, squares));
        if !squares.is_finite() && seen.not_finite.is_none() {
            let name = &self.source.manifest().get(plan.id).name;
            let place = tile.iter().position(|v| !v.is_finite());
            seen.not_finite = place.map(|i| {
                format!("`{name}` holds {} at element {}", tile[i], rows.start * plan.cols + i)
            });
        }
    }
}
