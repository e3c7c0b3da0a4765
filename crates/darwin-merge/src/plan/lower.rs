//! From recipe and inputs to the operation on one tensor (mergekit.md 1.4, 2; method 3.1).

use super::bind::{Scope, ScopeSource};
use super::check::{Problems, mergeable};
use super::{Input, Line, Operation, TaskVector};
use crate::methods::Kind;
use crate::recipe::{Parent, Part, RouterMode, filter_matches};
use crate::sources::Source;
use crate::{Method, Recipe};
use darwin_checkpoint::{Dtype, Problem, Role, TensorInfo, Unit};
use darwin_core::LayerIdx;
use darwin_core::files::{Action, ManifestLine, Setting, SourceRef};
use std::collections::BTreeMap;

/// An output tensor and the tensors of the same name in the sources of its scope.
pub(super) struct Target<'b> {
    pub(super) info: TensorInfo,
    pub(super) scope: &'b Scope<'b>,
    /// One for each source of the scope.
    pub(super) inputs: Vec<Option<Input>>,
    /// For gradients.
    pub(super) position: f64,
}

/// What all tensors of a merge share.
pub(super) struct Lowering<'r> {
    recipe: &'r Recipe,
    sources: &'r [Source],
    structure: usize,
    parents: Option<(usize, usize)>,
    num_layers: usize,
    full_attention: Vec<bool>,
    main_dtype: Dtype,
    linear: &'static Method,
}

/// An operation with what people should know about it.
struct Decision {
    operation: Operation,
    method: &'static str,
    parameters: BTreeMap<String, Setting>,
    /// By source.
    per_model: Vec<(usize, BTreeMap<String, Setting>)>,
    reason: String,
}

pub(super) fn setting(value: f64, default: bool) -> Setting {
    Setting { value: value.into(), default }
}

impl<'r> Lowering<'r> {
    pub(super) fn new(
        recipe: &'r Recipe,
        sources: &'r [Source],
        structure: usize,
        parents: Option<(usize, usize)>,
        num_layers: usize,
    ) -> Self {
        let manifest = sources[structure].tensors.manifest();
        let mut full_attention = vec![false; manifest.num_layers()];
        let mut bytes: BTreeMap<Dtype, usize> = BTreeMap::new();
        for info in manifest.tensors() {
            if let (Role::Attention, Some(layer)) = (info.role, info.layer) {
                full_attention[layer.0] = true;
            }
            *bytes.entry(info.dtype).or_default() += info.elements() * info.dtype.size();
        }
        let main_dtype = bytes.into_iter().max_by_key(|(_, b)| *b).map_or(Dtype::F32, |(d, _)| d);
        let linear = Method::find("linear").expect("METHODS has linear");
        Self { recipe, sources, structure, parents, num_layers, full_attention, main_dtype, linear }
    }

    /// The line of one output tensor; `None` after a problem.
    pub(super) fn line(&self, target: &Target<'_>, problems: &mut Problems) -> Option<Line> {
        let before = problems.len();
        let decision = self.decide(target, problems)?;
        let inputs = decision.operation.inputs();
        let copies = matches!(decision.operation, Operation::Copy(_));
        if problems.len() > before
            || !(copies || mergeable(&target.info, &inputs, self.sources, problems))
        {
            return None;
        }
        let mut info = target.info.clone();
        let first = self.info(inputs[0]);
        if !self.same_shape(target, &inputs, problems) {
            return None;
        }
        let passes = copies && !(first.dtype.is_mergeable() && info.dtype.is_mergeable());
        let island = info.dtype == Dtype::F32 && self.main_dtype != Dtype::F32;
        let written = self.recipe.out_dtype.or(self.recipe.dtype);
        info.dtype = match written {
            _ if passes => first.dtype,
            Some(dtype) if !island => dtype,
            _ => info.dtype,
        };
        let experts = info.experts().is_some();
        let unit = self.recipe.darwin.unit.filter(|_| experts).unwrap_or_default();
        let load = self.recipe.dtype.filter(|_| !island && !passes);
        let record = self.record(&info, &decision, unit, &inputs);
        Some(Line { info, operation: decision.operation, unit, load, record })
    }

    fn info(&self, input: Input) -> &'r TensorInfo {
        self.sources[input.source].tensors.manifest().get(input.id)
    }

    fn same_shape(&self, target: &Target<'_>, inputs: &[Input], problems: &mut Problems) -> bool {
        let first = self.info(inputs[0]);
        if first.shape == target.info.shape {
            return true;
        }
        problems.push(Problem::new(
            format!(
                "tensor `{}` is {:?} in `{}` and {:?} in `{}`",
                target.info.name,
                target.info.shape,
                self.sources[self.structure].model,
                first.shape,
                self.sources[inputs[0].source].model
            ),
            "merge models of one shape (same size, vocabulary and number of experts)",
        ));
        false
    }

    fn record(
        &self,
        info: &TensorInfo,
        decision: &Decision,
        unit: Unit,
        inputs: &[Input],
    ) -> ManifestLine {
        let action = match decision.operation {
            Operation::Copy(_) if decision.method == "passthrough" => Action::Passthrough,
            Operation::Copy(_) => Action::Copy,
            _ => Action::Blend,
        };
        let sources = inputs.iter().map(|input| SourceRef {
            model: self.sources[input.source].model.clone(),
            tensor: self.info(*input).name.clone(),
            parameters: decision
                .per_model
                .iter()
                .find(|(source, _)| *source == input.source)
                .map(|(_, parameters)| parameters.clone())
                .unwrap_or_default(),
        });
        ManifestLine {
            tensor: info.name.clone(),
            role: info.role.name().to_owned(),
            action,
            method: decision.method.to_owned(),
            unit: unit.name().to_owned(),
            parameters: decision.parameters.clone(),
            sources: sources.collect(),
            reason: decision.reason.clone(),
            dtype: info.dtype.name().to_owned(),
            shape: info.shape.clone(),
        }
    }

    /// Copy rules, then what only the structural parent gives, then the router's rule, then the
    /// shares or the method's own parameters.
    fn decide(&self, target: &Target<'_>, problems: &mut Problems) -> Option<Decision> {
        if let Some((parent, reason)) = self.copied(target) {
            return self.copy_parent(target, parent, reason, problems);
        }
        let role = target.info.role;
        let optional = matches!(role, Role::Vision | Role::Mtp | Role::Other);
        let blend = self.recipe.darwin.t.is_some();
        if optional && blend {
            let reason = "vision, MTP and unknown roles are the structural parent's, byte for byte";
            return self.structural(target, reason.to_owned(), problems);
        }
        let missing = target.inputs.iter().position(Option::is_none);
        if let Some(missing) = missing {
            let model = &self.sources[target.scope.sources[missing].source].model;
            if optional {
                let reason = format!("`{model}` has no such tensor");
                return self.structural(target, reason, problems);
            }
            problems.push(Problem::new(
                format!("`{model}` has no tensor `{}`", target.info.name),
                "merge models of one architecture; check that the download is complete",
            ));
            return None;
        }
        if optional && !target.info.dtype.is_mergeable() {
            let reason = format!("{} is not merged", target.info.dtype);
            return self.structural(target, reason, problems);
        }
        if role == Role::Router && !self.recipe.darwin.router.is_empty()
            || role == Role::Router && blend
        {
            let (mode, default) = self.router_mode(target.info.layer);
            let parent = match mode {
                RouterMode::Father => Some(Parent::Father),
                RouterMode::Mother => Some(Parent::Mother),
                RouterMode::Blend | RouterMode::RowWithExpert => None,
            };
            if let Some(parent) = parent {
                let mark = if default { " (default)" } else { "" };
                let reason = format!("router: {}{mark}", parent.name());
                return self.copy_parent(target, parent, reason, problems);
            }
        }
        if blend { self.shares(target, problems) } else { self.by_parameters(target, problems) }
    }

    fn copied(&self, target: &Target<'_>) -> Option<(Parent, String)> {
        let info = &target.info;
        let part = self.part(info);
        let rule = self.recipe.darwin.copy.iter().find(|rule| {
            let filter = rule.filter.as_deref().is_none_or(|f| filter_matches(f, &info.name));
            let layer = rule.layers.as_ref().is_none_or(|layers| {
                info.layer.is_some_and(|layer| layers.contains(layer, self.num_layers))
            });
            filter && layer && rule.part.is_none_or(|wanted| part == Some(wanted))
        })?;
        Some((rule.from, format!("copy rule: {}", rule.from.name())))
    }

    fn part(&self, info: &TensorInfo) -> Option<Part> {
        let layer = info.layer.map_or(0, |layer| layer.0);
        let full = self.full_attention.get(layer).copied().unwrap_or(false);
        Part::of(info.role, &info.name, full)
    }

    fn router_mode(&self, layer: Option<LayerIdx>) -> (RouterMode, bool) {
        let rules = &self.recipe.darwin.router;
        let rule = layer
            .and_then(|layer| rules.iter().find(|r| r.layers.contains(layer, self.num_layers)));
        rule.map_or((RouterMode::default(), true), |rule| (rule.from, false))
    }

    fn structural(
        &self,
        target: &Target<'_>,
        reason: String,
        problems: &mut Problems,
    ) -> Option<Decision> {
        self.copy_from(target, self.structure, "passthrough", reason, problems)
    }

    fn copy_parent(
        &self,
        target: &Target<'_>,
        parent: Parent,
        reason: String,
        problems: &mut Problems,
    ) -> Option<Decision> {
        let (father, mother) = self.parents?;
        let source = if parent == Parent::Father { father } else { mother };
        self.copy_from(target, source, "copy", reason, problems)
    }

    fn copy_from(
        &self,
        target: &Target<'_>,
        source: usize,
        method: &'static str,
        reason: String,
        problems: &mut Problems,
    ) -> Option<Decision> {
        let found = target.inputs.iter().flatten().find(|input| input.source == source).copied();
        let manifest = self.sources[source].tensors.manifest();
        let found =
            found.or_else(|| manifest.find(&target.info.name).map(|id| Input { source, id }));
        let Some(input) = found else {
            let model = &self.sources[source].model;
            problems.push(Problem::new(
                format!("`{model}` has no tensor `{}`, which was to be copied", target.info.name),
                "copy it from the other parent",
            ));
            return None;
        };
        Some(Decision {
            operation: Operation::Copy(input),
            method,
            parameters: BTreeMap::new(),
            per_model: Vec::new(),
            reason,
        })
    }

    /// Norms and the mixers' small tensors: merged linearly, never thinned out (method 3.1).
    fn is_small(info: &TensorInfo) -> bool {
        const SMALL: [&str; 6] = [
            ".A_log",
            ".dt_bias",
            ".conv1d.weight",
            ".q_norm.weight",
            ".k_norm.weight",
            "norm.weight",
        ];
        info.role == Role::Norm || SMALL.iter().any(|end| info.name.ends_with(end))
    }

    /// A blend by shares of the mother.
    fn shares(&self, target: &Target<'_>, problems: &mut Problems) -> Option<Decision> {
        let shares = self.recipe.darwin.t.as_ref()?;
        let (father, mother) = self.parents?;
        let own = self.part(&target.info)?;
        let row_with_expert = own == Part::Router
            && self.router_mode(target.info.layer).0 == RouterMode::RowWithExpert;
        let part = if row_with_expert { Part::Routed } else { own };
        let layer = target.info.layer.map(|layer| (layer, self.num_layers));
        let (share, rule) = shares.resolve(part, layer);
        let t = share.get();
        let linear = Self::is_small(&target.info) || own == Part::Router;
        let method = if linear { self.linear } else { self.recipe.method };
        let densities = self.recipe.darwin.density.map(|d| (d.father.get(), d.mother.get()));
        let default_density = densities.is_none();
        let (density_father, density_mother) = densities.unwrap_or((1.0, 1.0));
        let tasks = method.uses_task_vectors();
        let reason = match (row_with_expert, linear && self.recipe.method != self.linear) {
            (true, _) => format!("router rows with their experts: {rule} of {}", part.name()),
            (_, true) => {
                format!("{rule}: {}; linear for norms, routers and small tensors", part.name())
            }
            _ => format!("{rule}: {}", part.name()),
        };
        let input = |source: usize| {
            target.inputs.iter().flatten().find(|input| input.source == source).copied()
        };
        let (f, m) = (input(father)?, input(mother)?);
        let mut decision = Decision {
            operation: Operation::Copy(f),
            method: method.name,
            parameters: BTreeMap::from([("t".to_owned(), setting(t, rule == "default t"))]),
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
        let terms = [(f, 1.0 - t, density_father), (m, t, density_mother)];
        decision.operation = match method.kind {
            Kind::Slerp => Operation::Slerp { inputs: [f, m], t },
            Kind::TaskVectors { .. } => {
                let base = target.scope.base?;
                decision.per_model = terms
                    .iter()
                    .filter(|(input, ..)| input.source != base)
                    .map(|(input, weight, density)| {
                        let weight = setting(*weight, false);
                        let density = setting(*density, default_density);
                        let parameters =
                            [("weight".to_owned(), weight), ("density".to_owned(), density)];
                        (input.source, BTreeMap::from(parameters))
                    })
                    .collect();
                self.task_vectors(target, &terms, Some(false), &mut decision.parameters, problems)?
            }
            _ => Operation::Linear {
                terms: terms.iter().map(|(input, w, _)| (*input, *w as f32)).collect(),
                convex: true,
            },
        };
        Some(decision)
    }

    fn lambda(&self, target: &Target<'_>) -> f64 {
        self.recipe.parameters.find("lambda", &target.info.name).map_or(1.0, |v| v.at(0.0))
    }

    /// mergekit's own parameters.
    fn by_parameters(&self, target: &Target<'_>, problems: &mut Problems) -> Option<Decision> {
        let method = self.recipe.method;
        let inputs: Vec<Input> = target.inputs.iter().flatten().copied().collect();
        let mut decision = Decision {
            operation: Operation::Copy(*inputs.first()?),
            method: method.name,
            parameters: BTreeMap::new(),
            per_model: Vec::new(),
            reason: format!("merge_method: {}", method.name),
        };
        let mut rows = Vec::new();
        for (source, input) in target.scope.sources.iter().zip(&inputs) {
            let is_base = target.scope.base == Some(source.source);
            if is_base && method.uses_task_vectors() {
                continue;
            }
            let mut own = BTreeMap::new();
            let mut value = |name: &str| self.own(target, source, *input, name, &mut own, problems);
            let row = match method.kind {
                Kind::Passthrough => (value("scale"), Some(1.0)),
                Kind::Linear => (value("weight"), Some(1.0)),
                Kind::Slerp => (Some(1.0), Some(1.0)),
                Kind::TaskVectors { .. } => (value("weight"), value("density")),
            };
            decision.per_model.push((source.source, own));
            if let (Some(weight), Some(density)) = row {
                rows.push((*input, weight, density));
            }
        }
        let operation = match method.kind {
            Kind::Passthrough => rows.first().map(|(input, scale, _)| match *scale {
                1.0 => Operation::Copy(*input),
                scale => Operation::Scale(*input, scale as f32),
            }),
            Kind::Linear => self.weighted(target, &rows, &mut decision.parameters, problems),
            Kind::Slerp => self.slerp(target, &inputs, &mut decision.parameters, problems),
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
        rows: &[(Input, f64, f64)],
        settings: &mut BTreeMap<String, Setting>,
        problems: &mut Problems,
    ) -> Option<Operation> {
        let normalize = self.shared(target, "normalize", settings, problems)? != 0.0;
        let sum: f64 = rows.iter().map(|(_, weight, _)| weight).sum();
        if normalize && sum == 0.0 {
            problems.push(Problem::new(
                format!("the weights of tensor `{}` sum to 0", target.info.name),
                "give other weights, or write `normalize: false`",
            ));
            return None;
        }
        let divisor = if normalize { sum } else { 1.0 };
        let terms: Vec<(Input, f32)> =
            rows.iter().map(|(input, weight, _)| (*input, (weight / divisor) as f32)).collect();
        Some(Operation::Linear { terms, convex: normalize || sum == 1.0 })
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
        Some(match t {
            0.0 => Operation::Copy(first),
            1.0 => Operation::Copy(second),
            t => Operation::Slerp { inputs: [first, second], t },
        })
    }

    fn task_vectors(
        &self,
        target: &Target<'_>,
        rows: &[(Input, f64, f64)],
        normalize: Option<bool>,
        settings: &mut BTreeMap<String, Setting>,
        problems: &mut Problems,
    ) -> Option<Operation> {
        let Kind::TaskVectors { sparsifier, consensus } = self.recipe.method.kind else {
            return None;
        };
        let base_source = target.scope.base?;
        let base = target.inputs.iter().flatten().find(|input| input.source == base_source);
        let Some(base) = base.copied() else {
            let model = &self.sources[base_source].model;
            problems.push(Problem::new(
                format!("the base `{model}` is not among the sources of `{}`", target.info.name),
                "name it in every slice",
            ));
            return None;
        };
        let normalize = match normalize {
            Some(fixed) => fixed,
            None => self.shared(target, "normalize", settings, problems)? != 0.0,
        };
        let rescale = self.shared(target, "rescale", settings, problems)? != 0.0;
        let lambda = self.shared(target, "lambda", settings, problems)? as f32;
        let vectors: Vec<TaskVector> = rows
            .iter()
            .filter(|(input, ..)| input.source != base_source)
            .enumerate()
            .filter(|(_, (_, weight, _))| *weight != 0.0 || normalize)
            .map(|(stream, (input, weight, density))| TaskVector {
                input: *input,
                weight: *weight,
                density: *density,
                stream,
            })
            .collect();
        if vectors.is_empty() || lambda == 0.0 {
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

    /// A parameter that all models share, by the precedence of mergekit.md 1.4.
    fn shared(
        &self,
        target: &Target<'_>,
        name: &str,
        settings: &mut BTreeMap<String, Setting>,
        problems: &mut Problems,
    ) -> Option<f64> {
        let scopes = [target.scope.parameters, &self.recipe.parameters];
        let given = scopes.into_iter().find_map(|scope| scope.find(name, &target.info.name));
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
        let tensor = &self.info(input).name;
        let scopes = [source.parameters, target.scope.parameters, &self.recipe.parameters];
        let given = scopes.into_iter().find_map(|scope| scope.find(name, tensor));
        let model = Some(self.sources[source.source].model.as_str());
        self.value(target, name, given.map(|v| v.at(target.position)), model, settings, problems)
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
