//! Does the jobs of a search in this process, one after the other, and writes each down; what the
//! journal has already is not done again.

use crate::items::{Items, Selected};
use crate::job::{Answer, Ask, FATHER, Job, Scored, Slope, Slopes, Tally, Window, Work};
use crate::search::{FAILED, slopes_cost};
use crate::slopes;
use crate::{Error, Journal, Parents, Wanted};
use darwin_core::files::{JournalLine, SCHEMA, Status};
use darwin_core::{Cancel, Domain, NoProgress, Split};
use darwin_engine::Model;
use darwin_engine::derivative::{Derivatives, Direction, Keep, derivatives};
use darwin_eval::{Evaluation, Evaluator, Item, ItemSet, Kind};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

/// Does jobs.
pub struct Executor<'a> {
    parents: &'a Parents,
    items: &'a Items,
    journal: &'a mut Journal,
    /// Where derivatives are kept.
    folder: PathBuf,
    cancel: &'a Cancel,
    /// The father's score on every item that was needed so far.
    father: BTreeMap<(Split, u32), f64>,
    directions: BTreeMap<String, Direction<'a>>,
    /// The items of the last window: a generation's candidates have one.
    selected: Option<(Window, Arc<Selected>)>,
}

impl<'a> Executor<'a> {
    /// Over the items of a run; derivatives are kept in a folder.
    pub(crate) fn new(
        parents: &'a Parents,
        items: &'a Items,
        journal: &'a mut Journal,
        folder: PathBuf,
        cancel: &'a Cancel,
    ) -> Self {
        let (father, directions) = (BTreeMap::new(), BTreeMap::new());
        Self { parents, items, journal, folder, cancel, father, directions, selected: None }
    }

    /// Does a job, or finds it in the journal; `fitness` judges its scores.
    ///
    /// # Errors
    /// [`Error::Cancelled`]; what makes every candidate fail alike; journal and files. A candidate's
    /// own failure is an answer.
    pub fn answer(
        &mut self,
        job: &Job,
        fitness: impl FnOnce(&Scored) -> Result<f64, Error>,
    ) -> Result<Answer, Error> {
        if self.cancel.is_cancelled() {
            return Err(Error::Cancelled);
        }
        let recipe_sha256 = self.parents.fingerprint_of(&job.ask.recipe);
        let selected = self.selected(&job.ask.items);
        let items_sha256 = selected.set().fingerprint().to_string();
        let wanted = Wanted { job, recipe_sha256: &recipe_sha256, items_sha256: &items_sha256 };
        if let Some(line) = self.journal.next_known(&wanted)? {
            return self.replayed(job, &selected, &line, fitness);
        }
        let answer = self.evaluate(job, &selected)?;
        let n = selected.set().domains();
        let line = self.line(job, &answer, (recipe_sha256, items_sha256, n), fitness)?;
        let failed = line.status.clone();
        self.journal.append(line)?;
        Ok(match failed {
            Status::Ok => answer,
            Status::Failed(why) => Answer { outcome: Err(why), ..answer },
        })
    }

    fn line(
        &self,
        job: &Job,
        answer: &Answer,
        (recipe_sha256, items_sha256, n): (String, String, BTreeMap<Domain, usize>),
        fitness: impl FnOnce(&Scored) -> Result<f64, Error>,
    ) -> Result<JournalLine, Error> {
        let mut line = JournalLine {
            schema: SCHEMA,
            id: job.id,
            replicate: job.replicate,
            arm: job.asker,
            phase: job.phase,
            step: job.step,
            generation: job.ask.generation,
            genes: job.ask.genes.clone(),
            label: job.ask.label.clone(),
            recipe_sha256,
            items_sha256,
            split: job.ask.items.split,
            fitness: FAILED,
            domains: BTreeMap::new(),
            gains: BTreeMap::new(),
            n,
            tokens: answer.tokens,
            slopes_sha256: None,
            status: Status::Ok,
        };
        let scored = match &answer.outcome {
            Ok(scored) => scored,
            Err(why) => return Ok(JournalLine { status: Status::Failed(why.clone()), ..line }),
        };
        let found = fitness(scored)?;
        if !found.is_finite() {
            let why = format!("its fitness is {found}");
            return Ok(JournalLine { status: Status::Failed(why), ..line });
        }
        line.fitness = found;
        line.domains = scored.domains.iter().map(|(d, t)| (d.clone(), t.score)).collect();
        line.gains = scored.domains.iter().map(|(d, t)| (d.clone(), t.gain)).collect();
        if let Some(found) = &scored.slopes {
            line.slopes_sha256 = Some(slopes::write(&self.folder, job.id, found)?);
        }
        Ok(line)
    }

    /// What a journal's line says.
    fn replayed(
        &mut self,
        job: &Job,
        selected: &Selected,
        line: &JournalLine,
        fitness: impl FnOnce(&Scored) -> Result<f64, Error>,
    ) -> Result<Answer, Error> {
        let tokens = line.tokens;
        if let Status::Failed(why) = &line.status {
            return Ok(Answer { tokens, outcome: Err(why.clone()) });
        }
        let tally = |(domain, score): (&Domain, &f64)| {
            let n = line.n.get(domain).copied().unwrap_or(0);
            let gain = line.gains.get(domain).copied().unwrap_or_default();
            (domain.clone(), Tally { n, score: *score, gain })
        };
        let domains = line.domains.iter().map(tally).collect();
        let slopes = match &line.slopes_sha256 {
            None => None,
            Some(sha256) => Some(match slopes::read(&self.folder, job.id, sha256) {
                Some(slopes) => slopes.into(),
                // The file is gone: derivatives are the same whenever they are computed.
                None => self.again(job, selected, sha256)?,
            }),
        };
        let scored = Scored { domains, slopes };
        // The search learns the father's level from him.
        fitness(&scored)?;
        Ok(Answer { tokens, outcome: Ok(scored) })
    }

    fn again(
        &mut self,
        job: &Job,
        selected: &Selected,
        sha256: &str,
    ) -> Result<Arc<Slopes>, Error> {
        let answer = self.evaluate(job, selected)?;
        let other = || Error::Journal {
            path: self.folder.clone(),
            text: format!("derivatives of job {} are gone, and come out differently here", job.id),
            hint: "continue on a machine with the processor that began, or choose another `out`"
                .to_owned(),
        };
        let found = answer.outcome.ok().and_then(|scored| scored.slopes).ok_or_else(other)?;
        if slopes::write(&self.folder, job.id, &found)? != sha256 {
            return Err(other());
        }
        Ok(found)
    }

    /// A window's items, selected once for jobs that follow each other.
    fn selected(&mut self, window: &Window) -> Arc<Selected> {
        match &self.selected {
            Some((last, selected)) if last == window => selected.clone(),
            _ => {
                let selected = Arc::new(self.items.select(window));
                self.selected = Some((window.clone(), selected.clone()));
                selected
            }
        }
    }

    fn evaluate(&mut self, job: &Job, selected: &Selected) -> Result<Answer, Error> {
        let father = self.father_scores(&job.ask.items)?;
        if job.ask.work == Work::Slopes {
            return self.slopes(job, selected, &father);
        }
        let evaluator = selected.evaluator();
        let found = self.parents.evaluate(&job.ask.recipe, evaluator, self.cancel)?;
        let solution = self.solution(&job.ask);
        let evaluation = match found {
            Ok(evaluation) => evaluation,
            // A failure counts like a pass: a search in which everything fails ends, too.
            Err(why) => {
                let tokens = selected.tokens() + solution;
                return Ok(Answer { tokens, outcome: Err(why.to_string()) });
            }
        };
        let tokens = evaluation.cost.tokens + solution;
        let outcome = values(evaluator, &evaluation).map(|values| Scored {
            domains: tallies(evaluator.items(), &values, &father),
            slopes: None,
        });
        Ok(Answer { tokens, outcome })
    }

    /// What a solution of its maps adds to a candidate's tokens on the proxy, whether it is kept from
    /// before or not: budgets do not depend on what a resumed run has to do again.
    fn solution(&self, ask: &Ask) -> u64 {
        let solved = ask.items.split == Split::Proxy && ask.recipe.needs_activations();
        self.parents.solvable().filter(|_| solved).map_or(0, |solvable| solvable.tokens)
    }

    /// The father's scores on a window's items.
    fn father_scores(&mut self, window: &Window) -> Result<Vec<f64>, Error> {
        let split = window.split;
        let known = |i: &&u32| !self.father.contains_key(&(split, **i));
        let missing: Vec<u32> = window.indices.iter().filter(known).copied().collect();
        if !missing.is_empty() {
            let window = Window { split, indices: missing };
            let selected = self.items.select(&window);
            let scored = selected.score(&self.parents.father_model, self.cancel)?;
            let values =
                values(selected.evaluator(), &scored).map_err(|why| Error::father(&why))?;
            self.father.extend(window.indices.iter().map(|i| (split, *i)).zip(values));
        }
        Ok(window.indices.iter().map(|i| self.father[&(split, *i)]).collect())
    }

    /// Probabilities and their derivatives.
    fn slopes(&mut self, job: &Job, selected: &Selected, father: &[f64]) -> Result<Answer, Error> {
        let Selected::Likelihood(asked) = selected else {
            return Err(Error::Optimiser("derivatives are those of the proxy alone".to_owned()));
        };
        let mother = job.ask.recipe.mother().unwrap_or(FATHER).to_owned();
        if !self.directions.contains_key(&mother) {
            let source = |name: &str| {
                let source = self.parents.sources.get(name);
                source.map(|source| source.as_ref()).ok_or_else(|| {
                    Error::Optimiser(format!("a recipe names `{name}`, which was not opened"))
                })
            };
            let direction = Direction::between(source(FATHER)?, source(&mother)?);
            self.directions.insert(mother.clone(), direction.map_err(Error::below)?.keeping());
        }
        let direction = &self.directions[&mother];
        let tokens = slopes_cost(asked.cost().tokens);
        let found = self.parents.with_child(&job.ask.recipe, self.cancel, |source| {
            let model = match Model::load(source) {
                Ok(model) => model,
                Err(error) => return Ok(Err(Error::below(error))),
            };
            let (items, keep) = (asked.score_items(), Keep::Activations);
            let found = derivatives(&model, direction, items, &keep, &NoProgress, self.cancel);
            if self.cancel.is_cancelled() {
                return Err(Error::Cancelled);
            }
            Ok(found.map_err(Error::below))
        })?;
        let found = match found {
            Ok(found) => found,
            Err(why) => return Ok(Answer { tokens, outcome: Err(why.to_string()) }),
        };
        let values: Vec<f64> = found.nll.iter().map(|nll| (-nll).exp()).collect();
        let domains = tallies(selected.set(), &values, father);
        let slopes = by_domain(selected.set(), &found, &values);
        Ok(Answer { tokens, outcome: Ok(Scored { domains, slopes: Some(slopes.into()) }) })
    }
}

/// A candidate's scores beside the father's, by domain.
fn tallies(set: &ItemSet, values: &[f64], father: &[f64]) -> BTreeMap<Domain, Tally> {
    let mut domains: BTreeMap<Domain, (Vec<f64>, Vec<f64>)> = BTreeMap::new();
    for (item, (value, father)) in set.items().iter().zip(values.iter().zip(father)) {
        let (own, his) = domains.entry(item.domain.clone()).or_default();
        own.push(*value);
        his.push(*father);
    }
    domains.into_iter().map(|(d, (own, his))| (d, Tally::paired(&own, &his))).collect()
}

/// Means over a domain's items of the derivatives of their probabilities, with standard errors.
fn by_domain(set: &ItemSet, found: &Derivatives, values: &[f64]) -> Slopes {
    let groups = found.groups.len();
    let mut sums: BTreeMap<Domain, (f64, Vec<f64>, Vec<f64>)> = BTreeMap::new();
    for (item, Item { domain, .. }) in set.items().iter().enumerate() {
        let zero = || (0.0, vec![0.0; groups], vec![0.0; groups]);
        let (n, sum, squares) = sums.entry(domain.clone()).or_insert_with(zero);
        *n += 1.0;
        for (i, slope) in found.item(item).iter().enumerate() {
            let slope = -values[item] * slope;
            sum[i] += slope;
            squares[i] += slope * slope;
        }
    }
    let slope = |(n, sum, squares): (f64, Vec<f64>, Vec<f64>)| {
        let se = |(sum, square): (&f64, &f64)| {
            let variance = (square - sum * sum / n).max(0.0) / (n - 1.0).max(1.0);
            (variance / n).sqrt() as f32
        };
        Slope {
            se: sum.iter().zip(&squares).map(se).collect(),
            value: sum.iter().map(|sum| (sum / n) as f32).collect(),
        }
    };
    Slopes { domains: sums.into_iter().map(|(d, s)| (d, slope(s))).collect() }
}

/// An evaluation on its scale, item by item: the probability of the reference answer, bounded like
/// the accuracy that it stands for (method 3.3), or whether the answer is right.
fn values(evaluator: &dyn Evaluator, evaluation: &Evaluation) -> Result<Vec<f64>, String> {
    let items = evaluator.items().items().iter().zip(&evaluation.results);
    items
        .map(|(item, result)| match evaluator.kind() {
            _ if !result.nll.is_finite() => {
                Err(format!("the loss of item {} is {}", item.id, result.nll))
            }
            Kind::Proxy => Ok((-result.nll).exp()),
            Kind::Real => Ok(result.right()),
        })
        .collect()
}

#[cfg(test)]
mod tests;
