//! The direction that derivatives are taken along.

use super::groups::Groups;
use super::maps::{Layer, Map, Vector};
use super::supported;
use crate::embedding::Table;
use crate::families::read_config;
use crate::layer::{expected, prefix};
use crate::weights::{Expected, Loader, check_tensors};
use crate::{Config, Error};
use darwin_checkpoint::{
    Dtype, Error as SourceError, Manifest, TensorId, TensorInfo, TensorPlan, TensorSource,
};
use serde_json::Value;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

/// A direction in the space of a model's weights: for every tensor of the text model a difference
/// `D` of its shape. Read layer by layer when it is needed, or kept once it was read
/// ([`Direction::keeping`]) for passes at many points.
pub struct Direction<'a> {
    source: Differences<'a>,
    config: Config,
    groups: Groups,
    keep: bool,
    layers: Vec<OnceLock<Arc<Layer>>>,
    ends: OnceLock<Arc<Ends>>,
    embedding: OnceLock<Arc<Table>>,
}

/// What follows the layers.
pub(super) struct Ends {
    /// The final norm.
    pub(super) norm: Vector,
    pub(super) head: Map,
}

impl<'a> Direction<'a> {
    /// `to - from`, two models of one shape, in any layout of experts. Names and shapes are checked,
    /// no weight is read.
    ///
    /// # Errors
    /// [`Error::Model`] with everything that does not fit, or where the family has no derivatives;
    /// [`Error::Shapes`] where the two are of different shapes.
    pub fn between(from: &'a dyn TensorSource, to: &'a dyn TensorSource) -> Result<Self, Error> {
        let config = read_config(from)?;
        if !same_shape(&config, &read_config(to)?) {
            return Err(Error::Shapes);
        }
        check_tensors(to, &expected(&config))?;
        Self::open(Some(from), to, config)
    }

    /// A source whose tensors are differences: values along which a tensor moves when its share grows
    /// by 1. Its `config.json` is that of the model.
    ///
    /// # Errors
    /// [`Error::Model`] with everything that does not fit, or where the family has no derivatives.
    pub fn of(differences: &'a dyn TensorSource) -> Result<Self, Error> {
        let config = read_config(differences)?;
        Self::open(None, differences, config)
    }

    fn open(
        from: Option<&'a dyn TensorSource>,
        to: &'a dyn TensorSource,
        config: Config,
    ) -> Result<Self, Error> {
        supported(&config, "derivatives by share")?;
        let tensors = expected(&config);
        check_tensors(from.unwrap_or(to), &tensors)?;
        Ok(Self {
            source: Differences::new(from, to, &tensors),
            groups: Groups::of(&config),
            layers: (0..config.num_hidden_layers).map(|_| OnceLock::new()).collect(),
            ends: OnceLock::new(),
            embedding: OnceLock::new(),
            config,
            keep: false,
        })
    }

    /// Keeps what was read: at most a float32 copy of the model.
    #[must_use]
    pub fn keeping(self) -> Self {
        Self { keep: true, ..self }
    }

    /// The groups, in the order of [`Derivatives::values`](super::Derivatives::values).
    #[must_use]
    pub fn groups(&self) -> &[super::Group] {
        &self.groups.all
    }

    pub(super) fn table(&self) -> &Groups {
        &self.groups
    }

    /// Whether it can be taken at a model of these numbers.
    pub(super) fn fits(&self, config: &Config) -> bool {
        same_shape(&self.config, config)
    }

    pub(super) fn layer(&self, layer: usize) -> Result<Arc<Layer>, Error> {
        self.kept(&self.layers[layer], || {
            let loader = Loader::new(&self.source);
            Layer::load(&loader, &self.config, layer, &prefix(layer), &self.groups)
        })
    }

    pub(super) fn ends(&self) -> Result<Arc<Ends>, Error> {
        self.kept(&self.ends, || {
            let loader = Loader::new(&self.source);
            let (norm, head) = ("norm.weight", self.config.head());
            Ok(Ends {
                norm: Vector::load(&loader, norm, &self.groups, |w| w)?,
                head: Map::new(
                    loader.matrix(head)?,
                    vec![(self.groups.of_tensor(head), 0..self.config.vocab_size)],
                ),
            })
        })
    }

    /// Rows of the embedding: at least those of these ids.
    pub(super) fn embedding(&self, mut ids: Vec<u32>) -> Result<Arc<Table>, Error> {
        if self.keep {
            ids = (0..self.config.vocab_size as u32).collect();
        }
        self.kept(&self.embedding, || {
            let id = self.source.manifest.find("embed_tokens.weight").ok_or_else(|| {
                let (model, tensor) = (self.source.name().to_owned(), "embed_tokens.weight".into());
                SourceError::MissingTensor { model, tensor }
            })?;
            let plan = self.source.prepare(id)?;
            ids.sort_unstable();
            ids.dedup();
            Table::read(&self.source, &plan, ids)
        })
    }

    /// What is there, or what is read now.
    fn kept<T>(
        &self,
        place: &OnceLock<Arc<T>>,
        read: impl FnOnce() -> Result<T, Error>,
    ) -> Result<Arc<T>, Error> {
        if let Some(there) = place.get() {
            return Ok(there.clone());
        }
        let read = Arc::new(read()?);
        Ok(if self.keep { place.get_or_init(|| read).clone() } else { read })
    }
}

/// Whether two models have the same tensors in the same shapes.
fn same_shape(a: &Config, b: &Config) -> bool {
    expected(a) == expected(b)
}

/// Differences of two sources as a source.
struct Differences<'a> {
    from: Option<&'a dyn TensorSource>,
    to: &'a dyn TensorSource,
    manifest: Manifest,
    /// Of each tensor, once it was prepared.
    plans: Vec<OnceLock<(Option<TensorPlan>, TensorPlan)>>,
}

impl<'a> Differences<'a> {
    /// Of tensors that both have.
    fn new(
        from: Option<&'a dyn TensorSource>,
        to: &'a dyn TensorSource,
        tensors: &[Expected],
    ) -> Self {
        let manifest = to.manifest();
        let infos = tensors.iter().filter_map(|tensor| {
            let info = manifest.get(manifest.find(&tensor.name)?);
            Some(TensorInfo { dtype: Dtype::F32, ..info.clone() })
        });
        let manifest = Manifest::new(infos.collect()).unwrap_or_default();
        let plans = manifest.ids().map(|_| OnceLock::new()).collect();
        Self { from, to, manifest, plans }
    }

    fn plan_of(source: &dyn TensorSource, name: &str) -> Result<TensorPlan, SourceError> {
        let id = source.manifest().find(name).ok_or_else(|| SourceError::MissingTensor {
            model: source.name().to_owned(),
            tensor: name.to_owned(),
        })?;
        source.prepare(id)
    }
}

impl TensorSource for Differences<'_> {
    fn name(&self) -> &str {
        self.to.name()
    }

    fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    fn config(&self) -> &Value {
        self.to.config()
    }

    fn prepare(&self, id: TensorId) -> Result<TensorPlan, SourceError> {
        let info = self.manifest.get(id);
        if self.plans[id.index()].get().is_none() {
            let from = self.from.map(|from| Self::plan_of(from, &info.name)).transpose()?;
            let to = Self::plan_of(self.to, &info.name)?;
            self.plans[id.index()].get_or_init(|| (from, to));
        }
        Ok(TensorPlan::whole(id, info))
    }

    fn read_tile(
        &self,
        plan: &TensorPlan,
        rows: Range<usize>,
        out: &mut [f32],
    ) -> Result<(), SourceError> {
        let both = self.plans[plan.id.index()].get();
        let (from, to) = both.expect("a tensor is prepared before it is read");
        self.to.read_tile(to, rows.clone(), out)?;
        if let (Some(source), Some(plan)) = (self.from, from) {
            let mut values = vec![0.0; out.len()];
            source.read_tile(plan, rows, &mut values)?;
            out.iter_mut().zip(values).for_each(|(to, from)| *to -= from);
        }
        Ok(())
    }

    fn read_raw(&self, _: TensorId, _: Range<usize>, _: &mut Vec<u8>) -> Result<bool, SourceError> {
        Ok(false)
    }
}
