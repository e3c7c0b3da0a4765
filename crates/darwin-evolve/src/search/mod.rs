//! The search as a state machine without input or output (method 3): [`Search::next_jobs`] says what
//! is to be evaluated, [`Search::tell`] takes what became of it. Whoever drives it may do the jobs
//! anywhere and in any order; the answers come in the jobs' order.

mod arm;
mod ascent;
mod card;
mod line;
mod margins;
mod plan;
mod population;
mod regmean;
mod setting;
mod setup;
mod space;

pub use arm::Champion;
pub use card::TensorShare;
pub(crate) use plan::Plan;
pub use setting::{Shape, Tried};
pub use setup::Setup;
pub(crate) use space::is_real;

use crate::deck::Deck;
use crate::diagnosis::Diagnosis;
use crate::job::{Answer, Ask, Job, Scored, Window, Work};
use crate::recipe::{line_recipe, published_recipe};
use crate::{Error, Fitness};
use arm::ArmSearch;
use darwin_core::Domain;
use darwin_core::files::{ArmName, Asker, Phase};
use darwin_engine::derivative::Keep;
use margins::Baselines;
use plan::decks;
use setting::Setting;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// Fitness of a candidate that could not be evaluated: finite, for the journal is JSON, and below
/// everything that a score can be.
pub const FAILED: f64 = -1e9;

/// Items of a domain in each half of the diagnosis.
const DIAGNOSED: usize = 64;

/// What a pass with derivatives over so many tokens counts in a budget.
pub(crate) fn slopes_cost(tokens: u64) -> u64 {
    tokens * Keep::Activations.passes()
}

/// A run's search: replicates one after the other, in each the baselines, the line, the diagnosis,
/// then arm after arm.
pub struct Search {
    setup: Setup,
    replicate: usize,
    stage: Stage,
    next_id: u64,
    asked: Vec<Job>,
    fitness: [Option<Fitness>; 3],
    baselines: Baselines,
    decks: [Deck; 3],
    setting: Option<Arc<Setting>>,
    waiting: VecDeque<ArmName>,
    arm: Option<ArmSearch>,
    champions: Vec<Champion>,
    diagnoses: Vec<Option<Arc<Diagnosis>>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Baselines(Phase),
    Line,
    Diagnosis,
    Arms,
    Done,
}

impl Search {
    /// A search that has not begun.
    #[must_use]
    pub fn new(setup: Setup) -> Self {
        let decks = decks(&setup.config, &setup.items, 0);
        Self {
            waiting: setup.config.arms.iter().copied().collect(),
            setup,
            replicate: 0,
            stage: Stage::Baselines(Phase::Proxy),
            next_id: 0,
            asked: Vec::new(),
            fitness: [None, None, None],
            baselines: Baselines::default(),
            decks,
            setting: None,
            arm: None,
            champions: Vec::new(),
            diagnoses: Vec::new(),
        }
    }

    /// What is to be evaluated next; nothing when the search has ended. All of it is told before
    /// more is asked.
    ///
    /// # Errors
    /// What recipes or optimisers refuse.
    pub fn next_jobs(&mut self) -> Result<&[Job], Error> {
        if self.asked.is_empty() {
            let (asker, phase, from, asks) = self.asks()?;
            for (i, ask) in asks.into_iter().enumerate() {
                let (id, replicate) = (self.next_id, self.replicate);
                self.next_id += 1;
                self.asked.push(Job { id, replicate, asker, phase, step: from + i, ask });
            }
        }
        Ok(&self.asked)
    }

    fn asks(&mut self) -> Result<(Asker, Phase, usize, Vec<Ask>), Error> {
        let layers = self.setup.shape.linear.len();
        match self.stage {
            Stage::Baselines(phase) => {
                Ok((Asker::Baseline, phase, 0, self.baselines(phase, layers)?))
            }
            Stage::Line => {
                let config = &self.setup.config;
                let window = self.decks[0].clone().deal(setting::both(config));
                let points = line::grid().map(|t| line::point(config, layers, t, window.clone()));
                let asks = points.collect::<Result<Vec<_>, Error>>()?;
                Ok((Asker::Baseline, Phase::Proxy, 3, asks))
            }
            Stage::Diagnosis => Ok((Asker::Baseline, Phase::Proxy, 14, self.diagnosis(layers)?)),
            Stage::Arms => loop {
                if let Some(arm) = &mut self.arm {
                    let asks = arm.next()?;
                    if let (Some(phase), false) = (arm.phase(), asks.is_empty()) {
                        let from = arm.steps(phase);
                        let name = self.waiting.front().copied().expect("an arm at work");
                        return Ok((Asker::Arm(name), phase, from, asks));
                    }
                    self.champions.extend(self.arm.take().and_then(ArmSearch::champion));
                    self.waiting.pop_front();
                }
                match self.waiting.front() {
                    Some(arm) => self.arm = Some(self.begin(*arm)?),
                    None if self.replicate + 1 < self.setup.config.seeds.replicates => {
                        self.next_replicate();
                        return self.asks();
                    }
                    None => {
                        self.stage = Stage::Done;
                        return Ok((Asker::Baseline, Phase::Proxy, 0, Vec::new()));
                    }
                }
            },
            Stage::Done => Ok((Asker::Baseline, Phase::Proxy, 0, Vec::new())),
        }
    }

    /// Both parents and the published recipe (method 3.4).
    fn baselines(&self, phase: Phase, layers: usize) -> Result<Vec<Ask>, Error> {
        let config = &self.setup.config;
        let n = match phase {
            Phase::Proxy => config.proxy.final_per_domain,
            Phase::Real => config.real.per_domain,
            Phase::Selection => config.selection.per_domain,
        };
        let work = if phase == Phase::Proxy { Work::Likelihood } else { Work::ExactMatch };
        let items = self.decks[phase as usize].clone().deal(|_| n);
        let recipes = [
            ("father", line_recipe(config, 0.0, layers)?),
            ("mother", line_recipe(config, 1.0, layers)?),
            ("published", published_recipe(config, layers)?),
        ];
        let ask = |(label, recipe): (&str, _)| Ask {
            label: Some(label.to_owned()),
            ..Ask::new(Arc::new(recipe), work, items.clone())
        };
        Ok(recipes.into_iter().map(ask).collect())
    }

    /// Derivatives at the line's best point, on two sets of items, and a step further.
    fn diagnosis(&self, layers: usize) -> Result<Vec<Ask>, Error> {
        let setting = self.setting.as_ref().expect("the line was walked");
        let (t, _) = setting.line_best();
        let further = t + step_from(t);
        let mut deck = setting.deck(Phase::Proxy).clone();
        let [a, b] = [deck.deal(|_| DIAGNOSED), deck.deal(|_| DIAGNOSED)];
        let ask = |t: f64, items: &Window| {
            let point = line::point(&self.setup.config, layers, t, items.clone())?;
            let label = Some(format!("derivatives at t={t}"));
            Ok(Ask { label, work: Work::Slopes, ..point })
        };
        [(t, &a), (t, &b), (further, &a)].into_iter().map(|(t, items)| ask(t, items)).collect()
    }

    fn begin(&self, arm: ArmName) -> Result<ArmSearch, Error> {
        let setting = self.setting.clone().expect("the line was walked");
        let diagnosed = setting.diagnosis.as_ref().map_or(0, |diagnosis| diagnosis.tokens);
        let known = match arm {
            arm if arm.ascends() => diagnosed + self.setup.profile_tokens,
            ArmName::Card => self.setup.profile_tokens / 2,
            ArmName::RegMean => self.setup.solvable.as_ref().map_or(0, |s| s.measured),
            _ => 0,
        };
        let start = setting.line_tokens + known;
        let solvable = self.setup.solvable.as_ref();
        let solution = solvable.map_or(0, |solvable| solvable.tokens);
        setting.plan.enough(arm, start, solution)?;
        ArmSearch::new(arm, setting, &self.setup, start)
    }

    fn next_replicate(&mut self) {
        self.replicate += 1;
        self.stage = Stage::Baselines(Phase::Proxy);
        self.fitness = [None, None, None];
        self.baselines = Baselines::default();
        self.decks = decks(&self.setup.config, &self.setup.items, self.replicate);
        self.setting = None;
        self.waiting = self.setup.config.arms.iter().copied().collect();
    }

    /// The fitness of a job's candidate, as the journal writes it: of these scores and of what was
    /// known of it before.
    ///
    /// # Errors
    /// [`Error::Optimiser`] where the father of the phase was not scored yet.
    pub fn fitness(&mut self, job: &Job, scored: &Scored) -> Result<f64, Error> {
        let place = &mut self.fitness[job.phase as usize];
        let is_father = job.asker == Asker::Baseline && job.ask.label.as_deref() == Some("father");
        if is_father && place.is_none() {
            *place = Some(Fitness::new(&self.setup.config, scored));
        }
        let missing = || Error::Optimiser("a candidate came before the father".to_owned());
        let fitness = place.as_ref().ok_or_else(missing)?;
        Ok(match &job.ask.known {
            Some(known) => fitness.of(&known.and(scored)),
            None => fitness.of(scored),
        })
    }

    /// What became of the jobs, in their order.
    ///
    /// # Errors
    /// What the optimiser refuses; [`Error::Below`] where the father could not be evaluated.
    ///
    /// # Panics
    /// If there is not an answer for each job: a bug of the caller.
    pub fn tell(&mut self, answers: &[Answer]) -> Result<(), Error> {
        assert_eq!(answers.len(), self.asked.len(), "an answer for each job");
        let jobs = std::mem::take(&mut self.asked);
        let asks: Vec<Ask> = jobs.into_iter().map(|job| job.ask).collect();
        match self.stage {
            Stage::Baselines(phase) => {
                if let Some(Answer { outcome: Err(why), .. }) = answers.first() {
                    return Err(Error::father(why));
                }
                self.baselines.tell(phase as usize, answers);
                if let (Phase::Selection, Some(proxy)) = (phase, &mut self.fitness[0]) {
                    proxy.translate(|domain, margin| self.baselines.translated(domain, margin));
                }
                self.stage = match phase {
                    Phase::Proxy => Stage::Baselines(Phase::Real),
                    Phase::Real => Stage::Baselines(Phase::Selection),
                    Phase::Selection => Stage::Line,
                };
            }
            Stage::Line => self.walked(&asks, answers)?,
            Stage::Diagnosis => self.diagnosed(answers)?,
            Stage::Arms => {
                if let Some(arm) = &mut self.arm {
                    arm.tell(&asks, answers)?;
                }
            }
            Stage::Done => {}
        }
        Ok(())
    }

    fn walked(&mut self, asks: &[Ask], answers: &[Answer]) -> Result<(), Error> {
        let missing = || Error::Optimiser("a phase has no father".to_owned());
        let fitness = self.fitness.iter().map(|f| f.clone().ok_or_else(missing));
        let fitness: Vec<Fitness> = fitness.collect::<Result<_, _>>()?;
        let mut setting = Setting {
            config: self.setup.config.clone(),
            shape: self.setup.shape.clone(),
            replicate: self.replicate,
            plan: Plan::of_decks(&self.setup.config, &self.decks),
            decks: self.decks.clone(),
            fitness: fitness.try_into().expect("three phases"),
            line: Vec::new(),
            line_tokens: answers.iter().map(|answer| answer.tokens).sum(),
            diagnosis: None,
        };
        let points = asks.iter().zip(answers);
        let points = points.map(|(ask, a)| Tried::of(ask, setting.judge(Phase::Proxy, a)));
        setting.line = points.collect();
        self.setting = Some(Arc::new(setting));
        let diagnosed = self.setup.config.arms.iter().any(|arm| arm.ascends());
        self.stage = if diagnosed { Stage::Diagnosis } else { Stage::Arms };
        if !diagnosed {
            self.diagnoses.push(None);
        }
        Ok(())
    }

    fn diagnosed(&mut self, answers: &[Answer]) -> Result<(), Error> {
        let slopes = |answer: &Answer| match &answer.outcome {
            Ok(scored) => scored.slopes.clone().ok_or("it brought no derivatives".to_owned()),
            Err(why) => Err(why.clone()),
        };
        let found: Result<Vec<_>, String> = answers.iter().map(slopes).collect();
        let found = found.map_err(|why| Error::Below {
            message: format!("the line's best point could not be diagnosed: {why}"),
            hint: None,
            fault: darwin_core::Fault::User,
        })?;
        let [a, b, further]: [_; 3] = found.try_into().expect("three questions, three answers");
        let mut setting = self.setting.as_deref().expect("the line was walked").clone();
        let (t, _) = setting.line_best();
        let diagnosis = Arc::new(Diagnosis {
            t,
            step: step_from(t),
            halves: [a, b],
            further,
            groups: self.setup.shape.groups.clone(),
            n: items(answers),
            tokens: answers.iter().map(|answer| answer.tokens).sum(),
        });
        setting.diagnosis = Some(diagnosis.clone());
        self.diagnoses.push(Some(diagnosis));
        self.setting = Some(Arc::new(setting));
        self.stage = Stage::Arms;
        Ok(())
    }

    /// Where the search is: a name, and how much of how much of it is done.
    #[must_use]
    pub fn status(&self) -> (String, u64, u64) {
        let of = |name: String| {
            let many = self.setup.config.seeds.replicates > 1;
            let seed = if many { format!(", seed {}", self.replicate + 1) } else { String::new() };
            format!("{name}{seed}")
        };
        match (&self.arm, self.waiting.front()) {
            (Some(arm), Some(name)) if self.stage == Stage::Arms => match arm.phase() {
                Some(Phase::Proxy) => {
                    let [spent, budget] = arm.tokens();
                    (of(format!("proxy {}", name.name())), spent.min(budget), budget)
                }
                Some(Phase::Real) => (of(format!("real {}", name.name())), 0, 1),
                _ => (of(format!("selection {}", name.name())), 0, 1),
            },
            _ => (of("baselines".to_owned()), 0, 1),
        }
    }

    /// Each arm's champion so far, replicate after replicate.
    #[must_use]
    pub fn champions(&self) -> &[Champion] {
        &self.champions
    }

    /// What a domain weighs in the goal.
    #[must_use]
    pub fn weight(&self, domain: &Domain) -> f64 {
        self.fitness[0].as_ref().map_or(0.0, |fitness| fitness.weight(domain))
    }

    /// The diagnosis of each replicate, where an arm used one.
    #[must_use]
    pub fn diagnoses(&self) -> &[Option<Arc<Diagnosis>>] {
        &self.diagnoses
    }
}

/// Items of each domain in the first two answers.
fn items(answers: &[Answer]) -> BTreeMap<Domain, usize> {
    let mut n = BTreeMap::new();
    let scored = answers.iter().take(2).filter_map(|answer| answer.outcome.as_ref().ok());
    for (domain, tally) in scored.flat_map(|scored| &scored.domains) {
        *n.entry(domain.clone()).or_insert(0) += tally.n;
    }
    n
}

/// The second point of the line: inside it.
fn step_from(t: f64) -> f64 {
    if t <= 0.5 { 0.2 } else { -0.2 }
}

#[cfg(test)]
mod tests;
