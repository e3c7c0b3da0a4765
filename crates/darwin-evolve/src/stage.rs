//! One phase's evaluations: a recipe in, a journal line out, computed or replayed.

use crate::fitness::{ByDomain, Fitness, accuracies};
use crate::{Error, Journal, Parents, RunConfig, Wanted};
use darwin_core::files::{JournalLine, Phase, SCHEMA, Status};
use darwin_core::{Cancel, Domain};
use darwin_eval::{Evaluation, Evaluator, ItemSet, Kind, by_domain};
use darwin_merge::Recipe;
use std::collections::BTreeMap;

/// Fitness of a candidate that could not be evaluated: finite, for the journal is JSON, and below
/// everything that a score can be.
pub const FAILED: f64 = -1e9;

/// What a candidate is called in the journal.
#[derive(Clone, Debug, Default)]
pub struct Named<'a> {
    /// The arm.
    pub arm: &'a str,
    /// The step.
    pub step: usize,
    /// The generation.
    pub generation: usize,
    /// The genes, if it is a genome.
    pub genes: &'a [f64],
    /// What it is otherwise.
    pub label: Option<String>,
}

/// A phase: an evaluator, a scale, a fitness.
pub struct Stage<'a> {
    phase: Phase,
    evaluator: &'a dyn Evaluator,
    fitness: Option<Fitness>,
}

/// Everything that evaluating a candidate needs besides the stage.
pub struct Bench<'a> {
    /// The configuration.
    pub config: &'a RunConfig,
    /// The parents.
    pub parents: &'a Parents,
    /// Where every candidate is written down.
    pub journal: &'a mut Journal,
    /// Asked between candidates.
    pub cancel: &'a Cancel,
}

impl<'a> Stage<'a> {
    /// A phase whose fitness is not known yet: the father's score gives the floors.
    #[must_use]
    pub fn new(phase: Phase, evaluator: &'a dyn Evaluator) -> Self {
        Self { phase, evaluator, fitness: None }
    }

    /// The phase.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Evaluates both parents and the published recipe (method 3.4), sets the floors by the father,
    /// and returns the mean cost of a parent in tokens: the unit of budgets.
    ///
    /// # Errors
    /// Whatever evaluation or journal bring.
    pub fn baselines(
        &mut self,
        bench: &mut Bench<'_>,
        recipes: &[(&str, &Recipe)],
    ) -> Result<u64, Error> {
        let mut tokens = Vec::new();
        for (step, (label, recipe)) in recipes.iter().enumerate() {
            let named = Named {
                arm: "baseline",
                step,
                label: Some((*label).to_owned()),
                ..Named::default()
            };
            let line = self.evaluate(bench, &named, recipe)?;
            if *label == "father" {
                if let Status::Failed(why) = &line.status {
                    return Err(Error::Below {
                        message: format!("the father could not be evaluated: {why}"),
                        hint: None,
                        fault: darwin_core::Fault::User,
                    });
                }
                self.fitness = Some(Fitness::new(bench.config, &line.domains));
            }
            tokens.push(line.tokens);
        }
        Ok((tokens.iter().take(2).sum::<u64>() / 2).max(1))
    }

    /// A candidate's line: replayed from the journal, or evaluated in memory and written down.
    ///
    /// # Errors
    /// [`Error::Cancelled`]; what makes every candidate fail alike. A candidate's own failure is a
    /// line with status `failed`.
    pub fn evaluate(
        &self,
        bench: &mut Bench<'_>,
        named: &Named<'_>,
        recipe: &Recipe,
    ) -> Result<JournalLine, Error> {
        if bench.cancel.is_cancelled() {
            return Err(Error::Cancelled);
        }
        let recipe_sha256 = bench.parents.fingerprint_of(recipe);
        let items = self.evaluator.items();
        let wanted = Wanted {
            arm: named.arm,
            phase: self.phase,
            step: named.step,
            recipe_sha256: &recipe_sha256,
            items_sha256: items.fingerprint().as_str(),
        };
        if let Some(line) = bench.journal.next_known(&wanted)? {
            return Ok(line);
        }
        let line = JournalLine {
            schema: SCHEMA,
            arm: named.arm.to_owned(),
            phase: self.phase,
            step: named.step,
            generation: named.generation,
            genes: named.genes.to_vec(),
            label: named.label.clone(),
            recipe_sha256: recipe_sha256.clone(),
            items_sha256: items.fingerprint().to_string(),
            split: self.evaluator.split(),
            fitness: FAILED,
            domains: ByDomain::new(),
            n: items.domains(),
            tokens: 0,
            status: Status::Ok,
        };
        let line = match bench.parents.evaluate(recipe, self.evaluator, bench.cancel)? {
            Ok(evaluation) => self.scored(line, &evaluation),
            Err(why) => JournalLine { status: Status::Failed(why.to_string()), ..line },
        };
        bench.journal.append(line.clone())?;
        Ok(line)
    }

    fn scored(&self, line: JournalLine, evaluation: &Evaluation) -> JournalLine {
        let line = JournalLine { tokens: evaluation.cost.tokens, ..line };
        let items = self.evaluator.items();
        let failed = |why: String| JournalLine { status: Status::Failed(why), ..line.clone() };
        let losses = items.items().iter().zip(&evaluation.results);
        if let Some((item, loss)) = losses.map(|(i, r)| (i, r.nll)).find(|(_, n)| !n.is_finite()) {
            return failed(format!("the loss of item {} is {loss}", item.id));
        }
        let domains = scores(self.evaluator.kind(), items, evaluation);
        let fitness = self.fitness.as_ref().map_or(0.0, |f| f.of(&domains));
        if !fitness.is_finite() {
            return failed(format!("its fitness is {fitness}"));
        }
        JournalLine { fitness, domains, ..line }
    }
}

/// Scores by domain on the phase's scale. Real: accuracy. Proxy: the mean probability of the
/// reference answer, exp(-NLL) per item - bounded like the accuracy that it stands for, where a
/// mean NLL is ruled by the few items that a parent has forgotten altogether (method 3.3). The
/// rank check measures how well this scale ranks; no other scale is measured beside it.
fn scores(kind: Kind, items: &ItemSet, evaluation: &Evaluation) -> ByDomain {
    match kind {
        Kind::Real => accuracies(&by_domain(items, evaluation)),
        Kind::Proxy => mean_by_domain(items, evaluation, |nll| (-nll).exp()),
    }
}

/// The mean of a function of the items' NLL, by domain.
pub(crate) fn mean_by_domain(
    items: &ItemSet,
    evaluation: &Evaluation,
    of_nll: impl Fn(f64) -> f64,
) -> ByDomain {
    let mut sums: BTreeMap<Domain, (f64, f64)> = BTreeMap::new();
    for (item, result) in items.items().iter().zip(&evaluation.results) {
        let entry = sums.entry(item.domain.clone()).or_default();
        entry.0 += of_nll(result.nll);
        entry.1 += 1.0;
    }
    sums.into_iter().map(|(d, (sum, n))| (d, sum / n)).collect()
}

#[cfg(test)]
mod tests;
