//! The arms' searches: proxy phase, real phase warm-started from it, selection (method 3).

use crate::cma::{Cma, Covariance, Options};
use crate::genome::Genome;
use crate::recipe::{line_recipe, recipe};
use crate::stage::{Bench, Named, Stage};
use crate::{ArmName, Error};
use darwin_core::files::JournalLine;
use darwin_core::{Diagnose, Progress};
use darwin_merge::Recipe;

/// A candidate that an arm tried.
#[derive(Clone, Debug)]
pub struct Tried {
    /// Its recipe.
    pub recipe: Recipe,
    /// Its genes (the share t for the line).
    pub genes: Vec<f64>,
    /// Its fitness in the phase that it was tried in.
    pub fitness: f64,
}

/// An arm's winner and what it cost.
#[derive(Clone, Debug)]
pub struct Champion {
    /// The arm.
    pub arm: ArmName,
    /// The recipe that won on `selection`.
    pub recipe: Recipe,
    /// Its fitness there.
    pub fitness: f64,
    /// Candidates tried in the proxy and in the real phase.
    pub steps: [usize; 2],
    /// Forward tokens of the search: proxy and real phase, diagnostics included.
    pub tokens: u64,
    /// Of them the diagnostics'.
    pub diagnostic_tokens: u64,
}

/// Budgets of an arm, in forward tokens.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    /// For the proxy phase, before diagnostics are paid.
    pub proxy: u64,
    /// For the real phase.
    pub real: u64,
    /// How many of an arm's best meet on `selection`.
    pub top: usize,
}

/// The three phases of a search.
pub struct Stages<'a> {
    /// Likelihood.
    pub proxy: Stage<'a>,
    /// The benchmark.
    pub real: Stage<'a>,
    /// Choice.
    pub selection: Stage<'a>,
}

/// One arm's way through the phases.
pub struct Search<'s, 'a> {
    /// The arm.
    pub arm: ArmName,
    /// The phases.
    pub stages: &'s Stages<'a>,
    /// What it may spend.
    pub budget: Budget,
    /// What its diagnostics cost, paid out of the proxy budget.
    pub diagnostic_tokens: u64,
    /// Told the steps.
    pub progress: &'s dyn Progress,
}

/// A phase in progress: steps and tokens so far.
#[derive(Default)]
struct Spent {
    steps: usize,
    tokens: u64,
    /// The phase's tokens; `None` where the steps are given.
    limit: Option<u64>,
    tried: Vec<Tried>,
}

impl Search<'_, '_> {
    /// Evolves a genome by CMA-ES.
    ///
    /// # Errors
    /// Whatever evaluation, journal or optimiser bring.
    pub fn evolve(&self, bench: &mut Bench<'_>, genome: &Genome) -> Result<Champion, Error> {
        let mut cma = self.new_cma(genome, bench.config.seeds.run)?;
        let limit = self.budget.proxy.saturating_sub(self.diagnostic_tokens);
        let mut proxy = self.begin("proxy", limit);
        let mut injected = genome.injected();
        while self.generation(
            bench,
            genome,
            &mut cma,
            &injected,
            &mut proxy,
            (&self.stages.proxy, limit),
        )? {
            injected.clear();
        }
        self.progress.finish();
        let mut real = self.begin("real", self.budget.real);
        let mut warm = self.warm_cma(&cma, bench.config.seeds.run)?;
        let mut injected = vec![cma.mean()];
        injected.extend(best(&proxy.tried, warm.parameters().popsize / 2).map(|t| t.genes.clone()));
        while self.generation(
            bench,
            genome,
            &mut warm,
            &injected,
            &mut real,
            (&self.stages.real, self.budget.real),
        )? {
            injected.clear();
        }
        self.progress.finish();
        let mean = warm.mean();
        let mut finalists: Vec<Tried> = best(&real.tried, self.budget.top).cloned().collect();
        finalists.push(Tried {
            recipe: recipe(bench.config, &genome.decode(&mean))?,
            genes: mean,
            fitness: 0.0,
        });
        self.select(bench, finalists, [&proxy, &real])
    }

    /// Walks the plain interpolation line: the grid t = 0, 0.1, ..., 1, then ever finer around the
    /// best, with the tokens that the other arms have.
    ///
    /// # Errors
    /// Whatever evaluation or journal bring.
    pub fn line(&self, bench: &mut Bench<'_>) -> Result<Champion, Error> {
        let num_layers = bench.parents.father_model.config().num_hidden_layers;
        let mut proxy = self.begin("proxy", self.budget.proxy);
        let mut grid: Vec<f64> = (0..=10).map(|i| f64::from(i) / 10.0).collect();
        grid.reverse();
        while proxy.tokens < self.budget.proxy {
            let Some(t) = grid.pop().or_else(|| next_on_line(&proxy.tried)) else { break };
            let tried = line_recipe(bench.config, t, num_layers)?;
            self.step(bench, &self.stages.proxy, &mut proxy, 0, vec![t], tried)?;
        }
        self.progress.finish();
        let mut real = self.begin("real", self.budget.real);
        for tried in best(&proxy.tried, proxy.tried.len()) {
            if real.tokens >= self.budget.real {
                break;
            }
            self.step(
                bench,
                &self.stages.real,
                &mut real,
                0,
                tried.genes.clone(),
                tried.recipe.clone(),
            )?;
        }
        self.progress.finish();
        let finalists = best(&real.tried, self.budget.top + 1).cloned().collect();
        self.select(bench, finalists, [&proxy, &real])
    }

    /// Starts a phase of so many tokens.
    fn begin(&self, phase: &str, tokens: u64) -> Spent {
        self.progress.start(&format!("{phase} {}", self.arm.name()), tokens, "tokens");
        Spent { limit: Some(tokens), ..Spent::default() }
    }

    fn options(&self, genome_bounds: Vec<(f64, f64)>, seed: u64, phase: &str) -> Options {
        Options {
            bounds: genome_bounds,
            seed,
            stream: vec![phase.to_owned(), self.arm.name().to_owned()],
            ..Options::default()
        }
    }

    fn new_cma(&self, genome: &Genome, seed: u64) -> Result<Cma, Error> {
        let genes = genome.genes();
        let mean: Vec<f64> = genes.iter().map(|g| g.mean).collect();
        let variances = genes.iter().map(|g| g.sd * g.sd).collect();
        let bounds = genes.iter().map(|g| g.bounds).collect();
        Cma::new(&mean, Covariance::Diagonal(variances), 1.0, self.options(bounds, seed, "proxy"))
            .map_err(optimiser)
    }

    fn warm_cma(&self, previous: &Cma, seed: u64) -> Result<Cma, Error> {
        let bounds = previous.options().bounds.clone();
        Cma::warm_started(previous, previous.sigma(), self.options(bounds, seed, "real"))
            .map_err(optimiser)
    }

    /// One generation; false when the budget ends in it (what was evaluated counts, but the
    /// optimiser is only told whole generations).
    fn generation(
        &self,
        bench: &mut Bench<'_>,
        genome: &Genome,
        cma: &mut Cma,
        injected: &[Vec<f64>],
        spent: &mut Spent,
        (stage, limit): (&Stage<'_>, u64),
    ) -> Result<bool, Error> {
        let population = if injected.is_empty() {
            cma.ask()
        } else {
            let most = cma.parameters().popsize;
            cma.ask_with(&injected[..injected.len().min(most)]).map_err(optimiser)?
        };
        let mut fitness = Vec::with_capacity(population.len());
        for genes in &population {
            if spent.tokens >= limit {
                return Ok(false);
            }
            let tried = recipe(bench.config, &genome.decode(genes))?;
            let line = self.step(bench, stage, spent, cma.generation(), genes.clone(), tried)?;
            fitness.push(-line.fitness);
        }
        cma.tell(&population, &fitness).map_err(optimiser)?;
        Ok(true)
    }

    fn step(
        &self,
        bench: &mut Bench<'_>,
        stage: &Stage<'_>,
        spent: &mut Spent,
        generation: usize,
        genes: Vec<f64>,
        recipe: Recipe,
    ) -> Result<JournalLine, Error> {
        let named = Named {
            arm: self.arm.name(),
            step: spent.steps,
            generation,
            genes: &genes,
            label: None,
        };
        let line = stage.evaluate(bench, &named, &recipe)?;
        spent.steps += 1;
        // A failed candidate costs a step and at least one token, so that a search always ends.
        let before = spent.tokens;
        spent.tokens += line.tokens.max(1);
        spent.tried.push(Tried { recipe, genes, fitness: line.fitness });
        // the last candidate of a phase may go beyond its tokens
        let shown = |limit: u64| spent.tokens.min(limit) - before.min(limit);
        self.progress.advance(spent.limit.map_or(1, shown));
        if let Some(top) = best(&spent.tried, 1).next() {
            self.progress.note(&format!("{} candidates, best {:.4}", spent.steps, top.fitness));
        }
        Ok(line)
    }

    /// The finalists meet on the `selection` split; equal recipes meet once.
    fn select(
        &self,
        bench: &mut Bench<'_>,
        mut finalists: Vec<Tried>,
        [proxy, real]: [&Spent; 2],
    ) -> Result<Champion, Error> {
        let mut seen = Vec::new();
        finalists.retain(|t| {
            let hash = bench.parents.fingerprint_of(&t.recipe);
            let new = !seen.contains(&hash);
            seen.push(hash);
            new
        });
        let phase = format!("selection {}", self.arm.name());
        self.progress.start(&phase, finalists.len() as u64, "candidates");
        let mut chosen = Spent::default();
        for tried in finalists {
            self.step(bench, &self.stages.selection, &mut chosen, 0, tried.genes, tried.recipe)?;
        }
        self.progress.finish();
        let winner = best(&chosen.tried, 1)
            .next()
            .ok_or_else(|| Error::Optimiser("no candidate was evaluated".to_owned()))?;
        Ok(Champion {
            arm: self.arm,
            recipe: winner.recipe.clone(),
            fitness: winner.fitness,
            steps: [proxy.steps, real.steps],
            tokens: proxy.tokens + real.tokens + self.diagnostic_tokens,
            diagnostic_tokens: self.diagnostic_tokens,
        })
    }
}

/// The `n` best, the best first; ties go to the earlier one.
fn best(tried: &[Tried], n: usize) -> impl Iterator<Item = &Tried> {
    let mut order: Vec<&Tried> = tried.iter().collect();
    order.sort_by(|a, b| b.fitness.total_cmp(&a.fitness));
    order.into_iter().take(n)
}

/// Where to look next on the line: the middle of the interval with the best end, while it is wider
/// than 1/1000; `None` when every interval is that small.
fn next_on_line(tried: &[Tried]) -> Option<f64> {
    let mut points: Vec<(f64, f64)> = tried.iter().map(|t| (t.genes[0], t.fitness)).collect();
    points.sort_by(|a, b| a.0.total_cmp(&b.0));
    let rank = |f: f64| points.iter().filter(|(_, g)| *g > f).count();
    points
        .windows(2)
        .filter(|w| w[1].0 - w[0].0 > 1e-3)
        // The best end decides; among equals the other end, then the width.
        .min_by(|a, b| {
            let key = |w: &[(f64, f64)]| {
                let (x, y) = (rank(w[0].1), rank(w[1].1));
                (x.min(y), x.max(y))
            };
            key(a).cmp(&key(b)).then((b[1].0 - b[0].0).total_cmp(&(a[1].0 - a[0].0)))
        })
        .map(|w| f64::midpoint(w[0].0, w[1].0))
}

fn optimiser(error: impl Diagnose) -> Error {
    Error::Optimiser(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_closes_in_on_its_best_point() {
        let recipe = Recipe::blend("linear", "f", "m").build().expect("valid");
        let of = |t: f64| -(t - 0.37) * (t - 0.37);
        let mut tried: Vec<Tried> = (0..=10)
            .map(|i| f64::from(i) / 10.0)
            .map(|t| Tried { recipe: recipe.clone(), genes: vec![t], fitness: of(t) })
            .collect();
        for _ in 0..15 {
            let t = next_on_line(&tried).expect("not exhausted");
            tried.push(Tried { recipe: recipe.clone(), genes: vec![t], fitness: of(t) });
        }
        let top = best(&tried, 1).next().expect("some").genes[0];
        assert!((top - 0.37).abs() < 2e-3, "{top}");
    }
}
