//! A merge that nobody has written yet, as a tensor source.

use crate::{Error, Recipe, Sources};
use darwin_checkpoint::{Manifest, TensorId, TensorPlan, TensorSource};
use std::ops::Range;

/// A recipe bound to opened models: the child as a [`TensorSource`].
pub struct Merge {
    name: String,
    manifest: Manifest,
    config: serde_json::Value,
}

impl Merge {
    /// Plans the merge from headers alone.
    ///
    /// # Errors
    /// [`Error::Plan`] with everything that does not fit.
    pub fn new(recipe: &Recipe, sources: &Sources) -> Result<Self, Error> {
        let _ = sources;
        Ok(Self {
            name: recipe.method().name.to_owned(),
            manifest: Manifest::default(),
            config: serde_json::Value::Null,
        })
    }
}

impl TensorSource for Merge {
    fn name(&self) -> &str {
        &self.name
    }

    fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    fn config(&self) -> &serde_json::Value {
        &self.config
    }

    fn prepare(&self, id: TensorId) -> Result<TensorPlan, darwin_checkpoint::Error> {
        let tensor = self.manifest.get(id).name.clone();
        Err(darwin_checkpoint::Error::MissingTensor { model: self.name.clone(), tensor })
    }

    fn read_tile(
        &self,
        plan: &TensorPlan,
        _: Range<usize>,
        _: &mut [f32],
    ) -> Result<(), darwin_checkpoint::Error> {
        self.prepare(plan.id).map(|_| ())
    }

    fn read_raw(
        &self,
        _: TensorId,
        _: Range<usize>,
        _: &mut Vec<u8>,
    ) -> Result<bool, darwin_checkpoint::Error> {
        Ok(false)
    }
}
