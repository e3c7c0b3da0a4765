//! Recipes with something changed: parents, seed, numerics, how the child is written, where models
//! lie.

use super::{HubCache, Recipe, RegMean};
use crate::Numerics;
use darwin_checkpoint::ExpertLayout;
use std::path::PathBuf;

impl Recipe {
    /// The same recipe for other parents: every mention of the father and of the mother is
    /// replaced (`darwin merge CONFIG OUT --father F --mother M`). In a recipe without two
    /// recognisable parents nothing is.
    #[must_use]
    pub fn with_parents(&self, father: Option<&str>, mother: Option<&str>) -> Self {
        let old = (self.father().map(str::to_owned), self.mother().map(str::to_owned));
        let mut changed = self.clone();
        changed.rename_models(|model| {
            if Some(model) == old.0.as_deref() {
                father.map(str::to_owned)
            } else if Some(model) == old.1.as_deref() {
                mother.map(str::to_owned)
            } else {
                None
            }
        });
        let named: Vec<String> = changed.models().iter().map(|m| (*m).to_owned()).collect();
        let tokenizer = changed.tokenizer().to_owned();
        changed.adapters.retain(|name, _| named.contains(name) || *name == tokenizer);
        changed.text = None;
        changed
    }

    /// The same recipe with a place for models that are named as on the Hub and are no folders.
    #[must_use]
    pub fn with_hub_cache(mut self, hub: HubCache) -> Self {
        self.hub = Some(hub);
        self
    }

    /// The same recipe where a model that another document of its file makes lies in a folder.
    #[must_use]
    pub fn with_step(mut self, name: &str, folder: PathBuf) -> Self {
        self.steps.insert(name.to_owned(), folder);
        self
    }

    /// The same recipe with another seed for its masks.
    #[must_use]
    pub fn with_seed(&self, seed: u64) -> Self {
        self.changed(|recipe| recipe.darwin.seed = Some(seed))
    }

    /// The same recipe, computed as [`Numerics`] says.
    #[must_use]
    pub fn with_numerics(&self, numerics: Numerics) -> Self {
        self.changed(|recipe| recipe.darwin.numerics = Some(numerics))
    }

    /// The same recipe with routed experts written in one layout; `None` is the structural
    /// parent's.
    #[must_use]
    pub fn with_layout(&self, layout: Option<ExpertLayout>) -> Self {
        self.changed(|recipe| recipe.darwin.layout = layout)
    }

    /// The same recipe for the language model alone.
    #[must_use]
    pub fn text_only(&self) -> Self {
        self.changed(|recipe| recipe.darwin.text_only = true)
    }

    /// The same recipe with other settings of RegMean.
    #[must_use]
    pub fn with_regmean(&self, regmean: RegMean) -> Self {
        self.changed(|recipe| recipe.darwin.regmean = Some(regmean))
    }

    fn changed(&self, change: impl FnOnce(&mut Self)) -> Self {
        let mut changed = self.clone();
        change(&mut changed);
        // What the user wrote is no longer what is done.
        changed.text = None;
        changed
    }
}
