//! The whole job, as a list of named steps.

use crate::execute::Executor;
use crate::items::Items;
use crate::recipe::group_shares;
use crate::search::{Champion, Plan, Search, Setup, is_real};
use crate::{Diagnosis, Error, Journal, Parents, Prior, RunConfig, child, diagnose};
use darwin_checkpoint::HashCache;
use darwin_core::files::{
    ArmName, Comparison, DiagnosisFile, Health, Origin, Prediction, Profile, RunHeader, SCHEMA,
    Scores,
};
use darwin_core::fs::{own, write_json};
use darwin_core::stats::spearman;
use darwin_core::{Cancel, Domain, Fingerprint, NoProgress, Progress};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::path::Path;
use std::sync::Arc;

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
    /// Each arm's champion, replicate after replicate.
    pub champions: Vec<Champion>,
    /// The champion that became the child, by position.
    pub child: usize,
    /// Its health.
    pub health: Health,
    /// Everybody's scores on the test split.
    pub scores: Scores,
}

/// How well the proxy ranks candidates that matter: those that every arm took to the real phase.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct RankCheck {
    /// Candidates.
    pub n: usize,
    /// Spearman's rho between the proxy's fitness and the real one.
    pub rho: f64,
}

impl RankCheck {
    fn of(champions: &[Champion]) -> Option<Self> {
        let pairs: Vec<[f64; 2]> = champions.iter().flat_map(|c| c.ranks.clone()).collect();
        let [proxy, real] = [0, 1].map(|i| pairs.iter().map(|p| p[i]).collect::<Vec<_>>());
        spearman(&proxy, &real).map(|rho| Self { n: pairs.len(), rho })
    }
}

/// Runs everything; the same call continues a run that was stopped or killed.
///
/// # Errors
/// Wrong input ([`Error::Config`], [`Error::Below`], [`Error::Budget`]), a damaged journal
/// ([`Error::Journal`]), [`Error::Cancelled`].
pub fn run(config: &RunConfig, ui: Ui<'_>) -> Result<Outcome, Error> {
    let out = &config.out;
    std::fs::create_dir_all(out).map_err(|source| Error::Io { path: out.clone(), source })?;
    let _owner = own(out).map_err(|source| Error::Io { path: out.clone(), source })?;
    for note in config.notes() {
        (ui.note)(&note);
    }
    let mut parents = Parents::open(config, ui)?;
    let items = Items::open(config, &parents.text)?;
    let costs = items.costs();
    Plan::of(config, &costs).check(&config.arms, items.calibration.tokens())?;
    let fingerprints = parents.refs.each_ref().map(|parent| &parent.fingerprint);
    let header = header(config, fingerprints, &items)?;
    let (mut journal, aside) = Journal::open(&out.join("journal.jsonl"), &header)?;
    if let Some(sentence) = aside {
        (ui.note)(&sentence);
    }
    let profiles = diagnose::profiles(config, &parents, &items, ui)?;
    if config.arms.contains(&ArmName::RegMean) {
        parents.solve_from(config, &items.calibration, ui)?;
    }
    let parents = parents;
    let comparison = diagnose::comparison(config, &parents, &profiles, &items, ui)?;
    let mut search = Search::new(Setup {
        config: Arc::new(config.clone()),
        shape: parents.shape(config)?,
        card: Prior::card(&profiles[1]),
        items: costs,
        profile_tokens: profiles.iter().map(|p| p.forward_tokens).sum(),
        solvable: parents.solvable().cloned(),
        tensor_shares: match config.arms.contains(&ArmName::CardV5) {
            true => parents.tensor_shares()?.into(),
            false => Arc::default(),
        },
    });
    // Derivatives of another run stay with its journal.
    let folder = out.join("slopes").join(header.run.short());
    let mut executor = Executor::new(&parents, &items, &mut journal, folder, ui.cancel);
    drive(&mut search, &mut executor, ui.progress)?;
    let champions = search.champions().to_vec();
    let best = best(&champions)?;
    let written = child::write(config, &parents, &champions[best], ui)?;
    let health = child::check(config, &parents, &items, &written, ui)?;
    let scores = child::scores(config, &parents, &items, &champions, ui)?;
    ui.hashes.save();
    let rank_check = RankCheck::of(&champions);
    about(config, &parents, &search, best, rank_check.as_ref(), ui)?;
    if let Some(Some(diagnosis)) = search.diagnoses().first() {
        let file = diagnosis_file(&search, diagnosis, &champions[best], &comparison, header.origin);
        save(&out.join("diagnosis.json"), &file)?;
    }
    Ok(Outcome { profiles, comparison, rank_check, champions, child: best, health, scores })
}

/// What the derivatives said in the first replicate, and what became of it in the child.
fn diagnosis_file(
    search: &Search,
    diagnosis: &Diagnosis,
    child: &Champion,
    comparison: &Comparison,
    origin: Origin,
) -> DiagnosisFile {
    let weight = |domain: &Domain| search.weight(domain);
    let of = |c: &Champion| group_shares(&c.recipe, &diagnosis.groups);
    let own = |c: &&Champion| c.replicate == 0 && c.arm.ascends() && is_real(&c.recipe);
    let others = search.champions().iter().filter(own);
    let shown = std::iter::once(child).chain(others).find_map(|c| Some((c, of(c)?)));
    let shares = shown.as_ref().map(|(_, shares)| &shares[..]);
    let (parts, experts) = diagnosis.parts(weight, shares);
    let of_layer = |layer: usize| {
        let own = parts.iter().filter(|part| part.layer.is_some_and(|l| l.0 == layer));
        own.map(|part| part.goal.value).sum::<f64>()
    };
    let slopes: Vec<f64> = comparison.layers.iter().map(|l| of_layer(l.layer)).collect();
    let swaps: Vec<f64> = comparison.layers.iter().map(|l| l.advantage.total.value).collect();
    DiagnosisFile {
        schema: SCHEMA,
        origin,
        t: diagnosis.t,
        n: diagnosis.n.clone(),
        repeatability: diagnosis.repeatability(weight),
        parts,
        experts,
        swaps_correlation: spearman(&slopes, &swaps),
        arm: shown.as_ref().map(|(champion, _)| champion.arm),
        child: shown.as_ref().and_then(|(champion, shares)| {
            Some(Prediction {
                predicted: diagnosis.predict(weight, shares),
                along: champion.foretold,
                measured: champion.over_line?,
            })
        }),
        forward_tokens: diagnosis.tokens,
    }
}

/// Does what a search asks until it has ended.
fn drive(
    search: &mut Search,
    executor: &mut Executor<'_>,
    progress: &dyn Progress,
) -> Result<(), Error> {
    let (mut shown, mut done) = (String::new(), 0);
    loop {
        let jobs = search.next_jobs()?.to_vec();
        let (name, now, all) = search.status();
        if name != shown || jobs.is_empty() {
            if !shown.is_empty() {
                progress.finish();
            }
            if jobs.is_empty() {
                return Ok(());
            }
            progress.start(&name, all, if all > 1 { "tokens" } else { "phases" });
            (shown, done) = (name, 0);
        }
        progress.advance(now.saturating_sub(done));
        done = done.max(now);
        let mut answers = Vec::with_capacity(jobs.len());
        for job in &jobs {
            answers.push(executor.answer(job, |scored| search.fitness(job, scored))?);
        }
        search.tell(&answers)?;
    }
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

/// The champion of the first replicate with the best fitness on `selection`; the earlier arm wins a
/// tie. A control with another mother than the user's is no child.
fn best(champions: &[Champion]) -> Result<usize, Error> {
    let real = |c: &Champion| c.replicate == 0 && is_real(&c.recipe);
    let real = champions.iter().enumerate().filter(|(_, c)| real(c));
    let better = |a: usize, b: usize| champions[b].fitness > champions[a].fitness;
    let best = real.map(|(i, _)| i).reduce(|best, i| if better(best, i) { i } else { best });
    best.ok_or_else(|| Error::Optimiser("no arm found a child of both parents".to_owned()))
}

fn about(
    config: &RunConfig,
    parents: &Parents,
    search: &Search,
    best: usize,
    rank_check: Option<&RankCheck>,
    ui: Ui<'_>,
) -> Result<(), Error> {
    let champions = search.champions();
    let arms: Vec<_> = champions
        .iter()
        .map(|c| {
            json!({
                "arm": c.arm.name(),
                "replicate": c.replicate,
                "candidate": c.label,
                "proxy_steps": c.steps[0],
                "real_steps": c.steps[1],
                "tokens": c.tokens.iter().sum::<u64>(),
                "proxy_tokens": c.tokens[0],
                "diagnostic_tokens": c.start_tokens,
                "proxy_fitness": c.proxy_fitness,
                "selection_fitness": c.fitness,
                "permuted_variance": c.permuted,
                "void": c.permuted.map(|_| c.is_void()),
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
                "proxy_final": config.proxy.final_per_domain,
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
