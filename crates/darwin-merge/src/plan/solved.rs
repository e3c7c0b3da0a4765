//! Linear maps whose values are solved from activations (method 2.2, 2.3).

use super::lower::{Decision, Lowering, setting};
use super::{Input, Operation};
use crate::recipe::{Part, RouterMode};
use darwin_checkpoint::{Role, TensorInfo};
use darwin_core::Share;
use std::collections::BTreeMap;

impl Lowering<'_> {
    /// Whether a tensor's values are solved.
    pub(super) fn is_solved(&self, info: &TensorInfo) -> bool {
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
        part: Option<Part>,
        share: Share,
        rule: &'static str,
    ) -> (Share, &'static str) {
        if part == Some(Part::Embed)
            && rule == "default t"
            && self.recipe.method.needs_activations()
        {
            let father = Share::new(0.0).unwrap_or(share);
            return (father, "regmean takes it from the father");
        }
        (share, rule)
    }

    /// The line of a map that is solved; where activations say too little, it is a blend with `t` of
    /// the mother.
    pub(super) fn solved(&self, father: Input, mother: Input, t: f64, rule: &str) -> Decision {
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
        Decision {
            operation: Operation::Solved { father, mother, anchor: t },
            method: "regmean",
            parameters: BTreeMap::from(named),
            per_model: Vec::new(),
            reason: format!(
                "least squares on both parents' inputs; where these are too few, {rule}"
            ),
        }
    }
}
