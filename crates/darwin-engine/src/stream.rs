//! A model whose layers are read when their turn comes.

use crate::embedding::embed;
use crate::families::read_config;
use crate::kernels::Pool;
use crate::layer::{Layer, expected, prefix};
use crate::layers::{Layers, is_large};
use crate::weights::{Loader, check_tensors};
use crate::workspaces::Workspaces;
use crate::{Batch, Config, Error, Head, LayerSource, State};
use darwin_checkpoint::TensorSource;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

/// A text model of which nothing is in memory but what a [`Sweep`](crate::Sweep) is at: any size
/// can be run, with the bits that [`Model::load`](crate::Model::load) would give.
pub struct Stream<'a> {
    loader: Loader<'a>,
    source: &'a dyn TensorSource,
    config: Arc<Config>,
    workspaces: Arc<Workspaces>,
    pool: Arc<Pool>,
    large: bool,
    /// The first layers, which stay once they were read.
    kept: Vec<OnceLock<Layers>>,
}

impl<'a> Stream<'a> {
    /// Opens a text model of any source: names and shapes are checked, no weight is read.
    ///
    /// # Errors
    /// [`Error::Model`] with everything that does not fit.
    pub fn open(source: &'a dyn TensorSource) -> Result<Self, Error> {
        Self::open_with(source, Arc::default())
    }

    /// [`Stream::open`], with memory that it shares with others.
    pub(crate) fn open_with(source: &'a dyn TensorSource, pool: Arc<Pool>) -> Result<Self, Error> {
        let config = read_config(source)?;
        check_tensors(source, &expected(&config))?;
        Ok(Self {
            loader: Loader::new(source).pooled(pool.clone()),
            pool,
            source,
            workspaces: Arc::default(),
            large: is_large(&config),
            config: Arc::new(config),
            kept: Vec::new(),
        })
    }

    /// Keeps the first `layers` layers once they were read, for sweeps to come.
    #[must_use]
    pub fn keeping(mut self, layers: usize) -> Self {
        let layers = layers.min(self.config.num_hidden_layers);
        self.kept = (0..layers).map(|_| OnceLock::new()).collect();
        self
    }

    /// Its tensors.
    pub(crate) fn source(&self) -> &'a dyn TensorSource {
        self.source
    }

    fn read(&self, layer: usize) -> Result<Layers, Error> {
        let weights = Layer::load(&self.loader, &self.config, layer, &prefix(layer))?;
        // what this layer had no use for
        self.pool.clear();
        let workspaces = self.workspaces.clone();
        Ok(Layers::new(self.config.clone(), layer, vec![weights], workspaces, self.large))
    }
}

impl LayerSource for Stream<'_> {
    fn config(&self) -> &Config {
        &self.config
    }

    fn layer(&self, layer: usize) -> Result<Layers, Error> {
        let Some(place) = self.kept.get(layer) else { return self.read(layer) };
        if let Some(kept) = place.get() {
            return Ok(kept.clone());
        }
        let read = self.read(layer)?;
        Ok(place.get_or_init(|| read).clone())
    }

    fn head(&self, band: Range<usize>) -> Result<Head, Error> {
        self.pool.clear();
        Ok(Head {
            norm: self.loader.norm(&self.config, "norm")?,
            weight: self.loader.band(self.config.head(), band.clone())?,
            config: self.config.clone(),
            band,
            large: self.large,
        })
    }

    fn embed(
        &self,
        batches: &[Batch],
        room: u64,
        each: &mut dyn FnMut(State) -> Result<(), Error>,
    ) -> Result<(), Error> {
        embed(self.source, &self.config, batches, room, each)
    }
}
