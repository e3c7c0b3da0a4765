//! What a run would do and take, from headers and items alone; nothing is written.

use crate::child::ours;
use crate::items::Items;
use crate::parents::{draws_bytes, float32_bytes, kept_bytes, located};
use crate::recipe::line_recipe;
use crate::run::header;
use crate::search::Plan;
use crate::solver::KEPT_BYTES;
use crate::{ArmName, BlendMethod, Error, Journal, RunConfig};
use darwin_checkpoint::{Checkpoint, HasFiles, HashCache};
use darwin_core::{Cancel, Domain, Fingerprint, Progress, Split};
use darwin_engine::grams::footprint;
use darwin_engine::{LayerSource, Resident, Run, Stream, Text};
use darwin_eval::{Encoded, ItemSet};
use darwin_merge::{Merge, Sources};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

/// Tokens of a batch of the diagnostics, and of an item in them.
const BATCH_TOKENS: usize = 4096;
const CALIBRATION_TOKENS: usize = 512;

/// A run before it is begun.
#[derive(Clone, Debug)]
pub struct Outlook {
    /// The five splits, in the order of their use.
    pub splits: Vec<SplitOutlook>,
    /// The arms.
    pub arms: Vec<ArmOutlook>,
    /// How often each is repeated, with other items and random numbers.
    pub replicates: usize,
    /// What is in memory, read and written.
    pub takes: Takes,
    /// What would become of the run folder.
    pub place: Place,
    /// What deserves a look, a sentence each.
    pub notes: Vec<String>,
}

/// A split's items.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SplitOutlook {
    /// Which split.
    pub split: Split,
    /// Items of each domain in its file.
    pub there: BTreeMap<Domain, usize>,
    /// Most items of a domain that are taken.
    pub per_domain: usize,
    /// Items that are taken.
    pub items: usize,
    /// Tokens of a pass over their prompts and answers.
    pub tokens: u64,
}

/// An arm's budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArmOutlook {
    /// Which arm.
    pub arm: ArmName,
    /// Forward tokens on the proxy.
    pub proxy_tokens: u64,
    /// Of them those that it pays before it begins: the line's grid, profiles and derivatives.
    pub begins: u64,
    /// Candidates on the benchmark.
    pub real_steps: usize,
    /// Candidates on `selection`.
    pub selection: usize,
    /// About how many tokens go through models, answers as long as the references.
    pub tokens: u64,
}

/// What a run holds and moves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Takes {
    /// Both parents and a candidate, loaded.
    pub models: Resident,
    /// The parents' tensors and the masks' numbers, kept beside them.
    pub tensors: u64,
    /// Bytes of weights that are read before the search.
    pub read: u64,
    /// Bytes of the child.
    pub written: u64,
}

/// The run folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The run begins.
    New,
    /// The run goes on after so many candidates.
    Continued(usize),
}

/// Parents and text, opened from headers.
struct Opened {
    father: Arc<Checkpoint>,
    mother: Arc<Checkpoint>,
    /// Bytes of the child.
    written: u64,
}

impl Opened {
    /// Everything that `Parents::open` checks before it reads a weight.
    fn open(config: &RunConfig) -> Result<Self, Error> {
        let line = located(config, &line_recipe(config, 0.5, 0)?);
        let sources = Sources::open(&line).map_err(Error::below)?;
        let merge = Merge::new(&line, &sources).map_err(Error::below)?;
        let checkpoint = |path: &Path| {
            let name = path.display().to_string();
            sources.checkpoint(&name).cloned().ok_or_else(|| Error::Config {
                path: config.father.clone(),
                text: format!("`{name}` was not opened"),
                hint: "father and mother must be two different folders".to_owned(),
            })
        };
        let (father, mother) = (checkpoint(&config.father)?, checkpoint(&config.mother)?);
        Ok(Self { father, mother, written: merge.plan().written_bytes() })
    }

    /// What the run takes where its longest item has so many tokens and so many answers are
    /// generated at once.
    fn takes(
        &self,
        config: &RunConfig,
        longest: usize,
        items: usize,
        threads: usize,
    ) -> Result<Takes, Error> {
        let open = |model: &'_ Checkpoint| -> Result<Resident, Error> {
            let stream = Stream::open(model).map_err(Error::below)?;
            let passes =
                Run::Passes { batch: BATCH_TOKENS, longest: CALIBRATION_TOKENS, tapped: true };
            let answers = Run::Generate {
                sequences: items,
                prompt: longest,
                new_tokens: config.max_new_tokens,
            };
            let [passes, answers] = [passes, answers].map(|run| stream.resident(&run, threads));
            let more = |pick: fn(&Resident) -> u64| pick(&passes).max(pick(&answers));
            Ok(Resident {
                weights: passes.weights,
                caches: more(|r| r.caches),
                buffers: more(|r| r.buffers),
            })
        };
        let (father, mother) = (open(&self.father)?, open(&self.mother)?);
        let draws = match config.merge.method {
            BlendMethod::DareTies => draws_bytes(&self.father).max(draws_bytes(&self.mother)),
            BlendMethod::Linear => 0,
        };
        // A direction, the candidate transposed, and the mother's stand-in.
        let times = |arm: &ArmName| match arm {
            ArmName::RandomMother => 3,
            arm if arm.ascends() => 2,
            _ => 0,
        };
        let copies: u64 = config.arms.iter().map(times).max().unwrap_or(0);
        let slopes = copies * float32_bytes(&self.father);
        let solved = match config.arms.contains(&ArmName::RegMean) {
            true => {
                let items = config.calibration.per_domain * Domain::KNOWN.len();
                let tokens = (items * CALIBRATION_TOKENS) as u64;
                let stream = Stream::open(self.father.as_ref()).map_err(Error::below)?;
                let kept = KEPT_BYTES.max(self.father.tensor_bytes());
                kept + 2 * footprint(stream.config(), tokens)
            }
            false => 0,
        };
        Ok(Takes {
            // A candidate has the father's shape.
            models: father.and(mother).and(father),
            tensors: kept_bytes(&self.father) + kept_bytes(&self.mother) + draws + slopes + solved,
            read: self.father.tensor_bytes() + self.mother.tensor_bytes(),
            written: self.written,
        })
    }
}

/// What a run holds in memory and writes, from the parents' headers alone.
///
/// # Errors
/// What [`Parents::open`](crate::Parents::open) says of headers.
pub fn takes(config: &RunConfig, threads: usize) -> Result<Takes, Error> {
    Opened::open(config)?.takes(config, CALIBRATION_TOKENS, threads, threads)
}

/// What a run would do: everything that can refuse it before its first candidate is asked. The
/// parents' files are hashed where the run folder has a journal.
///
/// # Errors
/// Those of [`run`](crate::run) before its first candidate.
pub fn outlook(
    config: &RunConfig,
    threads: usize,
    hashes: &HashCache,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<Outlook, Error> {
    let opened = Opened::open(config)?;
    let text = Text::open(&config.father).map_err(Error::below)?;
    let items = Items::open(config, &text)?;
    let splits = splits(config, &items)?;
    let parents = || -> Result<[Fingerprint; 2], Error> {
        let models: [&dyn HasFiles; 2] = [opened.father.as_ref(), opened.mother.as_ref()];
        let found = hashes.fingerprints(&models, progress, cancel).map_err(Error::below)?;
        hashes.save();
        Ok(found.try_into().expect("a fingerprint for each parent"))
    };
    let (place, aside) = place(config, parents, &items)?;
    let encoded = [items.search.encoded(), items.selection.encoded(), items.test.encoded()];
    let each = || encoded.iter().flat_map(|set| set.items()).map(|item| item.main());
    let longest = each().map(|main| main.tokens()).max().unwrap_or(1);
    let most = encoded.iter().map(|set| set.items().len()).max().unwrap_or(1);
    let takes = opened.takes(config, longest, most, threads)?;
    let plan = Plan::of(config, &items.costs());
    let calibration = items.calibration.tokens();
    plan.check(&config.arms, calibration)?;
    let (real_steps, selection) = (config.real.steps, config.selection.top + 1);
    let arm = |arm: &ArmName| ArmOutlook {
        arm: *arm,
        proxy_tokens: plan.proxy,
        begins: plan.begins(*arm, calibration),
        real_steps,
        selection,
        tokens: plan.proxy + real_steps as u64 * plan.real + selection as u64 * plan.selection,
    };
    Ok(Outlook {
        arms: config.arms.iter().map(arm).collect(),
        replicates: config.seeds.replicates,
        takes,
        place,
        notes: config.notes().into_iter().chain(notes(config, &splits)).chain(aside).collect(),
        splits,
    })
}

fn splits(config: &RunConfig, items: &Items) -> Result<Vec<SplitOutlook>, Error> {
    let replicates = config.seeds.replicates;
    let of = |split: Split, per_domain: usize, taken: &Encoded| {
        let all = ItemSet::open(&config.items_of(split), split).map_err(Error::below)?;
        Ok(SplitOutlook {
            split,
            there: all.domains(),
            per_domain,
            items: taken.items().len(),
            tokens: taken.tokens(),
        })
    };
    Ok(vec![
        of(Split::Calibration, config.calibration.per_domain, &items.calibration)?,
        of(Split::Proxy, config.proxy.final_per_domain * replicates, items.proxy.encoded())?,
        of(Split::Search, config.real.per_domain * replicates, items.search.encoded())?,
        of(Split::Selection, config.selection.per_domain * replicates, items.selection.encoded())?,
        of(Split::Test, config.test.per_domain, items.test.encoded())?,
    ])
}

/// Domains with fewer items than asked for, and domains of the goal that no item has.
fn notes(config: &RunConfig, splits: &[SplitOutlook]) -> Vec<String> {
    let mut notes = Vec::new();
    for SplitOutlook { split, there, per_domain, .. } in splits {
        let asked = |domain: &Domain| {
            let everybody = [Split::Calibration, Split::Test].contains(split);
            everybody && config.test.others.is_none() || config.wants(domain)
        };
        let few = there.iter().filter(|(domain, n)| **n < *per_domain && asked(domain));
        let few: Vec<String> = few.map(|(domain, n)| format!("{domain} {n}")).collect();
        if !few.is_empty() {
            let few = few.join(", ");
            notes.push(format!("{split}: fewer than {per_domain} items a domain: {few}"));
        }
    }
    let known: BTreeSet<&Domain> = splits.iter().flat_map(|split| split.there.keys()).collect();
    for domain in config.goal.weights.keys().chain(config.goal.protected.keys()) {
        if !known.contains(domain) {
            notes.push(format!("`goal` names {domain}, which no item is of"));
        }
    }
    notes
}

/// Whether the run folder can be used, what is there, and what of it would be put aside.
fn place(
    config: &RunConfig,
    parents: impl Fn() -> Result<[Fingerprint; 2], Error>,
    items: &Items,
) -> Result<(Place, Option<String>), Error> {
    let io = |path: &Path, source| Error::Io { path: path.to_owned(), source };
    let absolute = std::path::absolute(&config.out).map_err(|e| io(&config.out, e))?;
    let there = absolute.ancestors().find(|path| path.symlink_metadata().is_ok());
    if let Some(path) = there.filter(|path| !path.is_dir()) {
        return Err(io(path, std::io::ErrorKind::NotADirectory.into()));
    }
    let child = config.out.join("child");
    if child.exists() {
        ours(&child)?;
    }
    let journal = config.out.join("journal.jsonl");
    if !journal.exists() {
        return Ok((Place::New, None));
    }
    let header = header(config, parents()?.each_ref(), items)?;
    match Journal::known(&journal, &header)? {
        (0, aside) => Ok((Place::New, aside)),
        (known, aside) => Ok((Place::Continued(known), aside)),
    }
}
