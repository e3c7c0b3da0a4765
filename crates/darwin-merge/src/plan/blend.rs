//! Blends by shares of the mother (method 3.1).

use super::Operation;
use super::check::Problems;
use super::lower::{Decision, Lowering, Target, setting};
use super::weights::Row;
use crate::methods::Kind;
use crate::recipe::{Part, RouterMode};
use darwin_checkpoint::{Role, TensorInfo};
use std::collections::BTreeMap;

impl Lowering<'_> {
    /// Norms and the mixers' small tensors: merged linearly, never thinned out (method 3.1).
    pub(super) fn is_small(info: &TensorInfo) -> bool {
        const SMALL: [&str; 6] = [
            ".A_log",
            ".dt_bias",
            ".conv1d.weight",
            ".q_norm.weight",
            ".k_norm.weight",
            "norm.weight",
        ];
        let vector = info.role == Role::Other && info.shape.len() <= 1;
        info.role == Role::Norm || vector || SMALL.iter().any(|end| info.name.ends_with(end))
    }

    /// A blend by shares of the mother.
    pub(super) fn shares(&self, target: &Target<'_>, problems: &mut Problems) -> Option<Decision> {
        let shares = self.recipe.darwin.t.as_ref()?;
        let (father, mother) = self.parents?;
        let own = self.part(&target.info);
        let row_with_expert = own == Some(Part::Router)
            && self.router_mode(target.info.layer).0 == RouterMode::RowWithExpert;
        let part = if row_with_expert { Some(Part::Routed) } else { own };
        let layer = target.info.layer.map(|layer| (layer, self.num_layers));
        let (share, rule) = match part {
            Some(part) => shares.resolve(part, layer),
            None => (shares.default, "default t"),
        };
        let (share, rule) = self.of_ends(own, share, rule);
        let part = part.map_or("no part of its own", Part::name);
        let t = share.get();
        let linear = Self::is_small(&target.info) || own == Some(Part::Router);
        let solved = self.recipe.method.needs_activations();
        let method = if linear || solved { self.linear } else { self.recipe.method };
        let densities = shares
            .density(layer)
            .or(self.recipe.darwin.density)
            .map(|d| (d.father.get(), d.mother.get()));
        let default_density = densities.is_none();
        let (density_father, density_mother) = densities.unwrap_or((1.0, 1.0));
        let tasks = method.uses_task_vectors();
        let linearly = linear && self.recipe.method != self.linear;
        let reason = reason(row_with_expert, linearly, rule, part);
        let input = |source: usize| {
            target.inputs.iter().flatten().find(|input| input.source == source).copied()
        };
        let (f, m) = (input(father)?, input(mother)?);
        if self.is_solved(&target.info) {
            return Some(self.solved(f, m, t, &format!("{rule}: {part}")));
        }
        let mut decision = Decision {
            operation: Operation::Copy(f),
            method: method.name,
            parameters: BTreeMap::from([("t".to_owned(), setting(t, false))]),
            per_model: Vec::new(),
            reason,
        };
        // The ends of a blend are the parents themselves, to the bit.
        let whole = |density: f64, parent| {
            !tasks
                || target.scope.base == Some(parent)
                || density == 1.0 && self.lambda(target) == 1.0
        };
        if t == 0.0 && whole(density_father, father) {
            return Some(decision);
        }
        if t == 1.0 && whole(density_mother, mother) && target.scope.base != Some(mother)
            || t == 1.0 && !tasks
        {
            decision.operation = Operation::Copy(m);
            return Some(decision);
        }
        let margin = match method.margin() {
            Some(name) => self.shared(target, name, &mut decision.parameters, problems)?,
            None => 0.0,
        };
        let terms = [
            Row { input: f, weight: 1.0 - t, density: density_father, margin },
            Row { input: m, weight: t, density: density_mother, margin },
        ];
        decision.operation = match method.kind {
            Kind::Slerp => Operation::Slerp { inputs: [f, m], t },
            Kind::TaskVectors { .. } => {
                let base = target.scope.base?;
                decision.per_model = terms
                    .iter()
                    .filter(|row| row.input.source != base)
                    .map(|row| (row.input.source, row.settings(default_density)))
                    .collect();
                self.task_vectors(target, &terms, Some(false), &mut decision.parameters, problems)?
            }
            _ => Operation::Linear {
                terms: terms.map(|row| (row.input, row.weight as f32)).to_vec(),
                convex: true,
                divisor: None,
            },
        };
        Some(decision)
    }

    fn lambda(&self, target: &Target<'_>) -> f64 {
        self.recipe.parameters.find("lambda", &target.info.name).map_or(1.0, |v| v.at(0.0))
    }
}

/// Why a tensor gets its share.
fn reason(row_with_expert: bool, linearly: bool, rule: &str, part: &str) -> String {
    match (row_with_expert, linearly) {
        (true, _) => format!("router rows with their experts: {rule} of {part}"),
        (_, true) => format!("{rule}: {part}; linear for norms, routers and small tensors"),
        _ => format!("{rule}: {part}"),
    }
}
