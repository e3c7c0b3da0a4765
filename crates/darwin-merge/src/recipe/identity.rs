//! What a recipe is, whatever its models are called and wherever they lie.

use super::Recipe;
use darwin_core::Fingerprint;

impl Recipe {
    /// The role of every model, in the order of [`Recipe::models`]: `father` and `mother` of a
    /// blend or of two models, `base`, else `model1`, `model2`, ... in the order of mention.
    #[must_use]
    pub fn roles(&self) -> Vec<(&str, String)> {
        let fixed =
            [("father", self.father()), ("mother", self.mother()), ("base", self.base.as_deref())];
        let mut others = 0;
        let role = |model: &str| match fixed.iter().find(|(_, of)| *of == Some(model)) {
            Some((role, _)) => (*role).to_owned(),
            None => {
                others += 1;
                format!("model{others}")
            }
        };
        let models = self.models();
        let roles: Vec<String> = models.iter().copied().map(role).collect();
        models.into_iter().zip(roles).collect()
    }

    /// The canonical YAML with roles in the places of models: no path, no name on the Hub.
    #[must_use]
    pub fn logical_yaml(&self) -> String {
        let mut logical = self.clone();
        let roles: Vec<(String, String)> =
            self.roles().into_iter().map(|(model, role)| (model.to_owned(), role)).collect();
        logical.adapters.clear();
        logical.revisions.clear();
        logical.rename_models(|model| {
            roles.iter().find(|(name, _)| name == model).map(|(_, role)| role.clone())
        });
        logical.to_yaml()
    }

    /// The recipe's identity: its logical form and the fingerprints of its models, the same on
    /// every machine. `None` where a model's fingerprint is not known.
    pub fn fingerprint<'a>(
        &self,
        of: impl Fn(&str) -> Option<&'a Fingerprint>,
    ) -> Option<Fingerprint> {
        let yaml = self.logical_yaml();
        let mut parts = vec![("recipe".to_owned(), yaml.as_bytes().to_vec())];
        for (model, role) in self.roles() {
            parts.push((role, of(model)?.as_ref().to_vec()));
        }
        Some(Fingerprint::of("recipe", parts))
    }
}
