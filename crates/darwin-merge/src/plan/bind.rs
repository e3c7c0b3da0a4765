//! Resolves each output tensor to its input tensors.

use super::check::{self, Problems};
use super::depth::{Kinds, Origin};
use super::extent::{Extent, is_tied};
use super::lower::{Lowering, Target};
use super::scope::{Blocks, Scope, position, scopes};
use super::{Input, Line, Plan, check_shares, child, order};
use crate::recipe::Inputs;
use crate::sources::Source;
use crate::{Error, Numerics, Recipe, Sources};
use darwin_checkpoint::{MAX_NUMBER, MAX_TENSORS, Manifest, Problem, Role, TensorId, TensorInfo};
use darwin_core::LayerIdx;
use std::collections::{BTreeMap, BTreeSet};

/// Plans a merge; every problem that headers can show is reported at once, with those `found`
/// before.
pub(crate) fn plan(recipe: &Recipe, sources: &Sources, found: Problems) -> Result<Plan, Error> {
    let mut problems = Vec::new();
    for model in recipe.models() {
        if sources.position(model).is_none() {
            problems.push(Problem::new(format!("the model `{model}` is not open"), "open it"));
        }
    }
    check::numerics(recipe, &mut problems);
    if !problems.is_empty() {
        return Err(Error::Plan(problems));
    }
    problems.extend(found);
    check::tokenizers(recipe, sources, &mut problems);
    check::modules(recipe, sources, &mut problems);
    let binding = Binding::new(recipe, sources);
    binding.check_depths(&mut problems);
    if !problems.is_empty() {
        return Err(Error::Plan(problems));
    }
    let mut lines = Vec::new();
    let targets = binding.targets(&mut problems);
    let copied = |info: &TensorInfo| binding.lowering.copied(info).is_some();
    check_shares::shares(recipe, &targets, copied, binding.num_layers, &mut problems);
    for target in targets {
        let line = binding.lowering.line(&target, &mut problems);
        if line.is_none() && problems.is_empty() {
            let text = format!("no rule of the recipe covers tensor `{}`", target.info.name);
            problems.push(Problem::new(text, "report this recipe as an issue"));
        }
        lines.extend(line);
    }
    let child = child::child(&binding, &mut lines, &mut problems);
    if !problems.is_empty() {
        return Err(Error::Plan(problems));
    }
    Ok(binding.finish(lines, child))
}

/// Everything that planning looks at.
pub(super) struct Binding<'r> {
    pub(super) recipe: &'r Recipe,
    pub(super) sources: &'r [Source],
    pub(super) structure: usize,
    pub(super) scopes: Vec<Scope<'r>>,
    pub(super) num_layers: usize,
    pub(super) extent: Extent,
    /// By source.
    pub(super) kinds: Vec<Kinds>,
    lowering: Lowering<'r>,
}

impl<'r> Binding<'r> {
    fn new(recipe: &'r Recipe, sources: &'r Sources) -> Self {
        let at = |model: &str| sources.position(model).unwrap_or_default();
        let list = &sources.list[..];
        let structure = at(recipe.structure());
        let scopes = scopes(recipe, list, &at);
        let num_layers = match &recipe.inputs {
            Inputs::Models(_) => list[structure].tensors.manifest().num_layers(),
            Inputs::Slices(_) => scopes.iter().map(Scope::len).fold(0, usize::saturating_add),
        };
        let parents = recipe.father().map(at).zip(recipe.mother().map(at));
        let lowering = Lowering::new(recipe, list, structure, parents, num_layers);
        let extent = Extent::new(&list[structure], recipe.darwin.text_only, num_layers);
        let kinds = list.iter().map(|source| Kinds::of(source.tensors.as_ref())).collect();
        Self { recipe, sources: list, structure, scopes, num_layers, extent, kinds, lowering }
    }

    /// Where the child's layers come from.
    pub(super) fn origins(&self) -> Vec<Origin> {
        let layers = |scope: &Scope<'r>| {
            let lead = scope.sources.first().map(|s| (s.source, s.layers.clone()));
            let (source, layers) = lead.unwrap_or_default();
            layers.map(move |layer| Origin { source, layer })
        };
        self.scopes.iter().flat_map(layers).collect()
    }

    pub(super) fn stacked(&self) -> bool {
        matches!(self.recipe.inputs, Inputs::Slices(_))
    }

    fn manifest(&self, source: usize) -> &'r Manifest {
        self.sources[source].tensors.manifest()
    }

    fn check_depths(&self, problems: &mut Problems) {
        let used: Vec<&Source> = self.used_models().collect();
        self.extent.check_heads(&used, &self.sources[self.structure], problems);
        for source in used {
            check::depth(source, problems);
        }
        if self.num_layers > MAX_NUMBER {
            problems.push(Problem::new(
                format!("the child has {} layers, allowed are {MAX_NUMBER}", self.num_layers),
                "stack fewer layers",
            ));
        }
        for source in self.scopes.iter().flat_map(|scope| &scope.sources) {
            let has = self.manifest(source.source).num_layers();
            let name = &self.sources[source.source].model;
            if self.stacked() && source.layers.end > has {
                problems.push(Problem::new(
                    format!(
                        "`layer_range` ends at {}, `{name}` has {has} layers",
                        source.layers.end
                    ),
                    "the end of a range is excluded; count from 0",
                ));
            } else if !self.stacked() && has != self.num_layers {
                let structure = &self.sources[self.structure].model;
                problems.push(Problem::new(
                    format!("`{name}` has {has} layers, `{structure}` has {}", self.num_layers),
                    "merge models of one depth, or choose layers with `slices`",
                ));
            }
        }
        if let Some(darwin) = self.recipe.darwin.t.as_ref() {
            for entry in &darwin.layers {
                if let Some(beyond) = entry.layers.beyond(self.num_layers) {
                    problems.push(Problem::new(
                        format!(
                            "`darwin.t.layers` names layer {beyond}, the models have {} layers",
                            self.num_layers
                        ),
                        "count layers from 0, or from the back: last, last-1",
                    ));
                }
            }
        }
    }

    /// The output tensors with their inputs, in the structural parent's order.
    fn targets(&self, problems: &mut Problems) -> Vec<Target<'_>> {
        let (Some(first), Some(last)) = (self.scopes.first(), self.scopes.last()) else {
            return Vec::new();
        };
        let mut targets = Vec::new();
        let mut stacked = false;
        let blocks = Blocks::of(self.manifest(self.structure));
        for info in self.manifest(self.structure).tensors() {
            if self.extent.leaves_out(info).is_some() {
                continue;
            }
            match info.layer {
                Some(_) if self.stacked() => {
                    if !std::mem::replace(&mut stacked, true) {
                        self.stack(&mut targets, problems);
                    }
                }
                Some(layer) => {
                    let position = position(layer.0, self.num_layers);
                    targets.push(self.target(info.clone(), first, position, None));
                }
                None => {
                    let scope = if info.role == Role::Embedding { first } else { last };
                    targets.push(self.target(info.clone(), scope, blocks.position(info), None));
                }
            }
        }
        targets
    }

    /// The layers of `slices`, numbered through.
    fn stack<'b>(&'b self, targets: &mut Vec<Target<'b>>, problems: &mut Problems) {
        let mut of_layers: BTreeMap<usize, Vec<Vec<usize>>> = BTreeMap::new();
        let mut out = 0;
        for scope in &self.scopes {
            let Some(lead) = scope.sources.first() else { continue };
            let layers =
                of_layers.entry(lead.source).or_insert_with(|| self.of_layers(lead.source));
            for i in 0..scope.len() {
                let tensors = layers.get(lead.layers.start + i).map_or(&[][..], Vec::as_slice);
                if targets.len() + tensors.len() > MAX_TENSORS {
                    let text = format!("the child has more than {MAX_TENSORS} tensors");
                    problems.push(Problem::new(text, "stack fewer layers"));
                    return;
                }
                self.stack_layer(scope, i, out, tensors, targets, problems);
                out += 1;
            }
        }
    }

    /// The tensors of each layer of a source.
    fn of_layers(&self, source: usize) -> Vec<Vec<usize>> {
        let manifest = self.manifest(source);
        let mut layers = vec![Vec::new(); manifest.num_layers()];
        for (i, info) in manifest.tensors().iter().enumerate() {
            if let Some(layer) = info.layer {
                layers[layer.0].push(i);
            }
        }
        layers
    }

    fn stack_layer<'b>(
        &'b self,
        scope: &'b Scope<'r>,
        i: usize,
        out: usize,
        tensors: &[usize],
        targets: &mut Vec<Target<'b>>,
        problems: &mut Problems,
    ) {
        let kinds: Vec<(usize, String)> = scope
            .sources
            .iter()
            .map(|s| (s.source, self.kinds[s.source].describe(s.layers.start + i)))
            .collect();
        if let Some(other) = kinds.iter().find(|(_, kind)| *kind != kinds[0].1) {
            problems.push(Problem::new(
                format!(
                    "output layer {out}: layer {} of `{}` is {}, layer {} of `{}` is {}",
                    scope.sources[0].layers.start + i,
                    self.sources[kinds[0].0].model,
                    kinds[0].1,
                    scope
                        .sources
                        .iter()
                        .find(|s| s.source == other.0)
                        .map_or(0, |s| s.layers.start + i),
                    self.sources[other.0].model,
                    other.1
                ),
                "merge layers of one kind",
            ));
            return;
        }
        let lead = &scope.sources[0];
        let from = format!("layers.{}.", lead.layers.start + i);
        let to = format!("layers.{out}.");
        for tensor in tensors {
            let mut info = self.manifest(lead.source).tensors()[*tensor].clone();
            info.name = info.name.replacen(&from, &to, 1);
            info.layer = Some(LayerIdx(out));
            targets.push(self.target(info, scope, position(i, scope.len()), Some((i, &to))));
        }
    }

    /// The inputs of one output tensor; `stacked` is the layer's index in its scope and its prefix.
    fn target<'b>(
        &'b self,
        info: TensorInfo,
        scope: &'b Scope<'r>,
        position: f64,
        stacked: Option<(usize, &str)>,
    ) -> Target<'b> {
        let inputs = scope.sources.iter().map(|source| {
            let manifest = self.manifest(source.source);
            let id = match stacked {
                None => manifest.find(&info.name).or_else(|| self.tied_head(&info, source.source)),
                Some((i, prefix)) => {
                    let own = format!("layers.{}.", source.layers.start + i);
                    manifest.find(&info.name.replacen(prefix, &own, 1))
                }
            };
            id.map(|id| Input { source: source.source, id })
        });
        Target { inputs: inputs.collect(), info, scope, position }
    }

    /// What stands in for the head of a model that has none of its own.
    fn tied_head(&self, info: &TensorInfo, source: usize) -> Option<TensorId> {
        let source = &self.sources[source];
        (info.role == Role::Head && is_tied(source))
            .then(|| source.tensors.manifest().find("embed_tokens.weight"))?
    }

    fn finish(self, mut lines: Vec<Line>, child: child::Child) -> Plan {
        let words = match self.recipe.numerics() {
            Numerics::Native => 0,
            Numerics::Mergekit => order::words(&mut lines, self.sources),
        };
        let left_out = self.left_out(&lines);
        let mut notes = self.recipe.notes.clone();
        notes.extend(check::unused_filters(self.recipe, &lines));
        notes.extend(child.notes);
        let read: BTreeSet<(usize, usize)> = lines
            .iter()
            .flat_map(|line| line.operation.inputs())
            .map(|input| (input.source, input.id.index()))
            .collect();
        let bytes = read.into_iter().map(|(source, tensor)| {
            let info = &self.manifest(source).tensors()[tensor];
            (info.elements() * info.dtype.size()) as u64
        });
        Plan {
            left_out,
            aligned: BTreeMap::new(),
            notes,
            inputs: BTreeMap::new(),
            recipe_sha256: String::new(),
            seed: self.recipe.darwin.seed,
            numerics: self.recipe.numerics(),
            numerics_given: self.recipe.darwin.numerics.is_some(),
            words,
            unit: self.recipe.darwin.unit,
            layout: child.layout,
            config: child.config,
            read_bytes: bytes.sum(),
            lines,
        }
    }

    fn used_models(&self) -> impl Iterator<Item = &Source> {
        let models = self.recipe.models();
        self.sources.iter().filter(move |source| models.contains(&source.model.as_str()))
    }

    /// Input tensors that no line reads and whose name the output does not have, vision and MTP
    /// always.
    fn left_out(&self, lines: &[Line]) -> BTreeMap<String, String> {
        let mut read: Vec<BTreeSet<usize>> = vec![BTreeSet::new(); self.sources.len()];
        for input in lines.iter().flat_map(|line| line.operation.inputs()) {
            read[input.source].insert(input.id.index());
        }
        let written: BTreeSet<&str> = lines.iter().map(|line| line.info.name.as_str()).collect();
        let structure = &self.sources[self.structure].model;
        let mut left_out = BTreeMap::new();
        for source in self.used_models() {
            let at = self.sources.iter().position(|s| s.model == source.model).unwrap_or_default();
            for (i, info) in source.tensors.manifest().tensors().iter().enumerate() {
                let own = matches!(info.role, Role::Vision | Role::Mtp | Role::Other);
                let there = written.contains(info.name.as_str()) && !self.stacked();
                if read[at].contains(&i) || (there && !own) {
                    continue;
                }
                let reason = match (there, info.layer) {
                    _ if let Some(reason) = self.extent.leaves_out(info) => reason.to_owned(),
                    (true, _) => format!("`{structure}` gives this tensor"),
                    (false, Some(_)) if self.stacked() => "no slice has this layer".to_owned(),
                    (false, _) => format!("`{structure}` has no such tensor"),
                };
                left_out.insert(format!("{}: {}", source.model, info.name), reason);
            }
        }
        left_out
    }
}
