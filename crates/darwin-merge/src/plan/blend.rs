//! Blends by shares of the mother (method 3.1).

use super::check::Problems;
use super::each::Each;
use super::lower::{Decision, Lowering, Target, setting};
use super::weights::Row;
use super::{Input, Operation, TaskVector};
use crate::align::block_of;
use crate::methods::{Kind, Sparsifier};
use crate::recipe::{RouterMode, Selector, Shares, Spread};
use crate::{Method, Numerics};
use darwin_checkpoint::{Role, TensorInfo};
use darwin_core::files::Setting;
use darwin_core::{LayerIdx, Part, Share};
use std::collections::BTreeMap;

/// The reason of a router whose rows take the shares of their experts.
const ROWS: &str = "router rows with their experts";

/// The share of a tensor, or those of its experts.
pub(super) enum Given {
    One(Share),
    Each(Vec<Share>),
}

impl Given {
    /// Equal shares are one.
    fn of(shares: Vec<Share>) -> Option<Self> {
        let first = *shares.first()?;
        Some(if shares.iter().all(|t| *t == first) { Self::One(first) } else { Self::Each(shares) })
    }
}

/// What a blend does to one tensor, but for the share.
struct Blend {
    method: &'static Method,
    parents: [Input; 2],
    scale: f64,
    /// Father's and mother's.
    densities: [f64; 2],
    default_density: bool,
    margin: f64,
    /// Whether the child is the parent itself where its share is whole.
    ends: [bool; 2],
}

impl Blend {
    fn rows(&self, weights: [f64; 2]) -> [Row; 2] {
        [0, 1].map(|i| Row {
            input: self.parents[i],
            weight: weights[i],
            density: self.densities[i],
            margin: self.margin,
        })
    }
}

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

    /// Whether a tensor has shares of its own.
    pub(super) fn has_group(&self, info: &TensorInfo) -> bool {
        let groups = self.recipe.groups();
        groups.is_some_and(|groups| groups.get(&info.name).is_some())
    }

    /// A tensor's shares, and the rule that gave them.
    fn given(&self, shares: &Shares, info: &TensorInfo, own: Option<Selector>) -> (Given, String) {
        if let Some(given) = self.recipe.groups().and_then(|groups| groups.get(&info.name))
            && let Some(given) = Given::of(given.to_vec())
        {
            return (given, "t of the group".to_owned());
        }
        let Some(own) = own else {
            let rule = "default t: no part of its own".to_owned();
            return (Given::One(shares.default), rule);
        };
        let layer = info.layer.map(|layer| (layer, self.num_layers));
        let experts = info.shares().map(|(count, _)| count);
        match (own, experts) {
            (Selector::Part(Part::Router), Some(count))
                if self.router_mode(info.layer).0 == RouterMode::RowWithExpert =>
            {
                let (share, rule) = shares.resolve(Part::Routed.into(), layer);
                let rows = self.rows_with_experts(shares, info, layer, count, share);
                let rule = format!("{ROWS}: {rule} of routed");
                (rows.and_then(Given::of).unwrap_or(Given::One(share)), rule)
            }
            (Selector::Part(Part::Routed), Some(count)) => {
                let (share, rule) = shares.resolve(own, layer);
                let listed = shares.of_experts(layer, count, share).and_then(Given::of);
                let rule = if listed.is_some() { "t of the experts in their block" } else { rule };
                (listed.unwrap_or(Given::One(share)), format!("{rule}: {}", own.name()))
            }
            _ => {
                let (share, rule) = shares.resolve(own, layer);
                (Given::One(share), format!("{rule}: {}", own.name()))
            }
        }
    }

    /// The shares of a router's rows where those of the layer's experts differ: the mean over the
    /// experts' matrices, `rest` where nothing names them.
    fn rows_with_experts(
        &self,
        shares: &Shares,
        router: &TensorInfo,
        layer: Option<(LayerIdx, usize)>,
        count: usize,
        rest: Share,
    ) -> Option<Vec<Share>> {
        let block = block_of(&router.name)?;
        let listed = shares.of_experts(layer, count, rest);
        let of_matrix = |matrix: &str| -> Option<Vec<Share>> {
            let name = format!("{block}.experts.{matrix}");
            match shares.groups.as_ref().and_then(|groups| groups.get(&name)) {
                Some([one]) => Some(vec![*one; count]),
                Some(each) if each.len() == count => Some(each.to_vec()),
                _ => listed.clone(),
            }
        };
        let matrices = ["gate_up_proj", "down_proj"].map(of_matrix);
        if matrices.iter().all(Option::is_none) {
            return None;
        }
        let [a, b] = matrices.map(|shares| shares.unwrap_or_else(|| vec![rest; count]));
        let mean = |(a, b): (&Share, &Share)| Share::new(f64::midpoint(a.get(), b.get())).ok();
        a.iter().zip(&b).map(mean).collect()
    }

    /// A blend by shares of the mother.
    pub(super) fn shares(&self, target: &Target<'_>, problems: &mut Problems) -> Option<Decision> {
        let shares = self.recipe.darwin.t.as_ref()?;
        let own = self.selector(&target.info);
        let (given, mut reason) = self.of_ends(own, self.given(shares, &target.info, own));
        let small = Self::is_small(&target.info) || own == Some(Part::Router.into());
        let scale = shares.scale.unwrap_or(1.0);
        let method = match small {
            true if scale != 1.0 => self.task_arithmetic,
            true => self.linear,
            false if self.recipe.method.needs_activations() => self.linear,
            false => self.recipe.method,
        };
        if let (Given::One(share), true) = (&given, self.is_solved(&target.info)) {
            return self.solved(target, share.get(), &reason);
        }
        if small && self.recipe.method != method && !reason.starts_with(ROWS) {
            let how = if scale == 1.0 { "linear" } else { "task_arithmetic" };
            reason.push_str(&format!("; {how} for norms, routers and small tensors"));
        }
        let mut parameters = BTreeMap::new();
        let blend = self.blend(target, shares, method, scale, &mut parameters, problems)?;
        let decision = Decision {
            operation: Operation::Copy(blend.parents[0]),
            each: None,
            method: method.name,
            parameters,
            per_model: Vec::new(),
            reason,
        };
        match given {
            Given::One(t) => self.one(target, &blend, t.get(), decision, problems),
            Given::Each(shares) => self.each(target, &blend, &shares, decision, problems),
        }
    }

    /// Father's and mother's tensor.
    pub(super) fn parents_of(&self, target: &Target<'_>) -> Option<[Input; 2]> {
        let (father, mother) = self.parents?;
        let input = |source: usize| {
            target.inputs.iter().flatten().find(|input| input.source == source).copied()
        };
        Some([input(father)?, input(mother)?])
    }

    fn blend(
        &self,
        target: &Target<'_>,
        shares: &Shares,
        method: &'static Method,
        scale: f64,
        parameters: &mut BTreeMap<String, Setting>,
        problems: &mut Problems,
    ) -> Option<Blend> {
        let (father, mother) = self.parents?;
        let layer = target.info.layer.map(|layer| (layer, self.num_layers));
        let densities = shares
            .density(layer)
            .or(self.recipe.darwin.density)
            .filter(|_| method == self.recipe.method)
            .map(|d| [d.father.get(), d.mother.get()]);
        let default_density = densities.is_none();
        let densities = densities.unwrap_or([1.0, 1.0]);
        let tasks = method.uses_task_vectors();
        let base = target.scope.base;
        // The ends of a blend are the parents themselves, to the bit.
        let whole = |density: f64, parent| {
            !tasks
                || scale == 1.0
                    && (base == Some(parent) || density == 1.0 && self.lambda(target) == 1.0)
        };
        let ends = [
            whole(densities[0], father),
            whole(densities[1], mother) && (base != Some(mother) || !tasks),
        ];
        let margin = match method.margin() {
            Some(name) => self.shared(target, name, parameters, problems)?,
            None => 0.0,
        };
        let parents = self.parents_of(target)?;
        Some(Blend { method, parents, scale, densities, default_density, margin, ends })
    }

    /// One share for the whole tensor.
    fn one(
        &self,
        target: &Target<'_>,
        blend: &Blend,
        t: f64,
        mut decision: Decision,
        problems: &mut Problems,
    ) -> Option<Decision> {
        let whole = [t == 0.0, t == 1.0];
        if let Some(parent) = (0..2).find(|i| whole[*i] && blend.ends[*i]) {
            decision.operation = Operation::Copy(blend.parents[parent]);
            decision.parameters = BTreeMap::from([("t".to_owned(), setting(t, false))]);
            return Some(decision);
        }
        decision.parameters.insert("t".to_owned(), setting(t, false));
        let rows = blend.rows([blend.scale * (1.0 - t), blend.scale * t]);
        decision.operation = match blend.method.kind {
            Kind::Slerp => Operation::Slerp { inputs: blend.parents, t },
            Kind::TaskVectors { .. } => {
                let settings = |row: &Row| row.settings(blend.default_density);
                decision.per_model = self.models(target, &rows, settings)?;
                self.vectors(target, blend, &rows, &mut decision, problems)?
            }
            _ => Operation::Linear {
                terms: rows.map(|row| (row.input, row.weight as f32)).to_vec(),
                convex: true,
                divisor: None,
            },
        };
        Some(decision)
    }

    /// A share for each expert, or for each row of a router.
    fn each(
        &self,
        target: &Target<'_>,
        blend: &Blend,
        shares: &[Share],
        mut decision: Decision,
        problems: &mut Problems,
    ) -> Option<Decision> {
        let shares: Vec<f64> = shares.iter().map(|t| t.get()).collect();
        let spread = Spread::of(shares.iter().copied())?;
        for (name, value) in [("t_mean", spread.mean), ("t_min", spread.min), ("t_max", spread.max)]
        {
            decision.parameters.insert(name.to_owned(), setting(value, false));
        }
        let count = Setting { value: spread.count.into(), default: false };
        decision.parameters.insert("t_shares".to_owned(), count);
        // Each run has its own weights: none of these is used, and none may be 0.
        let rows = blend.rows([1.0, 1.0]);
        decision.operation = match blend.method.kind {
            Kind::Slerp => Operation::Slerp { inputs: blend.parents, t: spread.mean },
            Kind::TaskVectors { .. } => {
                let density = |row: &Row| {
                    let mut settings = row.settings(blend.default_density);
                    settings.remove("weight");
                    settings
                };
                decision.per_model = self.models(target, &rows, density)?;
                self.vectors(target, blend, &rows, &mut decision, problems)?
            }
            _ => Operation::Linear {
                terms: rows.map(|row| (row.input, row.weight as f32)).to_vec(),
                convex: true,
                divisor: None,
            },
        };
        if matches!(decision.operation, Operation::Copy(_)) {
            return Some(decision);
        }
        let inputs = decision.operation.inputs();
        let place = |parent: usize| {
            let source = blend.parents[parent].source;
            inputs.iter().position(|input| input.source == source)
        };
        let ends = [0, 1].map(|parent| place(parent).filter(|_| blend.ends[parent]));
        let mothers = match &decision.operation {
            Operation::TaskVectors { vectors, .. } => {
                vectors.iter().map(|v| v.input.source == blend.parents[1].source).collect()
            }
            _ => Vec::new(),
        };
        let run = target.info.elements() / shares.len();
        decision.each = Some(Each::new(shares, run, blend.scale, ends, mothers));
        Some(decision)
    }

    /// What is said of each model beside the base.
    fn models(
        &self,
        target: &Target<'_>,
        rows: &[Row],
        settings: impl Fn(&Row) -> BTreeMap<String, Setting>,
    ) -> Option<Vec<(usize, BTreeMap<String, Setting>)>> {
        let base = target.scope.base?;
        let others = rows.iter().filter(|row| row.input.source != base);
        Some(others.map(|row| (row.input.source, settings(row))).collect())
    }

    fn vectors(
        &self,
        target: &Target<'_>,
        blend: &Blend,
        rows: &[Row],
        decision: &mut Decision,
        problems: &mut Problems,
    ) -> Option<Operation> {
        if blend.method == self.recipe.method {
            return self.task_vectors(
                target,
                rows,
                Some(false),
                &mut decision.parameters,
                problems,
            );
        }
        // Small tensors: the same sum, not thinned out.
        let base = self.base(target, problems)?;
        let native = self.recipe.numerics() == Numerics::Native;
        let others = rows.iter().filter(|row| row.input.source != base.source).enumerate();
        let vectors: Vec<TaskVector> = others
            .filter(|(_, row)| row.weight != 0.0 || !native)
            .map(|(stream, row)| row.vector(stream))
            .collect();
        if vectors.is_empty() {
            return Some(Operation::Copy(base));
        }
        Some(Operation::TaskVectors {
            base,
            vectors,
            sparsifier: Sparsifier::None,
            consensus: false,
            normalize: false,
            rescale: false,
            lambda: 1.0,
        })
    }

    fn lambda(&self, target: &Target<'_>) -> f64 {
        self.recipe.parameters.find("lambda", &target.info.name).map_or(1.0, |v| v.at(0.0))
    }
}
