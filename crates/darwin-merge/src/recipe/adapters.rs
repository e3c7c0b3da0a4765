//! Models with an adapter on them: `base+adapter` is a model of its own (mergekit 0.1.5, `common.py`).

use super::emit::quote;
use super::{HubRef, Recipe};
use darwin_checkpoint::Problem;
use std::path::{Path, PathBuf};

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
    pub(super) fn emit(&self, recipe: &Recipe) -> String {
        if self.base.contains(['@', '+']) || self.lora.contains(['@', '+']) {
            let (base, lora) = (recipe.place(&self.base), recipe.place(&self.lora));
            return format!("{{model: {base}, lora: {lora}}}");
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

    /// A folder or a revision on the Hub as a mapping in YAML.
    pub(super) fn place(&self, path: &str) -> String {
        self.revisions.get(path).map_or_else(|| format!("{{path: {}}}", quote(path)), HubRef::emit)
    }

    /// Where a model lies (for one with an adapter: where its base lies): beside the recipe if
    /// there is such a folder, else as seen from the working directory, else in the Hub's cache.
    #[must_use]
    pub fn resolve(&self, model: &str) -> PathBuf {
        self.locate(self.adapter(model).map_or(model, |adapter| &adapter.base))
    }

    /// Where the adapter of a model lies, by the same rule.
    #[must_use]
    pub fn resolve_adapter(&self, model: &str) -> Option<PathBuf> {
        self.adapter(model).map(|adapter| self.locate(&adapter.lora))
    }

    /// The problem of a revision that is not on this disk.
    pub(crate) fn not_cached(&self, model: &str, folder: &Path) -> Option<Problem> {
        let base = self.adapter(model).map_or(model, |adapter| &adapter.base);
        let hub = self.revisions.get(base).filter(|_| !folder.exists())?;
        let text = format!("`{base}` is not in the Hub's cache on this disk");
        let hint = format!(
            "download it (`hf download {} --revision {}`), or name a folder; a path with `@` in it is \
             written as `{{model: {{path: PATH}}}}`",
            hub.name, hub.revision
        );
        Some(Problem::new(text, hint))
    }

    fn locate(&self, path: &str) -> PathBuf {
        if let Some(folder) = self.steps.get(path) {
            return folder.clone();
        }
        let cached = |name: &str, revision| self.hub.as_ref()?.snapshot(name, revision);
        let found = match self.revisions.get(path) {
            Some(hub) => cached(&hub.name, Some(&hub.revision)),
            None => {
                let beside = self.folder.as_ref().map(|folder| folder.join(path));
                let folders = [beside, Some(PathBuf::from(path))];
                let there = folders.into_iter().flatten().find(|folder| folder.exists());
                there.or_else(|| cached(path, None))
            }
        };
        found.unwrap_or_else(|| PathBuf::from(path))
    }
}
