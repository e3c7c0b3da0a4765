//! Linear maps whose values are solved from activations (method 2.2, 2.3).

use super::Operation;
use super::blend::Given;
use super::lower::{Decision, Lowering, Target, setting};
use crate::recipe::{RouterMode, Selector};
use darwin_checkpoint::{Role, TensorInfo};
use darwin_core::{Part, Share};
use std::collections::BTreeMap;

impl Lowering<'_> {
    /// Whether a tensor's values are solved; one that has shares of its own is blended.
    pub(super) fn is_solved(&self, info: &TensorInfo) -> bool {
        if self.has_group(info) {
            return false;
        }
        match info.role {
            Role::Router => {
                let matrix = info.shape.len() == 2;
                matrix && self.router_mode(info.layer).0 == RouterMode::Calibrated
            }
            Role::LinearAttention
            | Role::Attention
            | Role::RoutedExpert
            | Role::SharedExpert
            | Role::Mlp => {
                let matrix = info.shape.len() >= 2 && !Self::is_small(info);
                matrix && self.recipe.method.needs_activations()
            }
            _ => false,
        }
    }

    /// With RegMean, embedding, head and final norm are the father's where no rule of their own
    /// says otherwise.
    pub(super) fn of_ends(
        &self,
        own: Option<Selector>,
        (given, rule): (Given, String),
    ) -> (Given, String) {
        let ends = [Part::Embed, Part::Norm, Part::Head].map(|part| Some(Selector::Part(part)));
        let default = ends.contains(&own) && rule.starts_with("default t");
        match Share::new(0.0) {
            Ok(father) if default && self.recipe.method.needs_activations() => {
                (Given::One(father), "regmean takes it from the father".to_owned())
            }
            _ => (given, rule),
        }
    }

    /// The line of a map that is solved; where activations say too little, it is a blend with `t` of
    /// the mother.
    pub(super) fn solved(&self, target: &Target<'_>, t: f64, rule: &str) -> Option<Decision> {
        let [father, mother] = self.parents_of(target)?;
        let given = self.recipe.darwin.regmean.clone();
        let (default, regmean) = (given.is_none(), given.unwrap_or_default());
        let settings = [
            ("b", regmean.b, default),
            ("ridge", regmean.ridge, default),
            ("off_diagonal", regmean.off_diagonal, default),
            ("t", t, false),
        ];
        let named =
            settings.map(|(name, value, default)| (name.to_owned(), setting(value, default)));
        Some(Decision {
            operation: Operation::Solved { father, mother, anchor: t },
            each: None,
            method: "regmean",
            parameters: BTreeMap::from(named),
            per_model: Vec::new(),
            reason: format!(
                "least squares on both parents' inputs; where these are too few, {rule}"
            ),
        })
    }
}
