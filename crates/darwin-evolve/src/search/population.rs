//! Generations of candidates: CMA-ES, or random genes, with races for the best (method 3.3).

use super::setting::{Explorer, Setting, Tried, first, race};
use super::space::Space;
use crate::Error;
use crate::cma::{Cma, Covariance, Options, default_popsize};
use crate::deck::Deck;
use crate::job::{Answer, Ask, Scored, Window};
use darwin_core::Diagnose;
use darwin_core::files::Phase;
use darwin_core::keyed::{Key, Rng};
use std::sync::Arc;

/// Where candidates come from.
enum Source {
    Cma(Box<Cma>),
    /// Uniform in the middle 80 % of each gene's box.
    Random(Rng),
}

/// Explores a space of genes.
pub(crate) struct Population {
    setting: Arc<Setting>,
    space: Box<dyn Space>,
    source: Source,
    size: usize,
    deck: Deck,
    /// What generation 0 begins with.
    injected: Vec<Vec<f64>>,
    generation: usize,
    tried: Vec<Tried>,
    state: State,
}

/// How far a generation is.
enum State {
    Begin,
    /// All were asked; what the race will ask.
    First {
        whole: bool,
        race: Window,
    },
    /// The best were asked more: their places in the generation.
    Race {
        first: Vec<(Ask, Option<Scored>)>,
        places: Vec<usize>,
        race: Window,
    },
}

impl Population {
    pub(crate) fn new(
        setting: Arc<Setting>,
        space: Box<dyn Space>,
        stream: &str,
        random: bool,
    ) -> Result<Self, Error> {
        let genes = space.genes();
        let source = if random {
            Source::Random(Rng::new(Key::new(setting.seed(), &["random", stream]), 0))
        } else {
            let mean: Vec<f64> = genes.iter().map(|g| g.mean).collect();
            let variances = genes.iter().map(|g| g.sd * g.sd).collect();
            let options = Options {
                bounds: genes.iter().map(|g| g.bounds).collect(),
                seed: setting.seed(),
                stream: vec!["proxy".to_owned(), stream.to_owned()],
                ..Options::default()
            };
            let cma = Cma::new(&mean, Covariance::Diagonal(variances), 1.0, options);
            Source::Cma(Box::new(cma.map_err(optimiser)?))
        };
        let size = match &source {
            Source::Cma(cma) => cma.parameters().popsize,
            Source::Random(_) => default_popsize(genes.len()),
        };
        let injected = space.injected();
        let deck = setting.deck(Phase::Proxy).clone();
        let (generation, tried, state) = (0, Vec::new(), State::Begin);
        Ok(Self { setting, space, source, size, deck, injected, generation, tried, state })
    }

    fn begin(&mut self, left: u64) -> Result<Vec<Ask>, Error> {
        let window = self.deck.deal(first(&self.setting.config));
        let race = self.deck.deal(race(&self.setting.config));
        let each = self.deck.tokens(&window).max(1);
        let best = self.size.div_ceil(4) as u64;
        let most = usize::try_from(left / each).unwrap_or(usize::MAX);
        let genes = self.genes()?;
        // A generation that the tokens do not hold is evaluated as far as they go; the optimiser is
        // not told of it.
        let whole = each * self.size as u64 + best * self.deck.tokens(&race) <= left;
        let asked = genes.into_iter().take(most).map(|genes| {
            let recipe = self.space.decode(&genes)?;
            Ok(self.setting.ask(self.generation, genes, recipe, window.clone()))
        });
        let asks = asked.collect::<Result<Vec<_>, Error>>()?;
        self.state = State::First { whole, race };
        Ok(asks)
    }

    fn genes(&mut self) -> Result<Vec<Vec<f64>>, Error> {
        let injected = std::mem::take(&mut self.injected);
        match &mut self.source {
            Source::Cma(cma) if injected.is_empty() => Ok(cma.ask()),
            Source::Cma(cma) => {
                let most = injected.len().min(self.size);
                cma.ask_with(&injected[..most]).map_err(optimiser)
            }
            Source::Random(rng) => {
                let at = |(low, high): (f64, f64), u: f64| low + (high - low) * (0.1 + 0.8 * u);
                let bounds: Vec<_> = self.space.genes().iter().map(|g| g.bounds).collect();
                let mut draw = || bounds.iter().map(|b| at(*b, rng.uniform())).collect();
                let drawn = (injected.len()..self.size.max(injected.len())).map(|_| draw());
                let drawn: Vec<Vec<f64>> = drawn.collect();
                Ok(injected.into_iter().chain(drawn).collect())
            }
        }
    }

    fn fitness(&self, scored: Option<&Scored>) -> f64 {
        let of = |scored| self.setting.fitness(Phase::Proxy).of(scored);
        scored.map_or(super::FAILED, of)
    }

    /// Closes a generation: what is known of all of it.
    fn close(&mut self, known: &[(Ask, Option<Scored>)], whole: bool) -> Result<(), Error> {
        let fitness: Vec<f64> = known.iter().map(|(_, s)| self.fitness(s.as_ref())).collect();
        if let (Source::Cma(cma), true) = (&mut self.source, whole) {
            let genes: Vec<Vec<f64>> = known.iter().map(|(ask, _)| ask.genes.clone()).collect();
            let costs: Vec<f64> = fitness.iter().map(|f| -f).collect();
            cma.tell(&genes, &costs).map_err(optimiser)?;
        }
        let tried = known.iter().zip(fitness).map(|((ask, _), fitness)| Tried::of(ask, fitness));
        self.tried.extend(tried);
        self.generation += 1;
        self.state = State::Begin;
        Ok(())
    }

    /// The best quarter, by place, that is asked more.
    fn raced(&self, known: &[(Ask, Option<Scored>)], race: &Window) -> Vec<usize> {
        if race.indices.is_empty() {
            return Vec::new();
        }
        let mut order: Vec<usize> = (0..known.len()).collect();
        order.sort_by(|a, b| {
            let of = |i: &usize| self.fitness(known[*i].1.as_ref());
            of(b).total_cmp(&of(a))
        });
        order.truncate(self.size.div_ceil(4));
        order.retain(|place| known[*place].1.is_some());
        order
    }
}

impl Explorer for Population {
    fn next(&mut self, left: u64) -> Result<Vec<Ask>, Error> {
        match &self.state {
            State::Race { first, places, race } => {
                let more = |place: &usize| {
                    let (ask, known) = &first[*place];
                    let known = known.clone().map(Arc::new);
                    Ask { items: race.clone(), known, ..ask.clone() }
                };
                Ok(places.iter().map(more).collect())
            }
            _ => self.begin(left),
        }
    }

    fn tell(&mut self, asks: &[Ask], answers: &[Answer]) -> Result<(), Error> {
        let scored = |answer: &Answer| answer.outcome.as_ref().ok().cloned();
        match std::mem::replace(&mut self.state, State::Begin) {
            State::First { whole, race } => {
                let known: Vec<(Ask, Option<Scored>)> =
                    asks.iter().cloned().zip(answers.iter().map(scored)).collect();
                let places = if whole { self.raced(&known, &race) } else { Vec::new() };
                if places.is_empty() {
                    return self.close(&known, whole);
                }
                self.state = State::Race { first: known, places, race };
                Ok(())
            }
            State::Race { mut first, places, .. } => {
                for (place, answer) in places.iter().zip(answers) {
                    let both = first[*place].1.as_ref().zip(answer.outcome.as_ref().ok());
                    first[*place].1 = both.map(|(first, more)| first.and(more));
                }
                self.close(&first, true)
            }
            State::Begin => Ok(()),
        }
    }

    fn tried(&self) -> Vec<Tried> {
        let mut tried = self.tried.clone();
        if let Source::Cma(cma) = &self.source
            && self.generation > 0
        {
            let genes = cma.mean();
            if let Ok(recipe) = self.space.decode(&genes) {
                let (recipe, label) = (Arc::new(recipe), Some("mean".to_owned()));
                tried.push(Tried { recipe, genes, label, fitness: f64::INFINITY });
            }
        }
        tried
    }
}

pub(crate) fn optimiser(error: impl Diagnose) -> Error {
    Error::Optimiser(error.to_string())
}
