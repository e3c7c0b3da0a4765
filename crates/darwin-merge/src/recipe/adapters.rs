//! Models with an adapter on them: `base+adapter` is a model of its own (mergekit.md 1.7).

use super::Recipe;
use super::emit::quote;
use std::path::PathBuf;

/// What stands behind the name `base+adapter`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdapterRef {
    /// The base model's folder as written.
    pub base: String,
    /// The adapter's folder as written.
    pub lora: String,
}

impl AdapterRef {
    /// The name that recipes, plans and manifests use: `base+adapter`.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}+{}", self.base, self.lora)
    }

    /// The reference in YAML; a path with the signs of revisions and adapters needs a mapping.
    pub(super) fn emit(&self) -> String {
        if self.base.contains(['@', '+']) || self.lora.contains(['@', '+']) {
            let (base, lora) = (quote(&self.base), quote(&self.lora));
            return format!("{{model: {{path: {base}}}, lora: {{path: {lora}}}}}");
        }
        quote(&self.name())
    }
}

impl Recipe {
    /// Base and adapter of a model that is both.
    #[must_use]
    pub fn adapter(&self, model: &str) -> Option<&AdapterRef> {
        self.adapters.get(model)
    }

    /// Where a model lies (for one with an adapter: where its base lies): beside the recipe if
    /// there is such a folder, else as seen from the working directory.
    #[must_use]
    pub fn resolve(&self, model: &str) -> PathBuf {
        self.locate(self.adapter(model).map_or(model, |adapter| &adapter.base))
    }

    /// Where the adapter of a model lies, by the same rule.
    #[must_use]
    pub fn resolve_adapter(&self, model: &str) -> Option<PathBuf> {
        self.adapter(model).map(|adapter| self.locate(&adapter.lora))
    }

    fn locate(&self, path: &str) -> PathBuf {
        let beside = self.folder.as_ref().map(|folder| folder.join(path));
        beside.filter(|path| path.exists()).unwrap_or_else(|| PathBuf::from(path))
    }
}
