//! Recipes built in code, as the evolution does for every candidate.

use super::{
    Align, Blocks, CopyRule, Darwin, Densities, GroupShares, Inputs, LayerShares, LayerSpec,
    ModelEntry, Parameters, Recipe, RouterMode, RouterRule, Selector, Shares, validate,
};
use crate::{Error, Method, Numerics, RecipeProblem};
use darwin_checkpoint::{Dtype, Unit};
use darwin_core::{Density, LayerIdx, Share};

/// Builds a recipe that blends two parents by shares of the mother.
#[derive(Clone, Debug)]
pub struct RecipeBuilder {
    method: String,
    father: String,
    mother: String,
    base: Option<String>,
    shares: Shares,
    darwin: Darwin,
    parameters: Parameters,
    dtype: Option<Dtype>,
    out_dtype: Option<Dtype>,
}

impl RecipeBuilder {
    pub(super) fn new(method: &str, father: String, mother: String) -> Self {
        let half = Share::new(0.5).expect("0.5 is a share");
        Self {
            method: method.to_owned(),
            father,
            mother,
            base: None,
            shares: Shares::uniform(half),
            darwin: Darwin::default(),
            parameters: Parameters::new(),
            dtype: None,
            out_dtype: None,
        }
    }

    /// The common ancestor; by default the father himself for methods that need a base.
    #[must_use]
    pub fn base(mut self, model: impl Into<String>) -> Self {
        self.base = Some(model.into());
        self
    }

    /// The share where nothing else decides; 0.5 unless set.
    #[must_use]
    pub fn default_share(mut self, t: Share) -> Self {
        self.shares.default = t;
        self
    }

    /// The share of a part in all layers, or of one outside them.
    #[must_use]
    pub fn component(mut self, part: impl Into<Selector>, t: Share) -> Self {
        self.shares.components.insert(part.into(), t);
        self
    }

    /// Shares of single tensors and of single experts, before all other rules.
    #[must_use]
    pub fn groups(mut self, groups: GroupShares) -> Self {
        self.shares.groups = (!groups.is_empty()).then_some(groups);
        self
    }

    /// Factor of both task vectors, for methods that have them and a base that is neither parent.
    #[must_use]
    pub fn scale(mut self, scale: f64) -> Self {
        self.shares.scale = Some(scale);
        self
    }

    /// Shares of parts in one layer; parts that are not named fall back to the component's share,
    /// then to the default.
    #[must_use]
    pub fn layer<S: Into<Selector>>(
        self,
        layer: LayerIdx,
        parts: impl IntoIterator<Item = (S, Share)>,
    ) -> Self {
        let components = parts.into_iter().map(|(part, t)| (part.into(), t)).collect();
        self.block(LayerShares { components, ..LayerShares::of(LayerSpec::one(layer)) })
    }

    /// Densities of the two task vectors in one layer, beside the shares that [`Self::layer`] gave
    /// it before.
    #[must_use]
    pub fn layer_density(mut self, layer: LayerIdx, father: Density, mother: Density) -> Self {
        let density = Some(Densities { father, mother });
        let layers = LayerSpec::one(layer);
        match self.shares.layers.iter_mut().find(|entry| entry.layers == layers) {
            Some(entry) => entry.density = density,
            None => self.shares.layers.push(LayerShares { density, ..LayerShares::of(layers) }),
        }
        self
    }

    /// Shares of a block of layers; the first block that holds a layer decides.
    #[must_use]
    pub fn block(mut self, block: LayerShares) -> Self {
        self.shares.layers.push(block);
        self
    }

    /// How blocks and components act together.
    #[must_use]
    pub fn blocks(mut self, blocks: Blocks) -> Self {
        self.shares.blocks = blocks;
        self
    }

    /// Where the routers of some layers come from; the first rule that holds a layer decides,
    /// else the father's is copied.
    #[must_use]
    pub fn router(mut self, layers: LayerSpec, from: RouterMode) -> Self {
        self.darwin.router.push(RouterRule { layers, from });
        self
    }

    /// Densities of the two task vectors; 1 unless set.
    #[must_use]
    pub fn density(mut self, father: Density, mother: Density) -> Self {
        self.darwin.density = Some(Densities { father, mother });
        self
    }

    /// What norms, angles, thresholds are taken over; the tensor unless set.
    #[must_use]
    pub fn unit(mut self, unit: Unit) -> Self {
        self.darwin.unit = Some(unit);
        self
    }

    /// Copies tensors from one parent.
    #[must_use]
    pub fn copy(mut self, rule: CopyRule) -> Self {
        self.darwin.copy.push(rule);
        self
    }

    /// Seed of the masks; 0 unless set.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.darwin.seed = Some(seed);
        self
    }

    /// How the merge computes; native unless set.
    #[must_use]
    pub fn numerics(mut self, numerics: Numerics) -> Self {
        self.darwin.numerics = Some(numerics);
        self
    }

    /// Dtype that weights are rounded to when they are loaded.
    #[must_use]
    pub fn dtype(mut self, dtype: Dtype) -> Self {
        self.dtype = Some(dtype);
        self
    }

    /// Dtype that weights are rounded to when they are saved.
    #[must_use]
    pub fn out_dtype(mut self, dtype: Dtype) -> Self {
        self.out_dtype = Some(dtype);
        self
    }

    /// What is put into the father's order before the merge.
    #[must_use]
    pub fn align(mut self, align: Align) -> Self {
        self.darwin.align = Some(align);
        self
    }

    /// A parameter of the method, such as `lambda` or `rescale`.
    #[must_use]
    pub fn parameter(mut self, name: &str, value: f64) -> Self {
        self.parameters = self.parameters.with(name, value);
        self
    }

    /// The recipe.
    ///
    /// # Errors
    /// [`Error::Recipe`] for an unknown method or parameters that it does not take.
    pub fn build(self) -> Result<Recipe, Error> {
        let method = Method::find(&self.method).ok_or_else(|| {
            let problem = RecipeProblem {
                file: "<recipe>".to_owned(),
                at: None,
                text: format!("there is no merge method `{}`", self.method),
                hint: format!("use one of {}", validate::method_names()),
            };
            Error::Recipe(vec![problem])
        })?;
        let needs_base = method.uses_task_vectors();
        let base = self.base.or_else(|| needs_base.then(|| self.father.clone()));
        let entry =
            |model: &String| ModelEntry { model: model.clone(), parameters: Parameters::new() };
        let mut recipe = Recipe {
            method,
            base,
            inputs: Inputs::Models(vec![entry(&self.father), entry(&self.mother)]),
            parameters: self.parameters,
            module: None,
            dtype: self.dtype,
            out_dtype: self.out_dtype,
            tokenizer: None,
            chat_template: None,
            darwin: Darwin {
                father: Some(self.father),
                mother: Some(self.mother),
                t: Some(self.shares),
                ..self.darwin
            },
            adapters: std::collections::BTreeMap::new(),
            revisions: std::collections::BTreeMap::new(),
            steps: std::collections::BTreeMap::new(),
            hub: None,
            text: None,
            groups_apart: false,
            folder: None,
            notes: Vec::new(),
        };
        let problems = validate::validate(&mut recipe);
        if problems.is_empty() {
            return Ok(recipe);
        }
        let at_file = problems.into_iter().map(|p| p.problem("<recipe>", None));
        Err(Error::Recipe(at_file.collect()))
    }
}
