//! The whole job, as a list of named steps.

use crate::genome::Genome;
use crate::items::Items;
use crate::rank::{RankCheck, rank_check};
use crate::recipe::{line_recipe, published_recipe};
use crate::search::{Budget, Champion, Search, Stages};
use crate::stage::{Bench, Stage};
use crate::{ArmName, Error, Journal, Parents, Prior, RunConfig, child, depth_blocks, diagnose};
use darwin_checkpoint::HashCache;
use darwin_core::files::{Comparison, Health, Origin, Phase, Profile, RunHeader, SCHEMA, Scores};
use darwin_core::fs::{own, write_json};
use darwin_core::keyed::{Key, Rng};
use darwin_core::{Cancel, Fingerprint, NoProgress, Progress};
use darwin_eval::Evaluator;
use serde_json::json;
use std::path::Path;

/// Most depth blocks that a genome has genes for.
const MAX_BLOCKS: usize = 5;

/// How a run talks to whoever started it.
#[derive(Clone, Copy)]
pub struct Ui<'a> {
    /// Told how far it is.
    pub progress: &'a dyn Progress,
    /// Asked whether to stop.
    pub cancel: &'a Cancel,
    /// When it was started, for `run.json`.
    pub created: &'a str,
    /// The program's name and version.
    pub program: &'a str,
    /// The command that started it, as a shell would take it.
    pub command: &'a str,
    /// Hashes of files that were read before.
    pub hashes: &'a HashCache,
    /// Told, in a sentence, what of an earlier run is made anew, and why.
    pub note: &'a (dyn Fn(&str) + Sync),
}

impl<'a> Ui<'a> {
    /// Talks to nobody.
    #[must_use]
    pub fn silent(cancel: &'a Cancel, hashes: &'a HashCache) -> Self {
        let (progress, note) = (&NoProgress, &|_: &str| {});
        Self { progress, cancel, created: "", program: "", command: "", hashes, note }
    }
}

/// What a run found.
#[derive(Debug)]
pub struct Outcome {
    /// Both profiles.
    pub profiles: [Profile; 2],
    /// The comparison.
    pub comparison: Comparison,
    /// How well the proxy ranks.
    pub rank_check: Option<RankCheck>,
    /// Each arm's champion.
    pub champions: Vec<Champion>,
    /// The champion that became the child, by position.
    pub child: usize,
    /// Its health.
    pub health: Health,
    /// Everybody's scores on the test split.
    pub scores: Scores,
}

/// Runs everything; the same call continues a run that was stopped or killed.
///
/// # Errors
/// Wrong input ([`Error::Config`], [`Error::Below`]), a damaged journal
/// ([`Error::Journal`]), [`Error::Cancelled`].
pub fn run(config: &RunConfig, ui: Ui<'_>) -> Result<Outcome, Error> {
    let out = &config.out;
    std::fs::create_dir_all(out).map_err(|source| Error::Io { path: out.clone(), source })?;
    let _owner = own(out).map_err(|source| Error::Io { path: out.clone(), source })?;
    let parents = Parents::open(config, &line_recipe(config, 0.5, 0)?, ui)?;
    let items = Items::open(config, &parents.text)?;
    let fingerprints = parents.refs.each_ref().map(|parent| &parent.fingerprint);
    let header = header(config, fingerprints, &items)?;
    let (mut journal, aside) = Journal::open(&out.join("journal.jsonl"), &header)?;
    if let Some(sentence) = aside {
        (ui.note)(&sentence);
    }
    let profiles = diagnose::profiles(config, &parents, &items, ui)?;
    let comparison = diagnose::comparison(config, &parents, &profiles, &items, ui)?;
    let mut bench = Bench { config, parents: &parents, journal: &mut journal, cancel: ui.cancel };
    let (stages, budget) = stages(&mut bench, &items, ui)?;
    let blocks = depth_blocks(&comparison, MAX_BLOCKS);
    let blind = genome(config, &parents, &blocks, Prior::ignorant(comparison.layers.len()));
    let rank_check = rank_check(&mut bench, &stages, &blind, ui.progress)?;
    let mut champions = Vec::new();
    for arm in &config.arms {
        let prior = prior(*arm, config, &comparison, &profiles[1]);
        let genome = genome(config, &parents, &blocks, prior);
        let search = Search {
            arm: *arm,
            stages: &stages,
            budget,
            diagnostic_tokens: diagnostic_tokens(*arm, &profiles, &comparison),
            progress: ui.progress,
        };
        champions.push(match arm {
            ArmName::Line => search.line(&mut bench)?,
            _ => search.evolve(&mut bench, &genome)?,
        });
    }
    let best = best(&champions);
    let written = child::write(config, &parents, &champions[best], ui)?;
    let health = child::check(config, &parents, &items, &written, ui)?;
    let scores = child::scores(config, &parents, &items, &champions, ui)?;
    ui.hashes.save();
    about(config, &parents, &champions, best, rank_check.as_ref(), ui)?;
    Ok(Outcome { profiles, comparison, rank_check, champions, child: best, health, scores })
}

/// Everything that decides a run. Where its files lie, what it is called and where it is written
/// does not: models and items count by their contents.
pub(crate) fn header(
    config: &RunConfig,
    [father, mother]: [&Fingerprint; 2],
    items: &Items,
) -> Result<RunHeader, Error> {
    let nowhere = std::path::PathBuf::new;
    let decisive = RunConfig {
        title: String::new(),
        father: nowhere(),
        mother: nowhere(),
        items: nowhere(),
        out: nowhere(),
        ..config.clone()
    };
    let text = serde_json::to_string(&decisive).map_err(|e| Error::Config {
        path: config.out.clone(),
        text: e.to_string(),
        hint: "examples/first-light.yaml shows every key".to_owned(),
    })?;
    let origin = Origin::now(
        [("father", father), ("mother", mother)],
        items.fingerprints.iter().map(|(split, items)| (*split, items)),
        Fingerprint::of("configuration", [("configuration", text)]),
    );
    Ok(RunHeader {
        schema: SCHEMA,
        run: origin.fingerprint(),
        origin,
        seeds: [("run".to_owned(), config.seeds.run), ("masks".to_owned(), config.seeds.masks)]
            .into(),
    })
}

/// The three phases with the parents' scores in each, and what an arm may spend.
fn stages<'a>(
    bench: &mut Bench<'_>,
    items: &'a Items,
    ui: Ui<'_>,
) -> Result<(Stages<'a>, Budget), Error> {
    let config = bench.config;
    let num_layers = bench.parents.father_model.config().num_hidden_layers;
    let father = line_recipe(config, 0.0, num_layers)?;
    let mother = line_recipe(config, 1.0, num_layers)?;
    let published = published_recipe(config, num_layers)?;
    let recipes = [("father", &father), ("mother", &mother), ("published", &published)];
    ui.progress.start("baselines", 3, "phases");
    let mut begin = |phase, evaluator: &'a dyn Evaluator| {
        let mut stage = Stage::new(phase, evaluator);
        let cost = stage.baselines(bench, &recipes)?;
        ui.progress.advance(1);
        Ok::<_, Error>((stage, cost))
    };
    let (proxy, proxy_cost) = begin(Phase::Proxy, &items.proxy)?;
    let (real, real_cost) = begin(Phase::Real, &items.search)?;
    let (selection, _) = begin(Phase::Selection, &items.selection)?;
    ui.progress.finish();
    let budget = Budget {
        proxy: proxy_cost * config.proxy.steps as u64,
        real: real_cost * config.real.steps as u64,
        top: config.selection.top,
    };
    Ok((Stages { proxy, real, selection }, budget))
}

fn genome(
    config: &RunConfig,
    parents: &Parents,
    blocks: &[std::ops::Range<usize>],
    prior: Prior,
) -> Genome {
    let has_density = config.merge.method == crate::BlendMethod::DareTies;
    let linear = parents.linear_layers();
    let layers = linear.len();
    // The card's blocks are its own: the golden layer alone, the last alone, the rest (method 2).
    let blocks = match (prior.card_golden_layer(), layers) {
        (Some(golden), 2..) => card_blocks(golden, layers),
        _ => blocks.to_vec(),
    };
    Genome::new(blocks, linear, prior, has_density)
}

fn card_blocks(golden: usize, layers: usize) -> Vec<std::ops::Range<usize>> {
    let last = layers - 1;
    let cuts = [0, golden, golden + 1, last, layers];
    let mut cuts: Vec<usize> = cuts.into_iter().filter(|c| *c <= layers).collect();
    cuts.sort_unstable();
    cuts.dedup();
    cuts.windows(2).map(|w| w[0]..w[1]).collect()
}

fn prior(arm: ArmName, config: &RunConfig, comparison: &Comparison, mother: &Profile) -> Prior {
    match arm {
        ArmName::Guided => Prior::guided(comparison),
        ArmName::Placebo => {
            let mut rng = Rng::new(Key::new(config.seeds.run, &["placebo"]), 0);
            Prior::placebo(comparison, &mut rng)
        }
        ArmName::Card => Prior::card(mother),
        ArmName::Blind | ArmName::Line => Prior::ignorant(comparison.layers.len()),
    }
}

/// Tokens that an arm's knowledge cost: all arms have the same budget, diagnostics included.
fn diagnostic_tokens(arm: ArmName, profiles: &[Profile; 2], comparison: &Comparison) -> u64 {
    match arm {
        ArmName::Guided | ArmName::Placebo => {
            profiles.iter().map(|p| p.forward_tokens).sum::<u64>() + comparison.forward_tokens
        }
        ArmName::Card => profiles[1].forward_tokens,
        ArmName::Blind | ArmName::Line => 0,
    }
}

/// The champion with the best fitness on `selection`; the earlier arm wins a tie.
fn best(champions: &[Champion]) -> usize {
    let mut best = 0;
    for (i, champion) in champions.iter().enumerate() {
        if champion.fitness > champions[best].fitness {
            best = i;
        }
    }
    best
}

fn about(
    config: &RunConfig,
    parents: &Parents,
    champions: &[Champion],
    best: usize,
    rank_check: Option<&RankCheck>,
    ui: Ui<'_>,
) -> Result<(), Error> {
    let arms: Vec<_> = champions
        .iter()
        .map(|c| {
            json!({
                "arm": c.arm.name(),
                "proxy_steps": c.steps[0],
                "real_steps": c.steps[1],
                "tokens": c.tokens,
                "diagnostic_tokens": c.diagnostic_tokens,
                "selection_fitness": c.fitness,
                "recipe_sha256": parents.fingerprint_of(&c.recipe),
            })
        })
        .collect();
    let about = json!({
        "title": config.title,
        "created": ui.created,
        "darwin": ui.program,
        "command": ui.command,
        "licenses": {
            "father": parents.father.license().map_err(Error::below)?,
            "mother": parents.mother.license().map_err(Error::below)?,
        },
        "child": champions[best].arm.name(),
        "seeds": config.seeds,
        "budgets": {
            "proxy_steps": config.proxy.steps,
            "real_steps": config.real.steps,
            "items_per_domain": {
                "calibration": config.calibration.per_domain,
                "proxy": config.proxy.per_domain,
                "search": config.real.per_domain,
                "selection": config.selection.per_domain,
                "test": config.test.per_domain,
            },
        },
        "rank_check": rank_check,
        "arms": arms,
    });
    save(&config.out.join("run.json"), &about)
}

pub(crate) fn save<T: serde::Serialize>(path: &Path, value: &T) -> Result<(), Error> {
    write_json(path, value).map_err(|source| Error::Io { path: path.to_owned(), source })
}
