//! From recipe and inputs to the operation on one tensor (mergekit 0.1.5, `plan.py`; method 3.1).

use super::check::{Problems, mergeable, shape_hint};
use super::scope::Scope;
use super::{Each, Input, Line, Operation};
use crate::numerics::{Rounding, promoted};
use crate::recipe::{Parent, RouterMode, Selector, filter_matches};
use crate::sources::Source;
use crate::{Method, Numerics, Recipe};
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
    pub(super) recipe: &'r Recipe,
    pub(super) sources: &'r [Source],
    pub(super) structure: usize,
    pub(super) parents: Option<(usize, usize)>,
    pub(super) num_layers: usize,
    pub(super) full_attention: Vec<bool>,
    pub(super) main_dtype: Dtype,
    pub(super) linear: &'static Method,
    pub(super) task_arithmetic: &'static Method,
}

/// An operation with what people should know about it.
pub(super) struct Decision {
    pub(super) operation: Operation,
    /// Shares that differ within the tensor.
    pub(super) each: Option<Each>,
    pub(super) method: &'static str,
    pub(super) parameters: BTreeMap<String, Setting>,
    /// By source.
    pub(super) per_model: Vec<(usize, BTreeMap<String, Setting>)>,
    pub(super) reason: String,
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
        let method = |name| Method::find(name).expect("METHODS has linear and task_arithmetic");
        Self {
            recipe,
            sources,
            structure,
            parents,
            num_layers,
            full_attention,
            main_dtype,
            linear: method("linear"),
            task_arithmetic: method("task_arithmetic"),
        }
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
        let (load, rounding, written) = match self.recipe.numerics() {
            _ if passes => (None, Rounding::Once, first.dtype),
            Numerics::Native => self.native_dtypes(info.dtype),
            Numerics::Mergekit => self.mergekit_dtypes(&inputs),
        };
        info.dtype = written;
        let experts = info.experts().is_some();
        let unit = self.recipe.darwin.unit.filter(|_| experts).unwrap_or_default();
        let record = self.record(&info, &decision, unit, &inputs);
        let Decision { operation, each, .. } = decision;
        Some(Line { info, operation, each, unit, load, rounding, record })
    }

    /// Dtype on loading, rounding of steps, dtype written. What is kept in f32 beside narrower
    /// weights, such as `A_log`, stays so whatever the recipe says.
    fn native_dtypes(&self, dtype: Dtype) -> (Option<Dtype>, Rounding, Dtype) {
        if dtype == Dtype::F32 && self.main_dtype != Dtype::F32 {
            return (None, Rounding::Once, dtype);
        }
        let written = self.recipe.out_dtype.or(self.recipe.dtype);
        (self.recipe.dtype, Rounding::Once, written.unwrap_or(dtype))
    }

    /// The same as mergekit reads it: `dtype` for all inputs, else the dtype that holds them all;
    /// `out_dtype` for all that is written (mergekit 0.1.5, `config.py`).
    fn mergekit_dtypes(&self, inputs: &[Input]) -> (Option<Dtype>, Rounding, Dtype) {
        let stored = inputs.iter().map(|input| self.info(*input).dtype).reduce(promoted);
        let working = self.recipe.dtype.or(stored).unwrap_or(Dtype::F32);
        let written = self.recipe.out_dtype.unwrap_or(working);
        (self.recipe.dtype, Rounding::EachStep(working), written)
    }

    pub(super) fn info(&self, input: Input) -> &'r TensorInfo {
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
            shape_hint(&target.info, &first.shape),
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
        if let Some((parent, reason)) = self.copied(&target.info) {
            return self.copy_parent(target, parent, reason, problems);
        }
        let role = target.info.role;
        let optional = matches!(role, Role::Vision | Role::Mtp | Role::Other);
        let blend = self.recipe.darwin.t.is_some();
        if matches!(role, Role::Vision | Role::Mtp) && blend {
            let reason = "vision and MTP are the structural parent's, byte for byte";
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
        let ruled = blend || !self.recipe.darwin.router.is_empty();
        if role == Role::Router && ruled && !self.has_group(&target.info) {
            let (mode, default) = self.router_mode(target.info.layer);
            let parent = match mode {
                RouterMode::Father => Some(Parent::Father),
                RouterMode::Mother => Some(Parent::Mother),
                RouterMode::Blend | RouterMode::RowWithExpert | RouterMode::Calibrated => None,
            };
            if let Some(parent) = parent {
                let mark = if default { " (default)" } else { "" };
                let reason = format!("router: {}{mark}", parent.name());
                return self.copy_parent(target, parent, reason, problems);
            }
        }
        if blend { self.shares(target, problems) } else { self.by_parameters(target, problems) }
    }

    pub(super) fn copied(&self, info: &TensorInfo) -> Option<(Parent, String)> {
        let own = self.selector(info);
        let rule = self.recipe.darwin.copy.iter().find(|rule| {
            let filter = rule.filter.as_deref().is_none_or(|f| filter_matches(f, &info.name));
            let layer = rule.layers.as_ref().is_none_or(|layers| {
                info.layer.is_some_and(|layer| layers.contains(layer, self.num_layers))
            });
            let part = rule.part.is_none_or(|wanted| own.is_some_and(|own| wanted.holds(own)));
            filter && layer && part
        })?;
        Some((rule.from, format!("copy rule: {}", rule.from.name())))
    }

    pub(super) fn selector(&self, info: &TensorInfo) -> Option<Selector> {
        let layer = info.layer.map_or(0, |layer| layer.0);
        let full = self.full_attention.get(layer).copied().unwrap_or(false);
        Selector::of(info, full)
    }

    pub(super) fn router_mode(&self, layer: Option<LayerIdx>) -> (RouterMode, bool) {
        let rules = &self.recipe.darwin.router;
        let rule = layer
            .and_then(|layer| rules.iter().find(|r| r.layers.contains(layer, self.num_layers)));
        let solved = self.recipe.method.needs_activations();
        let default = if solved { RouterMode::Calibrated } else { RouterMode::default() };
        rule.map_or((default, true), |rule| (rule.from, false))
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
            each: None,
            method,
            parameters: BTreeMap::new(),
            per_model: Vec::new(),
            reason,
        })
    }
}
