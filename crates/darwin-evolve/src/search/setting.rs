//! What all arms of a replicate start from.

use super::plan::Plan;
use crate::blocks::depth_blocks;
use crate::deck::Deck;
use crate::diagnosis::Diagnosis;
use crate::job::{Answer, Ask, Scored, Window, Work};
use crate::{Error, Fitness, RunConfig};
use darwin_core::Domain;
use darwin_core::Group;
use darwin_core::files::Phase;
use darwin_merge::Recipe;
use std::sync::Arc;

/// Protected domains get so many times the items of the others, as far as there are some: equality
/// needs more items than a gain does (method 3.3).
const PROTECTED: usize = 4;

/// The best of a generation are asked so many times the items.
const RACE: usize = 4;

/// What the search knows of the parents: their shape.
#[derive(Clone, Debug)]
pub struct Shape {
    /// For each layer whether it is linear attention.
    pub linear: Vec<bool>,
    /// Everything that can have a share of its own; empty where the family has no derivatives.
    pub groups: Arc<[Group]>,
}

/// A candidate that was tried.
#[derive(Clone, Debug)]
pub struct Tried {
    /// Its recipe.
    pub recipe: Arc<Recipe>,
    /// Its genes, where it has some.
    pub genes: Vec<f64>,
    /// What it is otherwise.
    pub label: Option<String>,
    /// Its fitness in the phase that it was tried in.
    pub fitness: f64,
}

impl Tried {
    /// Of a question and what was answered; a failure has the lowest fitness.
    pub(crate) fn of(ask: &Ask, fitness: f64) -> Self {
        let (recipe, genes, label) = (ask.recipe.clone(), ask.genes.clone(), ask.label.clone());
        Self { recipe, genes, label, fitness }
    }
}

/// The `n` best, the best first; ties go to the earlier one.
pub(crate) fn best(tried: &[Tried], n: usize) -> impl Iterator<Item = &Tried> {
    let mut order: Vec<&Tried> = tried.iter().collect();
    order.sort_by(|a, b| b.fitness.total_cmp(&a.fitness));
    order.into_iter().take(n)
}

/// What all arms of a replicate start from.
#[derive(Clone, Debug)]
pub(crate) struct Setting {
    pub(crate) config: Arc<RunConfig>,
    pub(crate) shape: Shape,
    pub(crate) replicate: usize,
    /// What its arms may spend.
    pub(crate) plan: Plan,
    /// Items by phase.
    pub(crate) decks: [Deck; 3],
    /// By phase.
    pub(crate) fitness: [Fitness; 3],
    /// Points of the line on the proxy, and what they cost every arm.
    pub(crate) line: Vec<Tried>,
    pub(crate) line_tokens: u64,
    /// Derivatives at the line's best point, where an arm uses them.
    pub(crate) diagnosis: Option<Arc<Diagnosis>>,
}

impl Setting {
    pub(crate) fn deck(&self, phase: Phase) -> &Deck {
        &self.decks[phase as usize]
    }

    pub(crate) fn fitness(&self, phase: Phase) -> &Fitness {
        &self.fitness[phase as usize]
    }

    /// The fitness of an answer; a failure's is lower than any.
    pub(crate) fn judge(&self, phase: Phase, answer: &Answer) -> f64 {
        let of = |scored: &Scored| self.fitness(phase).of(scored);
        answer.outcome.as_ref().map_or(super::FAILED, of)
    }

    /// The line's best point: its share and how it did.
    pub(crate) fn line_best(&self) -> (f64, &Tried) {
        let tried = best(&self.line, 1).next().expect("the line was walked");
        (tried.genes[0], tried)
    }

    /// A question about a candidate's likelihood.
    pub(crate) fn ask(
        &self,
        generation: usize,
        genes: Vec<f64>,
        recipe: Recipe,
        items: Window,
    ) -> Ask {
        Ask { generation, genes, ..Ask::new(Arc::new(recipe), Work::Likelihood, items) }
    }

    /// Blocks of layers with alike derivatives, outliers alone; one where nothing is known.
    pub(crate) fn blocks(&self) -> Vec<std::ops::Range<usize>> {
        let layers = self.shape.linear.len();
        let weight = |domain: &Domain| self.fitness(Phase::Proxy).weight(domain);
        let blocks = |diagnosis: &Arc<Diagnosis>| depth_blocks(diagnosis, layers, weight);
        let whole = || std::iter::once(0..layers).collect();
        self.diagnosis.as_ref().map_or_else(whole, blocks)
    }

    /// Random numbers of this replicate.
    pub(crate) fn seed(&self) -> u64 {
        self.config.seeds.run.wrapping_add(self.replicate as u64)
    }
}

/// Items of a domain that every candidate is asked.
pub(crate) fn first(config: &RunConfig) -> impl Fn(&Domain) -> usize + '_ {
    let n = config.proxy.per_domain;
    move |domain| if config.goal.protected.contains_key(domain) { n * PROTECTED } else { n }
}

/// Items more of a domain for the best of a generation.
pub(crate) fn race(config: &RunConfig) -> impl Fn(&Domain) -> usize + '_ {
    let n = config.proxy.per_domain;
    move |domain| {
        let protected = config.goal.protected.contains_key(domain);
        if protected { n * RACE.saturating_sub(PROTECTED) } else { n * (RACE - 1) }
    }
}

/// Both.
pub(crate) fn both(config: &RunConfig) -> impl Fn(&Domain) -> usize + '_ {
    let (first, race) = (first(config), race(config));
    move |domain| first(domain) + race(domain)
}

/// What derivatives along a way say of the goal: the gain up to its end, and the derivative there.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Foretold {
    gain: f64,
    /// The shares of the newest derivative.
    at: Vec<f64>,
    gradient: Vec<f64>,
}

impl Foretold {
    /// Goes on to some shares, where the derivative is this. The step is judged by what was measured
    /// after it, on other items than those that chose it: a choice makes its own noise look like gain.
    pub(crate) fn go(&mut self, to: &[f64], gradient: Vec<f64>) {
        if !self.at.is_empty() {
            self.gain += between(&self.at, to, &gradient);
        }
        (self.at, self.gradient) = (to.to_vec(), gradient);
    }

    /// The gain at some shares near the end.
    pub(crate) fn gain(&self, shares: &[f64]) -> f64 {
        self.gain + between(&self.at, shares, &self.gradient)
    }
}

fn between(from: &[f64], to: &[f64], gradient: &[f64]) -> f64 {
    from.iter().zip(to).zip(gradient).map(|((from, to), g)| g * (to - from)).sum()
}

/// Explores the proxy for an arm: questions until its tokens are spent.
pub(crate) trait Explorer: Send {
    /// The next questions, of at most so many tokens in all; none where it is done.
    fn next(&mut self, left: u64) -> Result<Vec<Ask>, Error>;

    /// What became of them.
    fn tell(&mut self, asks: &[Ask], answers: &[Answer]) -> Result<(), Error>;

    /// Everything that was tried, and what nobody tried that may be best of all (a mean), with an
    /// infinite fitness.
    fn tried(&self) -> Vec<Tried>;

    /// What derivatives said on the way, where there were some.
    fn foretold(&self) -> Option<&Foretold> {
        None
    }
}
