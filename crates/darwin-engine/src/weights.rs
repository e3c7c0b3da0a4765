//! From a tensor source to packed weights: names and shapes first, then values, re-reading only
//! what changed.

use crate::kernels::Matrix;
use crate::{Config, Device, Error};
use darwin_checkpoint::{Problem, TensorId, TensorInfo, TensorSource, read_tensor};
use std::sync::Arc;

/// A tensor that a family needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Expected {
    pub(crate) name: String,
    pub(crate) shape: Vec<usize>,
}

impl Expected {
    /// Expected tensors under a common prefix.
    pub(crate) fn list<'n>(
        prefix: &str,
        shapes: impl IntoIterator<Item = (&'n str, Vec<usize>)>,
    ) -> Vec<Self> {
        let one = |(name, shape)| Self { name: format!("{prefix}{name}"), shape };
        shapes.into_iter().map(one).collect()
    }
}

/// Checks that the source holds every expected tensor in its shape; all problems at once.
pub(crate) fn check_tensors(source: &dyn TensorSource, expected: &[Expected]) -> Result<(), Error> {
    let manifest = source.manifest();
    let mut problems = Vec::new();
    for Expected { name, shape } in expected {
        let model = source.name();
        match manifest.find(name).map(|id| manifest.get(id)) {
            None => problems.push(Problem::new(
                format!("{model}: tensor `{name}` is missing, needed in shape {shape:?}"),
                "check that the model is complete (`darwin inspect`)",
            )),
            Some(info) if info.shape != *shape => problems.push(Problem::new(
                format!(
                    "{model}: tensor `{name}` has shape {:?}, config.json asks for {shape:?}",
                    info.shape
                ),
                "config.json and weights are of different models: download both again",
            )),
            Some(info) if !info.dtype.is_mergeable() => problems.push(Problem::new(
                format!("{model}: tensor `{name}` is {}", info.dtype),
                "only float32, float16 and bfloat16 weights can be run",
            )),
            Some(_) => {}
        }
    }
    if problems.is_empty() { Ok(()) } else { Err(Error::Model(problems)) }
}

/// Reads weights. With an older model at hand, tensors that did not change are shared with it.
pub(crate) struct Loader<'a> {
    source: &'a dyn TensorSource,
    device: &'a Device,
    changed: Vec<bool>,
}

impl<'a> Loader<'a> {
    /// A loader that re-reads the tensors for which `changed` is true.
    pub(crate) fn new(
        source: &'a dyn TensorSource,
        device: &'a Device,
        changed: &dyn Fn(&TensorInfo) -> bool,
    ) -> Self {
        Self { source, device, changed: source.manifest().tensors().iter().map(changed).collect() }
    }

    /// A vector; `map` puts the stored values into the form that is computed with.
    pub(crate) fn vector(
        &self,
        name: &str,
        old: Option<&Arc<[f32]>>,
        map: impl Fn(Vec<f32>) -> Vec<f32>,
    ) -> Result<Arc<[f32]>, Error> {
        let id = self.find(name)?;
        if let Some(old) = self.unchanged(id, old) {
            return Ok(old);
        }
        Ok(map(read_tensor(self.source, id)?).into())
    }

    /// The scale of a norm.
    pub(crate) fn norm(
        &self,
        config: &Config,
        name: &str,
        old: Option<&Arc<[f32]>>,
    ) -> Result<Arc<[f32]>, Error> {
        let offset = if config.centred_norms { 1.0 } else { 0.0 };
        let scale = |weight: Vec<f32>| weight.into_iter().map(|w| offset + w).collect();
        self.vector(&format!("{name}.weight"), old, scale)
    }

    /// Chosen rows of a weight (out, in), packed.
    pub(crate) fn rows(
        &self,
        name: &str,
        rows: impl Iterator<Item = usize>,
        old: Option<&Matrix>,
    ) -> Result<Matrix, Error> {
        let id = self.find(name)?;
        if let Some(old) = self.unchanged(id, old) {
            return Ok(old);
        }
        let (all, cols) = (read_tensor(self.source, id)?, self.source.manifest().get(id).cols());
        let mut values = Vec::with_capacity(all.len());
        rows.for_each(|row| values.extend_from_slice(&all[row * cols..][..cols]));
        self.pack(&values, values.len() / cols, cols)
    }

    /// A weight (out, in), packed.
    pub(crate) fn matrix(&self, name: &str, old: Option<&Matrix>) -> Result<Matrix, Error> {
        let id = self.find(name)?;
        if let Some(old) = self.unchanged(id, old) {
            return Ok(old);
        }
        let info = self.source.manifest().get(id);
        self.pack(&read_tensor(self.source, id)?, info.rows(), info.cols())
    }

    /// Weights (out, in) of the same input, packed as one whose outputs follow one another.
    pub(crate) fn stacked(&self, names: &[&str], old: Option<&Matrix>) -> Result<Matrix, Error> {
        let ids = names.iter().map(|name| self.find(name)).collect::<Result<Vec<_>, _>>()?;
        if let Some(old) = old.filter(|_| !ids.iter().any(|id| self.changed[id.index()])) {
            return Ok(old.clone());
        }
        let (mut values, mut rows) = (Vec::new(), 0);
        for id in &ids {
            values.extend(read_tensor(self.source, *id)?);
            rows += self.source.manifest().get(*id).rows();
        }
        self.pack(&values, rows, values.len() / rows)
    }

    /// A fused weight (experts, out, in), each expert packed for itself.
    pub(crate) fn experts(
        &self,
        name: &str,
        old: Option<&Arc<[Matrix]>>,
    ) -> Result<Arc<[Matrix]>, Error> {
        let id = self.find(name)?;
        if let Some(old) = self.unchanged(id, old) {
            return Ok(old);
        }
        let info = self.source.manifest().get(id);
        let (rows, cols) = (info.rows() / info.shape[0], info.cols());
        let plan = self.source.prepare(id)?;
        let mut values = vec![0.0; rows * cols];
        let pack = |expert: usize| {
            self.source.read_tile(&plan, expert * rows..(expert + 1) * rows, &mut values)?;
            self.pack(&values, rows, cols)
        };
        (0..info.shape[0]).map(pack).collect()
    }

    /// A row-major (out, in) weight where its products are computed.
    fn pack(&self, values: &[f32], rows: usize, cols: usize) -> Result<Matrix, Error> {
        Matrix::pack(values, rows, cols).on(self.device, values)
    }

    fn find(&self, name: &str) -> Result<TensorId, Error> {
        self.source.manifest().find(name).ok_or_else(|| {
            Error::Weights(darwin_checkpoint::Error::MissingTensor {
                model: self.source.name().to_owned(),
                tensor: name.to_owned(),
            })
        })
    }

    fn unchanged<T: Clone>(&self, id: TensorId, old: Option<&T>) -> Option<T> {
        old.filter(|_| !self.changed[id.index()]).cloned()
    }
}
