//! Stochastic ascent on the shares of all groups along derivatives (method 2), then CMA-ES around
//! its result.

use super::population::Population;
use super::setting::{Explorer, Foretold, Setting, Tried};
use super::space::{Along, SHARES};
use crate::Error;
use crate::deck::Deck;
use crate::diagnosis::add;
use crate::job::{Answer, Ask, Scored, Slopes, Work};
use crate::recipe::group_recipe;
use darwin_core::files::Phase;
use darwin_core::keyed::{Key, Rng};
use darwin_core::{Domain, Group, LayerIdx, Part};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The part of an arm's tokens that the ascent gets; CMA-ES gets the rest.
const TOKENS: f64 = 0.75;
/// Items of a step: of each domain of the goal, and of each protected one.
const ITEMS: [usize; 2] = [32, 16];
/// Adam's rates (arXiv 1412.6980): first and last step length, decay of both moments.
const STEPS: [f64; 2] = [0.03, 0.002];
const DECAY: [f64; 2] = [0.9, 0.98];
/// What a protected domain weighs at first, all together, in units of the goal; how fast its weight
/// follows a loss, and its limit.
const MULTIPLIER: f64 = 1.0;
const MULTIPLIER_RATE: f64 = 1.0;
const MULTIPLIER_MOST: f64 = 8.0;
/// How slowly the gains of protected domains are averaged.
const MEMORY: f64 = 0.9;
/// The shares are averaged over this last part of the ascent (arXiv 1803.05407).
const AVERAGED: f64 = 0.25;

/// What is done to the derivatives.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Rule {
    /// Nothing.
    Plain,
    /// Each group gets the derivative of another of its kind: the placebo.
    Permuted(Vec<usize>),
    /// The other sign.
    Inverted,
}

impl Rule {
    /// A permutation within kinds: the same tensor of any layer, for any expert.
    pub(crate) fn permuted(groups: &[Group], seed: u64) -> Self {
        let mut kinds: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (i, group) in groups.iter().enumerate() {
            kinds.entry(kind(group)).or_default().push(i);
        }
        let mut rng = Rng::new(Key::new(seed, &["placebo"]), 0);
        let mut of: Vec<usize> = (0..groups.len()).collect();
        for places in kinds.into_values() {
            let mut drawn = places.clone();
            rng.shuffle(&mut drawn);
            places.iter().zip(drawn).for_each(|(place, from)| of[*place] = from);
        }
        Self::Permuted(of)
    }

    fn apply(&self, values: &[f64]) -> Vec<f64> {
        match self {
            Self::Plain => values.to_vec(),
            Self::Permuted(of) => of.iter().map(|from| values[*from]).collect(),
            Self::Inverted => values.iter().map(|v| -v).collect(),
        }
    }

    /// The part of the values' variance that the rule changes: 0 where it does nothing, about 1
    /// where it leaves no trace.
    pub(crate) fn change(&self, values: &[f64]) -> f64 {
        let mean = values.iter().sum::<f64>() / values.len().max(1) as f64;
        let spread: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
        let moved: f64 = self.apply(values).iter().zip(values).map(|(a, b)| (a - b).powi(2)).sum();
        if spread > 0.0 { moved / (2.0 * spread) } else { 0.0 }
    }
}

/// A tensor's name without its layer.
fn kind(group: &Group) -> &str {
    let name = &*group.tensor;
    group.layer.and_then(|_| name.splitn(3, '.').nth(2)).unwrap_or(name)
}

/// Climbs.
pub(crate) struct Ascent {
    setting: Arc<Setting>,
    mother: &'static str,
    stream: &'static str,
    rule: Rule,
    deck: Deck,
    start: Vec<f64>,
    shares: Vec<f64>,
    moments: [Vec<f64>; 2],
    steps: usize,
    /// Weights of the protected domains, and what they lost lately.
    multipliers: BTreeMap<Domain, f64>,
    gains: BTreeMap<Domain, f64>,
    average: (Vec<f64>, usize),
    /// Tokens of the ascent: all, and used.
    budget: Option<u64>,
    used: u64,
    failures: usize,
    /// Groups whose derivatives shrink towards their mean.
    families: Vec<Vec<usize>>,
    /// What the goal's own derivatives say of the way, whatever the rule.
    foretold: Foretold,
    after: Option<Population>,
    result: Option<Tried>,
}

impl Ascent {
    pub(crate) fn new(
        setting: Arc<Setting>,
        mother: &'static str,
        stream: &'static str,
        rule: Rule,
    ) -> Self {
        let groups = &setting.shape.groups;
        let start = vec![setting.line_best().0; groups.len()];
        let margins = setting.fitness(Phase::Proxy).margins();
        let first = MULTIPLIER / margins.len().max(1) as f64;
        let multipliers = margins.keys().map(|d| (d.clone(), first)).collect();
        let families = families(groups);
        let zero = vec![0.0; groups.len()];
        Self {
            deck: setting.deck(Phase::Proxy).clone(),
            shares: start.clone(),
            moments: [zero.clone(), zero.clone()],
            average: (zero, 0),
            multipliers,
            gains: BTreeMap::new(),
            families,
            start,
            setting,
            mother,
            stream,
            rule,
            steps: 0,
            budget: None,
            used: 0,
            failures: 0,
            foretold: Foretold::default(),
            after: None,
            result: None,
        }
    }

    /// The question at the present shares, unless its tokens are spent.
    fn question(&mut self, budget: u64) -> Result<Option<Ask>, Error> {
        let protected = self.setting.config.goal.protected.clone();
        let items = |d: &Domain| ITEMS[usize::from(protected.contains_key(d))];
        let window = self.deck.deal(items);
        let cost = super::slopes_cost(self.deck.tokens(&window));
        if self.used + cost > budget || self.failures > 3 {
            return Ok(None);
        }
        let setting = &self.setting;
        let recipe =
            group_recipe(&setting.config, self.mother, &setting.shape.groups, &self.shares)?;
        let ask = setting.ask(self.steps, Vec::new(), recipe, window);
        Ok(Some(Ask { label: Some("ascent".to_owned()), work: Work::Slopes, ..ask }))
    }

    fn step(&mut self, scored: &Scored, slopes: &Slopes) {
        self.follow(scored);
        let fitness = self.setting.fitness(Phase::Proxy);
        let mut goal = vec![0.0; self.shares.len()];
        add(&mut goal, slopes, |domain| fitness.weight(domain));
        self.foretold.go(&self.shares, goal);
        let (values, errors) = self.gradient(slopes);
        let gradient = self.shrunk(&values, &errors);
        let budget = self.budget.unwrap_or(1).max(1) as f64;
        let done = (self.used as f64 / budget).min(1.0);
        let length = STEPS[0] * (1.0 - done) + STEPS[1];
        self.steps += 1;
        let [first, second] = &mut self.moments;
        let unbiased = DECAY.map(|decay| 1.0 - decay.powi(self.steps as i32));
        for (i, g) in gradient.iter().enumerate() {
            first[i] = DECAY[0] * first[i] + (1.0 - DECAY[0]) * g;
            second[i] = DECAY[1] * second[i] + (1.0 - DECAY[1]) * g * g;
            let (m, v) = (first[i] / unbiased[0], second[i] / unbiased[1]);
            let share = self.shares[i] + length * m / (v.sqrt() + 1e-12);
            self.shares[i] = share.clamp(SHARES.0, SHARES.1);
        }
        if done >= 1.0 - AVERAGED {
            let (mean, n) = &mut self.average;
            *n += 1;
            let n = *n as f64;
            mean.iter_mut().zip(&self.shares).for_each(|(mean, s)| *mean += (s - *mean) / n);
        }
    }

    /// The weights of protected domains follow what they lose: half the margin is aimed at, for the
    /// other half is what a child may lose by chance.
    fn follow(&mut self, scored: &Scored) {
        for (domain, margin) in self.setting.fitness(Phase::Proxy).margins() {
            let Some(tally) = scored.domains.get(domain) else { continue };
            let gain = self.gains.entry(domain.clone()).or_insert(tally.gain.value);
            *gain = MEMORY * *gain + (1.0 - MEMORY) * tally.gain.value;
            let lacking = -0.5 * margin - *gain;
            if let Some(weight) = self.multipliers.get_mut(domain) {
                *weight = (*weight + MULTIPLIER_RATE * lacking).clamp(0.0, MULTIPLIER_MOST);
            }
        }
    }

    /// The derivative of goal and protected domains together, and its standard error.
    fn gradient(&self, slopes: &Slopes) -> (Vec<f64>, Vec<f64>) {
        let fitness = self.setting.fitness(Phase::Proxy);
        let n = self.shares.len();
        let (mut values, mut squares) = (vec![0.0; n], vec![0.0; n]);
        for (domain, slope) in &slopes.domains {
            let weight =
                fitness.weight(domain) + self.multipliers.get(domain).copied().unwrap_or(0.0);
            for i in 0..n {
                values[i] += weight * f64::from(slope.value[i]);
                squares[i] += (weight * f64::from(slope.se[i])).powi(2);
            }
        }
        let errors: Vec<f64> = squares.iter().map(|s| s.sqrt()).collect();
        // The sign of an error means nothing.
        (self.rule.apply(&values), self.rule.apply(&errors))
    }

    /// Derivatives shrunk towards their family's mean as far as they are noise (method 1.6).
    fn shrunk(&self, values: &[f64], errors: &[f64]) -> Vec<f64> {
        let mut shrunk = values.to_vec();
        for family in &self.families {
            let n = family.len() as f64;
            let mean = family.iter().map(|i| values[*i]).sum::<f64>() / n;
            let spread = family.iter().map(|i| (values[*i] - mean).powi(2)).sum::<f64>();
            let noise = family.iter().map(|i| errors[*i].powi(2)).sum::<f64>() / n;
            let true_spread = (spread / (n - 1.0) - noise).max(0.0);
            for i in family {
                let own = errors[*i].powi(2);
                let weight =
                    if true_spread + own > 0.0 { true_spread / (true_spread + own) } else { 0.0 };
                shrunk[*i] = mean + weight * (values[*i] - mean);
            }
        }
        shrunk
    }

    /// The ascent's result, and the population around it.
    fn finish(&mut self) -> Result<(), Error> {
        let (mean, n) = &self.average;
        let end = if *n > 0 { mean.clone() } else { self.shares.clone() };
        let groups = &self.setting.shape.groups;
        let recipe = group_recipe(&self.setting.config, self.mother, groups, &end)?;
        self.result = Some(Tried {
            recipe: Arc::new(recipe),
            genes: Vec::new(),
            label: Some("ascent".to_owned()),
            fitness: f64::INFINITY,
        });
        let fitness = self.setting.fitness(Phase::Proxy);
        let diagnosis = self.setting.diagnosis.as_ref();
        let curvature = diagnosis.map_or_else(
            || vec![0.0; end.len()],
            |diagnosis| diagnosis.curvature(|domain| fitness.weight(domain)),
        );
        let along = Along::new(&self.setting, self.mother, [self.start.clone(), end], &curvature);
        let population =
            Population::new(self.setting.clone(), Box::new(along), self.stream, false)?;
        self.after = Some(population);
        Ok(())
    }
}

/// Experts of a tensor; tensors of a layer's part.
fn families(groups: &[Group]) -> Vec<Vec<usize>> {
    let mut families: BTreeMap<(Option<LayerIdx>, Part, &str), Vec<usize>> = BTreeMap::new();
    for (i, group) in groups.iter().enumerate() {
        let tensor = if group.expert.is_some() { &*group.tensor } else { "" };
        families.entry((group.layer, group.part, tensor)).or_default().push(i);
    }
    families.into_values().filter(|family| family.len() > 1).collect()
}

impl Explorer for Ascent {
    fn next(&mut self, left: u64) -> Result<Vec<Ask>, Error> {
        if self.after.is_none() {
            let budget = *self.budget.get_or_insert((left as f64 * TOKENS) as u64);
            if let Some(ask) = self.question(budget)? {
                return Ok(vec![ask]);
            }
            self.finish()?;
        }
        self.after.as_mut().map_or(Ok(Vec::new()), |population| population.next(left))
    }

    fn tell(&mut self, asks: &[Ask], answers: &[Answer]) -> Result<(), Error> {
        if let Some(population) = &mut self.after {
            return population.tell(asks, answers);
        }
        for answer in answers {
            self.used += answer.tokens;
            match &answer.outcome {
                Ok(scored) => {
                    if let Some(slopes) = scored.slopes.clone() {
                        self.step(scored, &slopes);
                        self.failures = 0;
                    }
                }
                Err(_) => self.failures += 1,
            }
        }
        Ok(())
    }

    fn foretold(&self) -> Option<&Foretold> {
        (self.steps > 0).then_some(&self.foretold)
    }

    fn tried(&self) -> Vec<Tried> {
        let after = self.after.iter().flat_map(|population| population.tried());
        self.result.iter().cloned().chain(after).collect()
    }
}
