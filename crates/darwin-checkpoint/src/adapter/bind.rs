//! Which tensor of the base each tensor of an adapter belongs to.

use super::config::AdapterConfig;
use super::factors::{Edit, Product};
use crate::error::{Problems, cut};
use crate::header::Entry;
use crate::names::{ExpertPart, expert_piece};
use crate::{Checkpoint, Problem, TensorId, TensorInfo, TensorSource, canonical_name};
use std::collections::BTreeMap;
use std::ops::Range;

/// What PEFT puts before the module's path.
const PREFIX: &str = "base_model.model.";

/// Families that keep linear layers as (in, out): Transformers' `Conv1D`. PEFT corrects
/// `fan_in_fan_out` for all others.
const CONV1D: [&str; 5] = ["gpt2", "openai-gpt", "imagegpt", "decision_transformer", "clvp"];

/// Families that keep fused experts as (E, in, out): `is_transposed` in Transformers.
const TRANSPOSED_EXPERTS: [&str; 3] = ["gpt_oss", "openai_privacy_filter", "aria"];

/// Tensors that match none of the base and are named.
const NAMED: usize = 20;

pub(super) type Edits = BTreeMap<TensorId, Vec<Edit>>;

/// The halves of one module's change.
#[derive(Default)]
struct Halves {
    a: Option<Entry>,
    b: Option<Entry>,
    bias: Option<Entry>,
    embedding: bool,
}

/// A run of rows of a tensor of the base.
struct Place {
    id: TensorId,
    rows: Range<usize>,
    /// The shape of those rows.
    shape: Vec<usize>,
}

/// Binds every tensor of the adapter; all problems at once.
pub(super) fn bind(
    base: &Checkpoint,
    config: &AdapterConfig,
    file: &str,
    entries: Vec<Entry>,
) -> Result<Edits, Vec<Problem>> {
    let mut binder = Binder {
        base,
        config,
        file,
        family: base.config().get("model_type").and_then(|v| v.as_str()).unwrap_or(""),
        edits: Edits::new(),
        problems: Problems::default(),
        lost: Vec::new(),
    };
    if entries.is_empty() {
        binder.problem("holds no tensors", "give the folder of a PEFT adapter");
    }
    let modules = binder.sort(entries);
    for (module, halves) in modules {
        binder.module(&module, halves);
    }
    binder.name_lost();
    binder.problems.into_result(binder.edits)
}

struct Binder<'a> {
    base: &'a Checkpoint,
    config: &'a AdapterConfig,
    file: &'a str,
    family: &'a str,
    edits: Edits,
    problems: Problems,
    /// Tensors that match none of the base.
    lost: Vec<String>,
}

impl Binder<'_> {
    fn problem(&mut self, text: impl AsRef<str>, hint: &str) {
        self.problems.push(Problem::new(format!("{}: {}", self.file, text.as_ref()), hint));
    }

    fn name_lost(&mut self) {
        if self.lost.is_empty() {
            return;
        }
        let names: Vec<String> = self.lost.iter().take(NAMED).map(|name| cut(name)).collect();
        let names = names.join("`, `");
        let more = match self.lost.len().saturating_sub(NAMED) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let text = format!("no tensor of {} belongs to `{names}`{more}", self.base.name());
        let tied = self.lost.iter().any(|name| name.contains("lm_head"))
            && self.base.manifest().find("lm_head.weight").is_none();
        let hint = if tied {
            "the base has no output head of its own (it is tied to the embedding): untie it first"
        } else {
            "the adapter was trained on another model, or its modules have other names"
        };
        self.problem(text, hint);
    }

    /// Whole tensors become edits at once; the halves of B A are gathered by module.
    fn sort(&mut self, entries: Vec<Entry>) -> BTreeMap<String, Halves> {
        let mut modules: BTreeMap<String, Halves> = BTreeMap::new();
        for entry in entries {
            let Some(path) = entry.name.strip_prefix(PREFIX).map(str::to_owned) else {
                let text = format!("tensor `{}` does not begin with `{PREFIX}`", entry.name);
                self.problem(text, "give an adapter as PEFT saves it");
                continue;
            };
            let known = [
                (".lora_A.weight", false),
                (".lora_B.weight", false),
                (".lora_B.bias", false),
                (".lora_embedding_A", true),
                (".lora_embedding_B", true),
            ];
            let found = known.iter().position(|(end, _)| path.ends_with(end));
            let Some(kind) = found else {
                self.whole(&path, entry);
                continue;
            };
            let module = path[..path.len() - known[kind].0.len()].to_owned();
            let halves = modules.entry(module).or_default();
            halves.embedding |= known[kind].1;
            match kind {
                0 | 3 => halves.a = Some(entry),
                2 => halves.bias = Some(entry),
                _ => halves.b = Some(entry),
            }
        }
        modules
    }

    /// A tensor that is no half of B A: a whole one, or a variant's.
    fn whole(&mut self, path: &str, entry: Entry) {
        if path.contains("lora_magnitude_vector") {
            let text = format!("tensor `{}` belongs to DoRA", entry.name);
            return self
                .problem(text, "merge it with PEFT's `merge_and_unload` and name the result");
        }
        if path.contains("lora_")
            || path.contains("trainable_tokens")
            || path.contains("token_adapter")
        {
            let text = format!("tensor `{}` belongs to a variant of LoRA", entry.name);
            return self
                .problem(text, "merge it with PEFT's `merge_and_unload` and name the result");
        }
        let name = path.replace(".base_layer.", ".").replace(".modules_to_save.", ".");
        let Some(place) = self.place(&name) else {
            self.lost.push(entry.name);
            return;
        };
        if place.shape != entry.shape {
            let text = format!("tensor `{}` is {:?}, the base's is", entry.name, entry.shape);
            let hint = "an adapter with a resized vocabulary needs a base of that size";
            return self.problem(format!("{text} {:?}", place.shape), hint);
        }
        if self.can_be_computed(place.id) {
            let edits = self.edits.entry(place.id).or_default();
            edits.push(Edit::Replace { rows: place.rows, by: entry });
        }
    }

    fn info(&self, id: TensorId) -> &TensorInfo {
        self.base.manifest().get(id)
    }

    fn can_be_computed(&mut self, id: TensorId) -> bool {
        let (name, dtype) = (self.info(id).name.clone(), self.info(id).dtype);
        if !dtype.is_mergeable() {
            let text = format!("changes `{name}`, which is {dtype} in {}", self.base.name());
            self.problem(text, "put the adapter on an unquantised base");
        }
        dtype.is_mergeable()
    }

    /// The tensor of the base with a module's name, or an expert's rows of it.
    fn place(&self, name: &str) -> Option<Place> {
        let canonical = canonical_name(name);
        let manifest = self.base.manifest();
        if let Some(id) = manifest.find(&canonical) {
            let info = manifest.get(id);
            return Some(Place { id, rows: 0..info.rows(), shape: info.shape.clone() });
        }
        let (stem, expert, part) = expert_piece(&canonical)?;
        let (fused, halves) = match part {
            ExpertPart::Down => ("down_proj", 1),
            ExpertPart::Gate | ExpertPart::Up => ("gate_up_proj", 2),
        };
        let id = manifest.find(&format!("{stem}{fused}"))?;
        let [experts, rows, cols] = manifest.get(id).shape[..] else { return None };
        if expert.0 >= experts || TRANSPOSED_EXPERTS.contains(&self.family) || rows % halves != 0 {
            return None;
        }
        let rows = rows / halves;
        let first = (expert.0 * halves + usize::from(part == ExpertPart::Up)) * rows;
        Some(Place { id, rows: first..first + rows, shape: vec![rows, cols] })
    }

    /// One module's B A.
    fn module(&mut self, path: &str, halves: Halves) {
        let (Some(a), Some(b)) = (&halves.a, &halves.b) else {
            let half = if halves.a.is_none() { "A" } else { "B" };
            let text = format!("module `{path}` has no lora_{half}");
            return self.problem(text, "the adapter is incomplete: get it from its source again");
        };
        for half in [a, b] {
            if half.shape.len() != 2 || half.shape.contains(&0) {
                let text = format!("tensor `{}` is {:?}", half.name, half.shape);
                let hint = "only linear layers, embeddings and fused experts are supported";
                return self.problem(text, hint);
            }
        }
        let module = path.trim_end_matches(".base_layer");
        let depth = (path.len() - module.len()) / ".base_layer".len();
        let whole = self.place(&format!("{module}.weight"));
        let targeted = self.targeted(module);
        let (place, key) = match whole {
            Some(place) if targeted.iter().any(|p| p == "weight") => {
                (place, format!("{module}.weight"))
            }
            Some(place) => (place, module.to_owned()),
            None => match self.parameter(module, depth, &targeted) {
                Some(found) => found,
                None => {
                    self.lost.push(path.to_owned());
                    return;
                }
            },
        };
        if self.can_be_computed(place.id) {
            self.product(&key, &place, a, b, halves.embedding);
            self.bias(module, &key, halves.bias);
        }
    }

    /// Parameters of a module that `target_parameters` names and the base has.
    fn targeted(&self, module: &str) -> Vec<String> {
        let mut found: Vec<String> = Vec::new();
        for target in &self.config.target_parameters {
            let (of, parameter) = target.rsplit_once('.').unwrap_or(("", target));
            let fits = of.is_empty() || module == of || module.ends_with(&format!(".{of}"));
            if fits
                && !found.iter().any(|known| known == parameter)
                && self.place(&format!("{module}.{parameter}")).is_some()
            {
                found.push(parameter.to_owned());
            }
        }
        found.sort();
        found
    }

    /// A parameter that is no `weight`. PEFT wraps a module once for each of its parameters, the
    /// one that is declared first innermost, and names the wrappers by their depth alone.
    fn parameter(&self, module: &str, depth: usize, found: &[String]) -> Option<(Place, String)> {
        let names: Vec<&str> = found.iter().map(String::as_str).collect();
        let parameter = match names[..] {
            [one] if depth == 0 => one,
            // Declared as gate_up_proj, down_proj in every family.
            ["down_proj", "gate_up_proj"] if depth <= 1 => names[depth],
            _ => return None,
        };
        let key = format!("{module}.{parameter}");
        Some((self.place(&key)?, key))
    }

    fn product(&mut self, key: &str, place: &Place, a: &Entry, b: &Entry, embedding: bool) {
        let units = if let [experts, _, _] = place.shape[..] { experts } else { 1 };
        let rank = self.config.rank(key);
        let (width, other) = (a.shape[0], b.shape[1]);
        if Some(width) != rank.checked_mul(units) || other != width {
            let experts = if units > 1 { format!(" times {units} experts") } else { String::new() };
            let text = format!("`{key}` has rank {rank}{experts} by adapter_config.json, its A");
            let text = format!("{text} is {:?} and its B {:?}", a.shape, b.shape);
            return self.problem(text, "weights and configuration are of different adapters");
        }
        let (inputs, outputs) = (a.shape[1], b.shape[0]);
        let shape = &place.shape[place.shape.len().saturating_sub(2)..];
        let straight = place.shape.len() <= 3 && *shape == [outputs, inputs];
        let turned = place.shape.len() <= 3 && *shape == [inputs, outputs];
        let transposed = match (straight && !embedding, turned, place.shape.len()) {
            _ if embedding && turned => true,
            (true, false, _) => false,
            (false, true, 2) if !embedding => true,
            (false, true, 3) if units > 1 => true,
            (true, true, 2) => CONV1D.contains(&self.family),
            (true, true, 3) => match self.turned_experts(key) {
                Some(transposed) => transposed && units > 1,
                None => return,
            },
            _ => {
                let text = format!("`{key}` takes A {:?} and B {:?}", a.shape, b.shape);
                let text = format!("{text}, the base's tensor is {:?}", place.shape);
                return self.problem(text, "the adapter was trained on another model");
            }
        };
        let (a, b, scale) = (a.clone(), b.clone(), self.config.scale(key));
        if !scale.is_finite() {
            let text = format!("`{key}` is scaled by `lora_alpha` over its rank, which is {scale}");
            return self.problem(text, "the adapter is damaged: get it from its source again");
        }
        let rows = place.rows.clone();
        let product = Product { rows, a, b, rank, scale, units, transposed };
        self.edits.entry(place.id).or_default().push(Edit::Product(product));
    }

    /// Which way round square experts lie for PEFT: until 0.19.0 as (E, in, out), since 0.19.1 as
    /// the module says. 0.19.0 had it the wrong way round where a module says.
    fn turned_experts(&mut self, key: &str) -> Option<bool> {
        let told = TRANSPOSED_EXPERTS.contains(&self.family);
        let hint = "save the adapter with PEFT 0.19.1 or newer, or merge it with the PEFT that \
                    trained it and name the result";
        let text =
            format!("the experts of `{key}` are square, so that A and B fit both ways round");
        let Some(version) = &self.config.version else {
            let text = format!("{text}, and adapter_config.json records no `peft_version`");
            self.problem(text, hint);
            return None;
        };
        // Whether a module says depends on Transformers, which is not recorded.
        let unsure = version.number >= [0, 19, 0] && told;
        let between =
            version.development && version.number >= [0, 19, 0] && version.number <= [0, 20, 0];
        if unsure || between {
            let text = format!("{text}, and PEFT {} does not tell which", version.text);
            self.problem(text, hint);
            return None;
        }
        Some(version.number < [0, 19, 1])
    }

    fn bias(&mut self, module: &str, key: &str, bias: Option<Entry>) {
        let Some(values) = bias else { return };
        match self.place(&format!("{module}.bias")) {
            Some(place) if place.shape == values.shape => {
                if self.can_be_computed(place.id) {
                    let edit = Edit::Vector { values, scale: self.config.scale(key) };
                    self.edits.entry(place.id).or_default().push(edit);
                }
            }
            _ => self.lost.push(values.name),
        }
    }
}
