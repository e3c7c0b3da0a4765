//! Methods with mergekit's own parameters (mergekit 0.1.5, `config.py`).

use super::check::Problems;
use super::lower::{Decision, Lowering, Target, setting};
use super::scope::ScopeSource;
use super::{Input, Operation, TaskVector};
use crate::Numerics;
use crate::align::block_of;
use crate::methods::torch_sum::few;
use crate::methods::{Kind, Sparsifier};
use crate::recipe::RouterMode;
use darwin_checkpoint::{Problem, Role};
use darwin_core::files::Setting;
use std::borrow::Cow;
use std::collections::BTreeMap;

/// A tensor with the coefficients of its model.
#[derive(Clone, Copy)]
pub(super) struct Row {
    pub(super) input: Input,
    pub(super) weight: f64,
    pub(super) density: f64,
    pub(super) margin: f64,
}

impl Row {
    /// The task vector of its model.
    pub(super) fn vector(&self, stream: usize) -> TaskVector {
        let Self { input, weight, density, margin } = *self;
        TaskVector { input, weight, density, margin, stream, first_word: 0 }
    }

    /// Weight and density for people; the density may be the default.
    pub(super) fn settings(&self, default_density: bool) -> BTreeMap<String, Setting> {
        BTreeMap::from([
            ("weight".to_owned(), setting(self.weight, false)),
            ("density".to_owned(), setting(self.density, default_density)),
        ])
    }
}

impl Lowering<'_> {
    /// mergekit's own parameters.
    pub(super) fn by_parameters(
        &self,
        target: &Target<'_>,
        problems: &mut Problems,
    ) -> Option<Decision> {
        let method = self.recipe.method;
        let inputs: Vec<Input> = target.inputs.iter().flatten().copied().collect();
        let mut decision = Decision {
            operation: Operation::Copy(*inputs.first()?),
            each: None,
            method: method.name,
            parameters: BTreeMap::new(),
            per_model: Vec::new(),
            reason: format!("merge_method: {}", method.name),
        };
        if self.goes_with_experts(target) {
            decision.reason.push_str(", router rows with their experts");
        }
        let mut rows = Vec::new();
        for (source, input) in target.scope.sources.iter().zip(&inputs) {
            let is_base = target.scope.base == Some(source.source);
            if is_base && method.anchored() {
                continue;
            }
            let mut own = BTreeMap::new();
            let mut value = |name: &str| self.own(target, source, *input, name, &mut own, problems);
            let row = match method.kind {
                Kind::Passthrough => (value("scale"), Some(1.0), Some(0.0)),
                Kind::Linear => (value("weight"), Some(1.0), Some(0.0)),
                Kind::Formula(rule) if rule.weighs() => (value("weight"), Some(1.0), Some(0.0)),
                Kind::Slerp | Kind::Formula(_) | Kind::Solved => (Some(1.0), Some(1.0), Some(0.0)),
                Kind::TaskVectors { .. } => {
                    let margin = method.margin().map_or(Some(0.0), &mut value);
                    (value("weight"), value("density"), margin)
                }
            };
            decision.per_model.push((source.source, own));
            if let (Some(weight), Some(density), Some(margin)) = row {
                rows.push(Row { input: *input, weight, density, margin });
            }
        }
        let operation = match method.kind {
            Kind::Passthrough => rows.first().map(|row| match row.weight {
                1.0 => Operation::Copy(row.input),
                scale => Operation::Scale(row.input, scale as f32),
            }),
            Kind::Linear => self.weighted(target, &rows, &mut decision.parameters, problems),
            // refused without shares
            Kind::Solved => None,
            Kind::Slerp => self.slerp(target, &inputs, &mut decision.parameters, problems),
            Kind::Formula(rule) => {
                self.formula(rule, target, &rows, &mut decision.parameters, problems)
            }
            Kind::TaskVectors { .. } => {
                self.task_vectors(target, &rows, None, &mut decision.parameters, problems)
            }
        };
        decision.operation = operation?;
        Some(decision)
    }

    fn weighted(
        &self,
        target: &Target<'_>,
        rows: &[Row],
        settings: &mut BTreeMap<String, Setting>,
        problems: &mut Problems,
    ) -> Option<Operation> {
        let normalize = self.shared(target, "normalize", settings, problems)? != 0.0;
        let sum: f64 = rows.iter().map(|row| row.weight).sum();
        if normalize && sum == 0.0 {
            problems.push(Problem::new(
                format!("the weights of tensor `{}` sum to 0", target.info.name),
                "give other weights, or write `normalize: false`",
            ));
            return None;
        }
        let convex = normalize || sum == 1.0;
        let terms = |divisor: f64| -> Vec<(Input, f32)> {
            rows.iter().map(|row| (row.input, (row.weight / divisor) as f32)).collect()
        };
        Some(match self.recipe.numerics() {
            Numerics::Native => {
                let terms = terms(if normalize { sum } else { 1.0 });
                Operation::Linear { terms, convex, divisor: None }
            }
            Numerics::Mergekit => {
                let terms = terms(1.0);
                let weights: Vec<f32> = terms.iter().map(|(_, weight)| *weight).collect();
                Operation::Linear { terms, convex, divisor: normalize.then(|| few(&weights)) }
            }
        })
    }

    fn slerp(
        &self,
        target: &Target<'_>,
        inputs: &[Input],
        settings: &mut BTreeMap<String, Setting>,
        problems: &mut Problems,
    ) -> Option<Operation> {
        let t = self.shared(target, "t", settings, problems)?;
        let base = target.scope.base?;
        let first = inputs.iter().find(|input| input.source == base).copied();
        let second = inputs.iter().find(|input| input.source != base).copied();
        let (Some(first), Some(second)) = (first, second) else {
            let model = &self.sources[base].model;
            problems.push(Problem::new(
                format!(
                    "`slerp` of `{}`: the base `{model}` is not among the two",
                    target.info.name
                ),
                "name it among the sources",
            ));
            return None;
        };
        let native = self.recipe.numerics() == Numerics::Native;
        Some(match t {
            0.0 if native => Operation::Copy(first),
            1.0 if native => Operation::Copy(second),
            t => Operation::Slerp { inputs: [first, second], t },
        })
    }

    pub(super) fn task_vectors(
        &self,
        target: &Target<'_>,
        rows: &[Row],
        normalize: Option<bool>,
        settings: &mut BTreeMap<String, Setting>,
        problems: &mut Problems,
    ) -> Option<Operation> {
        let Kind::TaskVectors { sparsifier, consensus } = self.recipe.method.kind else {
            return None;
        };
        let base = self.base(target, problems)?;
        let normalize = match normalize {
            Some(fixed) => fixed,
            None => self.shared(target, "normalize", settings, problems)? != 0.0,
        };
        let rescale = self.shared(target, "rescale", settings, problems)? != 0.0;
        let lambda = self.shared(target, "lambda", settings, problems)? as f32;
        // mergekit draws masks for vectors without weight, too.
        let native = self.recipe.numerics() == Numerics::Native;
        let vectors: Vec<TaskVector> = rows
            .iter()
            .filter(|row| row.input.source != base.source)
            .enumerate()
            .filter(|(_, row)| row.weight != 0.0 || normalize || !native)
            .map(|(stream, row)| row.vector(stream))
            .collect();
        if sparsifier == Sparsifier::Ranked {
            self.check_chances(target, &vectors, problems)?;
        }
        if vectors.is_empty() || lambda == 0.0 && native {
            return Some(Operation::Copy(base));
        }
        Some(Operation::TaskVectors {
            base,
            vectors,
            sparsifier,
            consensus,
            normalize,
            rescale,
            lambda,
        })
    }

    /// The base's tensor.
    pub(super) fn base(&self, target: &Target<'_>, problems: &mut Problems) -> Option<Input> {
        let source = target.scope.base?;
        let found = target.inputs.iter().flatten().find(|input| input.source == source);
        if found.is_none() {
            let model = &self.sources[source].model;
            problems.push(Problem::new(
                format!("the base `{model}` is not among the sources of `{}`", target.info.name),
                "name it in every slice",
            ));
        }
        found.copied()
    }

    /// A parameter that all models share, by the precedence of mergekit 0.1.5, `config.py`.
    pub(super) fn shared(
        &self,
        target: &Target<'_>,
        name: &str,
        settings: &mut BTreeMap<String, Setting>,
        problems: &mut Problems,
    ) -> Option<f64> {
        let scopes = [target.scope.parameters, &self.recipe.parameters];
        let tensor = self.decisive(target, &target.info.name);
        let given = scopes.into_iter().find_map(|scope| scope.find(name, &tensor));
        self.value(target, name, given.map(|v| v.at(target.position)), None, settings, problems)
    }

    /// A parameter of one model, filtered by the name of its own tensor.
    fn own(
        &self,
        target: &Target<'_>,
        source: &ScopeSource<'_>,
        input: Input,
        name: &str,
        settings: &mut BTreeMap<String, Setting>,
        problems: &mut Problems,
    ) -> Option<f64> {
        let tensor = self.decisive(target, &self.info(input).name);
        let scopes = [source.parameters, target.scope.parameters, &self.recipe.parameters];
        let given = scopes.into_iter().find_map(|scope| scope.find(name, &tensor));
        let model = Some(self.sources[source.source].model.as_str());
        self.value(target, name, given.map(|v| v.at(target.position)), model, settings, problems)
    }

    /// Whether a router's rows move with its experts (method 2.2).
    fn goes_with_experts(&self, target: &Target<'_>) -> bool {
        target.info.role == Role::Router
            && self.router_mode(target.info.layer).0 == RouterMode::RowWithExpert
    }

    /// The name that filters see: the experts' own for a router whose rows move with them.
    fn decisive<'n>(&self, target: &Target<'_>, name: &'n str) -> Cow<'n, str> {
        match block_of(name).filter(|_| self.goes_with_experts(target)) {
            Some(block) => Cow::Owned(format!("{block}.experts.gate_up_proj")),
            None => Cow::Borrowed(name),
        }
    }

    fn value(
        &self,
        target: &Target<'_>,
        name: &str,
        given: Option<f64>,
        model: Option<&str>,
        settings: &mut BTreeMap<String, Setting>,
        problems: &mut Problems,
    ) -> Option<f64> {
        let default = self.recipe.method.parameter(name).and_then(|p| p.default);
        let Some(value) = given.or(default) else {
            let of = model.map(|model| format!(" of `{model}`")).unwrap_or_default();
            problems.push(Problem::new(
                format!("the parameter `{name}`{of} is missing for tensor `{}`", target.info.name),
                format!("give `{name}` under `parameters`, without a filter or for this tensor"),
            ));
            return None;
        };
        settings.insert(name.to_owned(), setting(value, given.is_none()));
        Some(value)
    }
}
