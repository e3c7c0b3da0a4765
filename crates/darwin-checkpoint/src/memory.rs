//! A tensor source in memory, for tests and for small models that are read again and again.

use crate::names::role_of;
use crate::{Dtype, Error, Manifest, TensorId, TensorInfo, TensorPlan, TensorSource};
use serde_json::Value;
use std::ops::Range;
use std::sync::Arc;

/// Tensors as f32 values that are already rounded to their dtype.
#[derive(Clone, Debug)]
pub struct MemorySource {
    name: String,
    config: Value,
    manifest: Manifest,
    values: Vec<Arc<[f32]>>,
}

impl MemorySource {
    /// Builds a source from (canonical name, dtype, shape, values); values are rounded to the
    /// dtype here.
    ///
    /// # Errors
    /// [`Error::Invalid`] where a name comes twice or a length does not fit its shape.
    pub fn new(
        name: impl Into<String>,
        config: Value,
        tensors: Vec<(String, Dtype, Vec<usize>, Vec<f32>)>,
    ) -> Result<Self, Error> {
        let name = name.into();
        let mut infos = Vec::with_capacity(tensors.len());
        let mut values = Vec::with_capacity(tensors.len());
        for (tensor, dtype, shape, mut data) in tensors {
            let (role, layer) = role_of(&tensor);
            let info = TensorInfo { name: tensor, role, layer, dtype, shape };
            if data.len() != info.elements() || !dtype.is_mergeable() {
                return Err(Error::one(
                    format!(
                        "{name}: tensor `{}` of shape {:?} has {} values",
                        info.name,
                        info.shape,
                        data.len()
                    ),
                    "give as many values as the shape holds, of a float dtype",
                ));
            }
            dtype.round(&mut data);
            infos.push(info);
            values.push(Arc::from(data));
        }
        let manifest = Manifest::new(infos).map_err(|twice| {
            Error::one(format!("{name}: tensor `{twice}` appears twice"), "name each tensor once")
        })?;
        Ok(Self { name, config, manifest, values })
    }

    /// Reads a whole source into memory.
    ///
    /// # Errors
    /// Whatever reading brings.
    pub fn read(source: &dyn TensorSource) -> Result<Self, Error> {
        let manifest = source.manifest().clone();
        let values = manifest
            .ids()
            .map(|id| crate::read_tensor(source, id).map(Arc::from))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            name: source.name().to_owned(),
            config: source.config().clone(),
            manifest,
            values,
        })
    }

    /// A tensor's values.
    #[must_use]
    pub fn values(&self, id: TensorId) -> &[f32] {
        &self.values[id.index()]
    }
}

impl TensorSource for MemorySource {
    fn name(&self) -> &str {
        &self.name
    }

    fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    fn config(&self) -> &Value {
        &self.config
    }

    fn prepare(&self, id: TensorId) -> Result<TensorPlan, Error> {
        Ok(TensorPlan::whole(id, self.manifest.get(id)))
    }

    fn read_tile(
        &self,
        plan: &TensorPlan,
        rows: Range<usize>,
        out: &mut [f32],
    ) -> Result<(), Error> {
        out.copy_from_slice(
            &self.values[plan.id.index()][rows.start * plan.cols..rows.end * plan.cols],
        );
        Ok(())
    }

    fn read_raw(&self, id: TensorId, rows: Range<usize>, out: &mut Vec<u8>) -> Result<bool, Error> {
        let info = self.manifest.get(id);
        let values = &self.values[id.index()][rows.start * info.cols()..rows.end * info.cols()];
        let start = out.len();
        out.resize(start + values.len() * info.dtype.size(), 0);
        info.dtype.encode(values, &mut out[start..]);
        Ok(true)
    }
}
