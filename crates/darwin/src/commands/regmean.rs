//! `darwin merge` of recipes whose maps are solved from activations (method 2.3).

use super::stream;
use crate::cli::{ItemArgs, MergeArgs};
use crate::machine::Machine;
use crate::preflight;
use crate::table::human_bytes;
use crate::ui::Ui;
use darwin_checkpoint::TensorSource;
use darwin_core::{Failure, Fault};
use darwin_engine::{Budget, LayerSource, Stream, Text};
use darwin_eval::Encoded;
use darwin_merge::{Merge, Recipe, RegMean, Sources};
use darwin_regmean::{Options, Outlook, Side, bound, outlook, sides, solve, trial};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Items of a domain where nobody says how many.
const PER_DOMAIN: usize = 120;

/// Inputs and outputs of the map that is solved to see how fast that goes.
const TRIAL: (usize, usize) = (384, 384);

/// The parents' items, and what solving takes.
pub(super) struct Activations {
    items: Encoded,
    parents: [Arc<dyn TensorSource>; 2],
    pub(super) outlook: Outlook,
}

fn settings(recipe: &Recipe) -> RegMean {
    recipe.darwin().regmean.clone().unwrap_or_default()
}

impl Activations {
    /// What a merge needs to be solved; none for merges that are not.
    pub(super) fn of(
        arguments: &MergeArgs,
        recipe: &Recipe,
        sources: &Sources,
        merge: &Merge,
    ) -> Result<Option<Self>, Failure> {
        if merge.is_solved() {
            return Ok(None);
        }
        let Some(path) = &arguments.items else {
            let text = "this recipe is solved from activations and there are no items to run the \
                        parents on";
            let hint =
                "give them: `--items FILE` (JSON lines, or a folder with calibration.jsonl.gz)";
            return Err(Failure::user(text).with_hint(hint));
        };
        let (father, mother) = (recipe.father(), recipe.mother());
        let folder = father.and_then(|father| sources.checkpoint(father)).map(|c| c.folder());
        let parent = |name: Option<&str>| name.and_then(|name| sources.get(name)).cloned();
        let (Some(folder), Some(of_father), Some(of_mother)) =
            (folder, parent(father), parent(mother))
        else {
            let text = "the recipe names no father and mother";
            return Err(Failure::user(text).with_hint("write both under `darwin`"));
        };
        let settings = settings(recipe);
        let asked = arguments.per_domain.map(|n| n as usize);
        let per_domain = asked.or(settings.per_domain).unwrap_or(PER_DOMAIN);
        let items = ItemArgs { items: path.clone(), per_domain };
        let items = super::calibration(&items, &Text::open(folder)?)?;
        let parents = [of_father, of_mother];
        let memory = arguments.memory.or_else(|| {
            let machine = Machine::here();
            Some(machine.memory()?.bytes.saturating_add(machine.held()))
        });
        let budget = Budget { memory, scratch: None };
        let outlook = {
            let [father, mother] = [Stream::open(&*parents[0])?, Stream::open(&*parents[1])?];
            let parents = [&father, &mother];
            outlook(merge, &settings, &items, parents, &budget, stream::held())
                .map_err(|error| preflight::by_machine(error.into(), arguments.memory.is_some()))?
        };
        Ok(Some(Self { items, parents, outlook }))
    }

    /// What solving takes, for a dry run: sizes, operations, and about how long, by a layer of each
    /// kind and a map that are tried.
    pub(super) fn describe(&self) -> Result<String, Failure> {
        let Outlook { tokens, measured, grams, solving, solved, plan } = &self.outlook;
        let parents = [Stream::open(&*self.parents[0])?, Stream::open(&*self.parents[1])?];
        let (mut running, mut reading, mut forward) = (0.0, 0.0, 0.0);
        let mut rate = 0.0;
        for (parent, tokens) in parents.iter().zip(tokens) {
            let speed = preflight::speed(parent, tokens + measured)?;
            running += speed.running(tokens + measured);
            let passes = if *measured > 0 { 2 } else { 1 };
            reading += speed.reading(passes * parent.footprint().stored);
            forward += 2.0 * (tokens + measured) as f64 * parent.config().active_weights() as f64;
            rate = speed.operations;
        }
        let solver = rate_of_solving();
        let seconds = running + reading + grams / rate.max(1.0) + solving / solver.max(1.0);
        let most = if *measured > 0 { "at most " } else { "" };
        let measuring = match measured {
            0 => String::new(),
            tokens => format!(", after {tokens} of each to see whose domains are whose"),
        };
        let lines = [
            format!(
                "solve   {most}{} tokens of the father and {} of the mother{measuring}",
                tokens[0], tokens[1]
            ),
            format!(
                "        {:.2e} FLOPs: parents {forward:.1e}, Gram matrices {grams:.1e}, systems at most {solving:.1e}",
                forward + grams + solving
            ),
            format!(
                "        {} of solved tensors beside the child until it is written; memory at most {}",
                human_bytes(*solved),
                human_bytes(plan.peak)
            ),
            format!("        about {:.1} minutes", seconds / 60.0),
        ];
        Ok(lines.join("\n"))
    }

    /// The recipe with the items and the domains of both parents, measured where it does not say.
    pub(super) fn bind(&self, recipe: &Recipe, ui: &Ui) -> Result<Recipe, Failure> {
        preflight::allows(self.outlook.plan.peak)?;
        let parents = [&*self.parents[0], &*self.parents[1]];
        let room = &self.outlook.plan.room;
        let sides =
            sides(&settings(recipe), &self.items, parents, room, ui.progress(), ui.cancel())?;
        for (domain, [father, mother]) in &sides.measured {
            let whose = match father.total_cmp(mother) {
                std::cmp::Ordering::Greater => "the father's",
                std::cmp::Ordering::Less => "the mother's",
                std::cmp::Ordering::Equal => "both parents'",
            };
            ui.note(format!(
                "{}: {whose} (probability of the answer: father {father:.3}, mother {mother:.3})",
                domain.as_str()
            ));
        }
        Ok(bound(recipe, &sides, &self.items)?)
    }

    /// Solves a merge; solved layers lie in a folder beside the child until it is written.
    pub(super) fn solve(
        &self,
        merge: Merge,
        recipe: &Recipe,
        folder: &Path,
        ui: &Ui,
    ) -> Result<Merge, Failure> {
        let settings = settings(recipe);
        let sides = sides(
            &settings,
            &self.items,
            [&*self.parents[0], &*self.parents[1]],
            &self.outlook.plan.room,
            ui.progress(),
            ui.cancel(),
        )?;
        let items = sides.items(&self.items);
        let models = [Stream::open(&*self.parents[0])?, Stream::open(&*self.parents[1])?];
        let side = |i: usize| Side { model: &models[i], items: &items[i] };
        let options = Options {
            room: &self.outlook.plan.room,
            folder: Some(folder),
            progress: ui.progress(),
            cancel: ui.cancel(),
        };
        let solved = solve(&merge, &settings, [side(0), side(1)], &options)?;
        if solved.kept() > 0 {
            ui.note(format!("{} layers were solved by an interrupted run", solved.kept()));
        }
        let counts = solved.counts();
        ui.say(format!(
            "{} maps solved from activations; {} of too few tokens stay at the anchor",
            counts.solved, counts.anchored
        ));
        Ok(merge.with_solved(Arc::new(solved))?)
    }
}

/// Where solved layers lie until the child is written.
pub(super) fn folder(out: &Path) -> PathBuf {
    let mut name = out.file_name().unwrap_or_default().to_owned();
    name.push(".solved");
    out.with_file_name(name)
}

/// Forgets solved layers.
pub(super) fn forget(folder: &Path) -> Result<(), Failure> {
    match std::fs::remove_dir_all(folder) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            let text = format!("cannot remove {}: {e}", folder.display());
            Err(Failure::new(Fault::Environment, text))
        }
        _ => Ok(()),
    }
}

/// Operations in a second of solving.
#[allow(clippy::disallowed_methods, reason = "the binary owns the clock")]
fn rate_of_solving() -> f64 {
    let start = std::time::Instant::now();
    let operations = trial(TRIAL.0, TRIAL.1);
    operations / start.elapsed().as_secs_f64().max(1e-9)
}
