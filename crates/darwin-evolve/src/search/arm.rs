//! An arm's way: the proxy explored, its best compared on more items, then on the real benchmark,
//! then on `selection` (method 3).

use super::Setup;
use super::ascent::{Ascent, Rule};
use super::card::CardV5;
use super::line::Line;
use super::population::Population;
use super::regmean::Weights;
use super::setting::{Explorer, Setting, Tried, best};
use super::space::{Small, V4, Wide};
use crate::Error;
use crate::job::{Answer, Ask, MOTHER, RANDOM_MOTHER, Window, Work};
use crate::prior::Prior;
use crate::recipe::group_shares;
use darwin_core::files::{ArmName, Phase};
use darwin_merge::Recipe;
use std::sync::Arc;

/// How many of an arm's candidates are compared on more items: its best, what nobody tried yet, and
/// the line's best point.
pub(super) const COMPARED: u64 = 9;

/// An arm's winner and what it cost.
#[derive(Clone, Debug)]
pub struct Champion {
    /// The arm.
    pub arm: ArmName,
    /// The replicate, from 0.
    pub replicate: usize,
    /// The recipe that won on `selection`, of logical parents.
    pub recipe: Arc<Recipe>,
    /// What it was called.
    pub label: Option<String>,
    /// Its fitness there.
    pub fitness: f64,
    /// Its fitness in the last comparison on the proxy.
    pub proxy_fitness: f64,
    /// What it gained there on the goal over the line's best point, without fines.
    pub over_line: Option<f64>,
    /// What derivatives along an ascent foretold of that, where one led to it.
    pub foretold: Option<f64>,
    /// Candidates tried in the proxy and in the real phase.
    pub steps: [usize; 2],
    /// Forward tokens of the proxy phase, the line and diagnostics included, and of the real one.
    pub tokens: [u64; 2],
    /// What the line's grid and the diagnostics cost of them.
    pub start_tokens: u64,
    /// For a placebo, the part of the derivatives' variance that its permutation changes.
    pub permuted: Option<f64>,
    /// Candidates that met in both phases: proxy and real fitness.
    pub ranks: Vec<[f64; 2]>,
}

impl Champion {
    /// Whether it is that of a placebo which is none: its permutation changes hardly any of the
    /// derivatives' variance (method 3.2).
    #[must_use]
    pub fn is_void(&self) -> bool {
        const VOID: f64 = 0.05;
        self.permuted.is_some_and(|changed| changed < VOID)
    }
}

/// An arm in progress.
pub(crate) struct ArmSearch {
    arm: ArmName,
    setting: Arc<Setting>,
    explorer: Box<dyn Explorer>,
    stage: Stage,
    /// Tokens spent in the proxy and in the real phase.
    spent: [u64; 2],
    start_tokens: u64,
    /// What a solution adds to each candidate's tokens.
    solution: u64,
    steps: [usize; 3],
    finalists: Vec<Tried>,
    /// What the last comparison on the proxy said.
    compared: Vec<Tried>,
    /// The goal's gains in it, without fines.
    gains: Vec<(Arc<Recipe>, f64)>,
    ranks: Vec<[f64; 2]>,
    permuted: Option<f64>,
    champion: Option<Champion>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Explore,
    Last,
    Real,
    Selection,
    Done,
}

impl ArmSearch {
    /// An arm that has spent `start_tokens` of its forward tokens on the proxy.
    pub(crate) fn new(
        arm: ArmName,
        setting: Arc<Setting>,
        setup: &Setup,
        start_tokens: u64,
    ) -> Result<Self, Error> {
        let solvable = setup.solvable.as_ref();
        let small = |prior| Box::new(Small::new(&setting, prior));
        let blind = || small(Prior::ignorant());
        let of = |space, random| Population::new(setting.clone(), space, arm.name(), random);
        let mut permuted = None;
        let climb = |mother, rule| Ascent::new(setting.clone(), mother, arm.name(), rule);
        let explorer: Box<dyn Explorer> = match arm {
            ArmName::Line => Box::new(Line::new(setting.clone())),
            ArmName::Blind => Box::new(of(blind(), false)?),
            ArmName::Random => Box::new(of(blind(), true)?),
            ArmName::Card => Box::new(of(small(setup.card.clone()), false)?),
            ArmName::CardV5 => {
                let tensors = setup.tensor_shares.clone();
                Box::new(of(Box::new(CardV5::new(&setting, tensors)), false)?)
            }
            ArmName::BlindWide => Box::new(of(Box::new(Wide::new(&setting)), false)?),
            ArmName::V4 => Box::new(of(Box::new(V4::new(&setting)), false)?),
            ArmName::Guided => Box::new(climb(MOTHER, Rule::Plain)),
            ArmName::RegMean => {
                let missing = || Error::Optimiser("nobody can solve RegMean's maps".to_owned());
                Box::new(Weights::new(setting.clone(), solvable.ok_or_else(missing)?.clone()))
            }
            ArmName::RandomMother => Box::new(climb(RANDOM_MOTHER, Rule::Plain)),
            ArmName::Inverted => Box::new(climb(MOTHER, Rule::Inverted)),
            ArmName::Placebo => {
                let rule = Rule::permuted(&setting.shape.groups, setting.seed());
                let fitness = setting.fitness(Phase::Proxy);
                permuted = setting.diagnosis.as_ref().map(|diagnosis| {
                    rule.change(&diagnosis.gradient(|domain| fitness.weight(domain)))
                });
                Box::new(climb(MOTHER, rule))
            }
        };
        Ok(Self {
            arm,
            explorer,
            stage: Stage::Explore,
            spent: [start_tokens, 0],
            start_tokens,
            solution: solvable.filter(|_| arm == ArmName::RegMean).map_or(0, |s| s.tokens),
            steps: [0; 3],
            finalists: Vec::new(),
            compared: Vec::new(),
            gains: Vec::new(),
            ranks: Vec::new(),
            permuted,
            champion: None,
            setting,
        })
    }

    pub(crate) fn champion(self) -> Option<Champion> {
        self.champion
    }

    /// The phase that it is in, its spent tokens or steps there, and its limit.
    pub(crate) fn phase(&self) -> Option<Phase> {
        match self.stage {
            Stage::Explore | Stage::Last => Some(Phase::Proxy),
            Stage::Real => Some(Phase::Real),
            Stage::Selection => Some(Phase::Selection),
            Stage::Done => None,
        }
    }

    /// Proxy tokens spent and in all.
    pub(crate) fn tokens(&self) -> [u64; 2] {
        [self.spent[0], self.setting.plan.proxy]
    }

    /// The step of the next question of a phase.
    pub(crate) fn steps(&self, phase: Phase) -> usize {
        self.steps[phase as usize]
    }

    pub(crate) fn next(&mut self) -> Result<Vec<Ask>, Error> {
        loop {
            match self.stage {
                Stage::Explore => {
                    let plan = &self.setting.plan;
                    let kept = plan.last + COMPARED * self.solution + self.spent[0];
                    let asks = self.explorer.next(plan.proxy.saturating_sub(kept))?;
                    if !asks.is_empty() {
                        return Ok(asks);
                    }
                    self.finalists = self.best();
                    self.stage = Stage::Last;
                }
                Stage::Last => {
                    let n = self.setting.config.proxy.final_per_domain;
                    let window = self.setting.deck(Phase::Proxy).clone().deal(|_| n);
                    return Ok(self.ask_finalists(self.finalists.len(), Work::Likelihood, &window));
                }
                Stage::Real => {
                    let n = self.setting.config.real.per_domain;
                    let window = self.setting.deck(Phase::Real).clone().deal(|_| n);
                    let most = self.setting.config.real.steps;
                    return Ok(self.ask_finalists(most, Work::ExactMatch, &window));
                }
                Stage::Selection => {
                    let n = self.setting.config.selection.per_domain;
                    let window = self.setting.deck(Phase::Selection).clone().deal(|_| n);
                    self.finalists.truncate(self.setting.config.selection.top);
                    let line = self.setting.line_best().1;
                    if !self.finalists.iter().any(|tried| same(&tried.recipe, &line.recipe)) {
                        self.finalists.push(line.clone());
                    }
                    let all = self.finalists.len();
                    return Ok(self.ask_finalists(all, Work::ExactMatch, &window));
                }
                Stage::Done => return Ok(Vec::new()),
            }
        }
    }

    /// What nobody tried yet, the line's best point, and the best that were tried: as many as are
    /// paid for, equal recipes once.
    fn best(&self) -> Vec<Tried> {
        let tried = self.explorer.tried();
        let untried = tried.iter().filter(|t| t.fitness == f64::INFINITY);
        let known: Vec<Tried> =
            tried.iter().filter(|t| t.fitness != f64::INFINITY).cloned().collect();
        let line = std::iter::once(self.setting.line_best().1);
        let mut finalists: Vec<Tried> = Vec::new();
        for tried in untried.chain(line).chain(best(&known, known.len())) {
            let twice = || finalists.iter().any(|f| same(&f.recipe, &tried.recipe));
            if (finalists.len() as u64) < COMPARED && !twice() {
                finalists.push(tried.clone());
            }
        }
        finalists
    }

    fn ask_finalists(&self, most: usize, work: Work, window: &Window) -> Vec<Ask> {
        let ask = |tried: &Tried| Ask {
            genes: tried.genes.clone(),
            label: tried.label.clone(),
            ..Ask::new(tried.recipe.clone(), work, window.clone())
        };
        self.finalists.iter().take(most).map(ask).collect()
    }

    pub(crate) fn tell(&mut self, asks: &[Ask], answers: &[Answer]) -> Result<(), Error> {
        let Some(phase) = self.phase() else { return Ok(()) };
        self.steps[phase as usize] += asks.len();
        let tokens: u64 = answers.iter().map(|answer| answer.tokens).sum();
        if phase != Phase::Selection {
            self.spent[phase as usize] += tokens;
        }
        if self.stage == Stage::Explore {
            return self.explorer.tell(asks, answers);
        }
        let judged = asks.iter().zip(answers);
        let judged = judged.map(|(ask, a)| Tried::of(ask, self.setting.judge(phase, a)));
        let judged: Vec<Tried> = judged.collect();
        let ordered: Vec<Tried> = best(&judged, judged.len()).cloned().collect();
        match self.stage {
            Stage::Last => {
                let fitness = self.setting.fitness(Phase::Proxy);
                let gained = asks.iter().zip(answers).filter_map(|(ask, answer)| {
                    let scored = answer.outcome.as_ref().ok()?;
                    Some((ask.recipe.clone(), fitness.goal_gain(scored)))
                });
                self.gains = gained.collect();
                self.compared = judged;
                self.stage = Stage::Real;
            }
            Stage::Real => {
                for tried in &judged {
                    if let Some(known) = self.proxy_fitness(&tried.recipe) {
                        self.ranks.push([known, tried.fitness]);
                    }
                }
                self.stage = Stage::Selection;
            }
            _ => return self.choose(&ordered),
        }
        self.finalists = ordered;
        Ok(())
    }

    /// What a candidate gained on the goal in the last comparison on the proxy.
    fn compared_gain(&self, recipe: &Recipe) -> Option<f64> {
        self.gains.iter().find(|(known, _)| same(known, recipe)).map(|(_, gain)| *gain)
    }

    fn proxy_fitness(&self, recipe: &Recipe) -> Option<f64> {
        self.compared.iter().find(|t| same(&t.recipe, recipe)).map(|t| t.fitness)
    }

    fn choose(&mut self, ordered: &[Tried]) -> Result<(), Error> {
        self.stage = Stage::Done;
        let nothing = || Error::Optimiser("no candidate was evaluated".to_owned());
        let winner = ordered.first().ok_or_else(nothing)?;
        self.champion = Some(Champion {
            arm: self.arm,
            replicate: self.setting.replicate,
            recipe: winner.recipe.clone(),
            label: winner.label.clone(),
            fitness: winner.fitness,
            over_line: self
                .compared_gain(&winner.recipe)
                .zip(self.compared_gain(&self.setting.line_best().1.recipe))
                .map(|(own, line)| own - line),
            foretold: self
                .explorer
                .foretold()
                .zip(group_shares(&winner.recipe, &self.setting.shape.groups))
                .map(|(foretold, shares)| foretold.gain(&shares)),
            proxy_fitness: self.proxy_fitness(&winner.recipe).unwrap_or(super::FAILED),
            steps: [self.steps[0], self.steps[1]],
            tokens: self.spent,
            start_tokens: self.start_tokens,
            permuted: self.permuted,
            ranks: self.ranks.clone(),
        });
        Ok(())
    }
}

fn same(a: &Arc<Recipe>, b: &Recipe) -> bool {
    std::ptr::eq(Arc::as_ptr(a), b) || a.logical_yaml() == b.logical_yaml()
}
