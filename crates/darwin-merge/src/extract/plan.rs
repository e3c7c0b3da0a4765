//! What is done with each tensor of a fine-tune.

use super::ExtractOptions;
use super::file::Owner;
use crate::Error;
use darwin_checkpoint::{Checkpoint, Problem, Role, TensorId, TensorInfo, TensorSource};
use regex::Regex;
use std::collections::BTreeSet;
use std::ops::Range;

/// What is done with a tensor that differs.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Kind {
    /// B A of a linear layer.
    Linear,
    /// B A of an embedding.
    Embedding,
    /// B A for each expert of a fused tensor.
    Experts(usize),
    /// Kept whole with its module: always, or where it differs.
    Whole { module: String, always: bool },
    /// Not representable.
    Lost,
}

/// A stored tensor of the base, and the same rows of the fine-tune.
pub(super) struct Item {
    pub(super) name: String,
    pub(super) base: TensorId,
    pub(super) finetuned: TensorId,
    pub(super) rows: Range<usize>,
    pub(super) cols: usize,
    pub(super) shape: Vec<usize>,
    pub(super) owner: Owner,
    pub(super) kind: Kind,
}

/// What there is to do.
#[derive(Default)]
pub(super) struct Plan {
    /// All tensors, those that become low-rank first.
    pub(super) items: Vec<Item>,
    /// How many a filter leaves out.
    pub(super) left_out: usize,
    /// Those that the base alone has.
    pub(super) missing: Vec<String>,
}

/// Decides for each tensor from headers alone; every problem is reported at once.
pub(super) fn plan(
    base: &Checkpoint,
    finetuned: &Checkpoint,
    options: &ExtractOptions<'_>,
) -> Result<Plan, Error> {
    let mut problems = Vec::new();
    let mut regex = |list: &[String], flag: &str| -> Vec<Regex> {
        let parsed = list.iter().filter_map(|text| match Regex::new(text) {
            Ok(regex) => Some(regex),
            Err(_) => {
                let problem = format!("`{flag} {text}` is no regular expression");
                problems.push(Problem::new(problem, "write a part of a tensor's name"));
                None
            }
        });
        parsed.collect()
    };
    let include = regex(&options.include, "--include");
    let exclude = regex(&options.exclude, "--exclude");
    let save = regex(&options.save_modules, "--save-module");
    if options.max_rank == 0 {
        problems.push(Problem::new("`--rank` is 0, allowed is 1 or more", "choose a rank"));
    }
    if !(options.epsilon >= 0.0 && options.epsilon.is_finite()) {
        let text = format!("`--epsilon` is {}, allowed is 0 or more", options.epsilon);
        problems.push(Problem::new(text, "it is the smallest singular value that is kept"));
    }
    compare(base, finetuned, &mut problems);
    if !problems.is_empty() {
        return Err(Error::Plan(problems));
    }
    let any = |list: &[Regex], name: &str| list.iter().any(|regex| regex.is_match(name));
    let stored = &base.layout().stored;
    let saved: BTreeSet<&str> =
        stored.iter().filter(|s| any(&save, &s.name)).map(|s| module(&s.name).0).collect();
    let mut plan = Plan::default();
    for stored in stored {
        let info = base.manifest().get(stored.id);
        let Some(twin) = finetuned.manifest().find(&info.name) else {
            plan.missing.push(stored.name.clone());
            continue;
        };
        let within = saved.iter().find(|m| stored.name.starts_with(&format!("{m}.")));
        let (owner, kind) = match within {
            Some(saved) => whole(&stored.name, saved, true),
            None if any(&exclude, &stored.name)
                || !(include.is_empty() || any(&include, &stored.name)) =>
            {
                plan.left_out += 1;
                continue;
            }
            None => kind(&stored.name, &stored.shape, info, options.embed_lora),
        };
        plan.items.push(Item {
            name: stored.name.clone(),
            base: stored.id,
            finetuned: twin,
            rows: stored.rows.clone(),
            cols: info.cols(),
            shape: stored.shape.clone(),
            owner,
            kind,
        });
    }
    // Low-rank tensors are F32; whole ones follow, the widest first, so that all are aligned.
    let width = |item: &Item| finetuned.manifest().get(item.finetuned).dtype.size();
    plan.items.sort_by_key(|item| match item.kind {
        Kind::Whole { .. } => 8 - width(item).min(7),
        _ => 0,
    });
    Ok(plan)
}

/// Both must hold the same tensors, of types that can be computed with. Fine-tunes are often saved
/// without prediction heads and vision towers; the base's stay then.
fn compare(base: &Checkpoint, finetuned: &Checkpoint, problems: &mut Vec<Problem>) {
    let hint = "give a fine-tune and the model that it was made from";
    let missing = |from: &Checkpoint, other: &Checkpoint, problems: &mut Vec<Problem>| {
        for info in from.manifest().tensors() {
            let spare = std::ptr::eq(from, base) && matches!(info.role, Role::Mtp | Role::Vision);
            if other.manifest().find(&info.name).is_none() && !spare {
                let text = format!("{} has no tensor `{}`", other.name(), info.name);
                problems.push(Problem::new(format!("{text}, {} has", from.name()), hint));
            }
        }
    };
    missing(base, finetuned, problems);
    missing(finetuned, base, problems);
    for info in base.manifest().tensors() {
        let Some(twin) = finetuned.manifest().find(&info.name) else { continue };
        let twin = finetuned.manifest().get(twin);
        if info.shape != twin.shape {
            let text = format!("`{}` is {:?} in the base", info.name, info.shape);
            let text = format!("{text} and {:?} in the fine-tune", twin.shape);
            problems
                .push(Problem::new(text, "an adapter cannot change a shape, as of a vocabulary"));
        }
        for (info, model) in [(info, base), (twin, finetuned)] {
            if !info.dtype.is_mergeable() {
                let text = format!("{}: tensor `{}` is {}", model.name(), info.name, info.dtype);
                problems.push(Problem::new(text, "only F32, F16 and BF16 can be compared"));
            }
        }
    }
}

/// Module and last word of a name.
fn module(name: &str) -> (&str, &str) {
    name.rsplit_once('.').unwrap_or((name, ""))
}

fn owner(module: &str, parameter: Option<&str>) -> Owner {
    Owner { module: module.to_owned(), parameter: parameter.map(str::to_owned) }
}

/// The owner of a tensor that is kept is the tensor itself.
fn whole(name: &str, module: &str, always: bool) -> (Owner, Kind) {
    (owner(name, None), Kind::Whole { module: module.to_owned(), always })
}

fn kind(name: &str, shape: &[usize], info: &TensorInfo, embed_lora: bool) -> (Owner, Kind) {
    let (module, last) = module(name);
    let embedding = info.role == Role::Embedding || module.ends_with("pos_embed");
    match (shape.len(), last) {
        (2, "weight") if embedding && embed_lora => (owner(module, None), Kind::Embedding),
        (2, "weight") if embedding => whole(name, module, false),
        // A router is no linear layer in Transformers 5, but its weight can be targeted.
        (2, "weight") if info.role == Role::Router => (owner(module, Some(last)), Kind::Linear),
        (2, "weight") => (owner(module, None), Kind::Linear),
        (3, "gate_up_proj" | "down_proj") if info.experts().is_some() => {
            (owner(module, Some(last)), Kind::Experts(shape[0]))
        }
        _ => (owner(module, None), Kind::Lost),
    }
}
