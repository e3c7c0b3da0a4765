//! A whole text model: weights that are cheap to share, swap and run.

use crate::{Batch, Config, Error, Interventions, State, Tap};
use darwin_checkpoint::{TensorInfo, TensorSource};
use darwin_core::{Component, LayerIdx};
use std::ops::Range;
use std::sync::Arc;

/// The weights of a text model. Every part is behind an [`Arc`]: clones and swaps are cheap.
#[derive(Clone, Debug)]
pub struct Model {
    config: Arc<Config>,
}

impl Model {
    /// Reads a text model from any source. Names and shapes are checked from config and manifest
    /// before a weight is read.
    ///
    /// # Errors
    /// [`Error::Model`] with everything that does not fit; [`Error::Weights`] where reading fails.
    pub fn load(_source: &dyn TensorSource) -> Result<Self, Error> {
        Err(Error::Cancelled)
    }

    /// The model of another source of the same shape that differs from this one only in the
    /// tensors for which `changed` is true: only those are read, the rest is shared.
    ///
    /// # Errors
    /// As [`Model::load`].
    pub fn reload(
        &self,
        _source: &dyn TensorSource,
        _changed: &dyn Fn(&TensorInfo) -> bool,
    ) -> Result<Self, Error> {
        Err(Error::Cancelled)
    }

    /// The numbers.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// This model with one whole layer of `donor`.
    #[must_use]
    pub fn with_layer(&self, _layer: LayerIdx, _donor: &Self) -> Self {
        self.clone()
    }

    /// This model with one component of one layer of `donor`: the mixer brings its input norm, the
    /// routed experts bring the norm before them.
    #[must_use]
    pub fn with_component(&self, _layer: LayerIdx, _component: Component, _donor: &Self) -> Self {
        self.clone()
    }

    /// The state before the first layer.
    ///
    /// # Errors
    /// A token outside the vocabulary, an empty sequence, a sequence longer than the context.
    pub fn embed(&self, _batch: &Batch) -> Result<State, Error> {
        Err(Error::Cancelled)
    }

    /// Runs layers on a state. After the last layer the sites `FinalNorm` and `Logits` are
    /// computed if the tap wants them.
    ///
    /// # Errors
    /// [`Error::Layers`] where the range does not start at the state's layer or leaves the model;
    /// [`Error::Intervention`].
    pub fn run(
        &self,
        _state: &mut State,
        _layers: Range<usize>,
        _tap: &mut dyn Tap,
        _interventions: &Interventions,
    ) -> Result<(), Error> {
        Err(Error::Cancelled)
    }

    /// Logits of chosen flat token positions, row-major (positions, vocab). The state must have
    /// passed all layers for them to mean the model's output.
    #[must_use]
    pub fn logits(&self, _state: &State, _positions: &[usize]) -> Vec<f32> {
        Vec::new()
    }
}
