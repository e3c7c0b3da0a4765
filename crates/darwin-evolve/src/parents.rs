//! The two parents, opened once and kept: checkpoints, tensors in memory where they fit, loaded
//! models, the tokenizer.

use crate::job::{FATHER, MOTHER, RANDOM_MOTHER};
use crate::recipe::line_recipe;
use crate::run::Ui;
use crate::search::{Shape, TensorShare};
use crate::solver::{Solvable, Solver};
use crate::{ArmName, Error, RunConfig};
use darwin_checkpoint::{Checkpoint, MemorySource, TensorId, TensorSource, part_of, read_tensor};
use darwin_core::files::ModelRef;
use darwin_core::keyed::{Key, Rng};
use darwin_core::panics::caught;
use darwin_core::{Cancel, Fault, Fingerprint, NoProgress, Progress};
use darwin_engine::derivative::Direction;
use darwin_engine::{LayerSource, Model, Text};
use darwin_eval::{Candidate, Encoded, Evaluation, Evaluator};
use darwin_merge::{Merge, Recipe, Sources};
use darwin_profile::{Loaded, Subject, Weights, model_ref, tensor_statics};
use std::path::Path;
use std::sync::Arc;

/// Parents up to this many bytes of tensors are kept in memory.
const IN_MEMORY_BYTES: u64 = 2 << 30;

/// The parents of a run.
pub struct Parents {
    /// The father's checkpoint.
    pub father: Arc<Checkpoint>,
    /// The mother's checkpoint.
    pub mother: Arc<Checkpoint>,
    /// The father, loaded.
    pub father_model: Model,
    /// The mother, loaded.
    pub mother_model: Model,
    /// What the weights of both showed while they were loaded.
    pub weights: [Weights; 2],
    /// The father's tokenizer and template.
    pub text: Text,
    /// Both under the names that recipes use.
    pub sources: Sources,
    /// Who they are.
    pub refs: [ModelRef; 2],
    /// Solves RegMean's maps, where an arm asks for them.
    pub(crate) solver: Option<Solver>,
}

impl Parents {
    /// Opens both parents, under their own and under logical names. All problems of both come before
    /// a weight is read.
    ///
    /// # Errors
    /// [`Error::Below`] with the sentences of checkpoint, merge or engine.
    pub fn open(config: &RunConfig, ui: Ui<'_>) -> Result<Self, Error> {
        let line = located(config, &line_recipe(config, 0.5, 0)?);
        let mut sources = Sources::open(&line).map_err(Error::below)?;
        let name = |path: &Path| path.display().to_string();
        let names = [name(&config.father), name(&config.mother)];
        // Headers first: whatever does not fit between the parents is said before loading.
        Merge::new(&line, &sources).map_err(Error::below)?;
        let checkpoint = |name: &str| {
            sources.checkpoint(name).cloned().ok_or_else(|| Error::Config {
                path: config.father.clone(),
                text: format!("`{name}` was not opened"),
                hint: "father and mother must be two different folders".to_owned(),
            })
        };
        let [father, mother] = [checkpoint(&names[0])?, checkpoint(&names[1])?];
        let text = Text::open(&config.father).map_err(Error::below)?;
        sources.identify(ui.hashes, ui.progress, ui.cancel).map_err(Error::below)?;
        ui.hashes.save();
        let fingerprint = |name: &str| sources.fingerprint(name).expect("identified above").clone();
        let fingerprints = names.each_ref().map(|name| fingerprint(name));
        let mother_text = Text::open(&config.mother).ok();
        let refs = [
            model_ref("father", father.as_ref(), Some(&text), fingerprints[0].clone()),
            model_ref("mother", mother.as_ref(), mother_text.as_ref(), fingerprints[1].clone()),
        ];
        let logical = [FATHER, MOTHER];
        for ((name, model), logical) in names.iter().zip([&father, &mother]).zip(logical) {
            sources.insert_checkpoint(logical, model.clone());
            if let Some(memory) = in_memory(model)? {
                let memory = Arc::new(memory);
                sources.insert(name, memory.clone());
                sources.insert(logical, memory);
                sources.keep_draws(IN_MEMORY_BYTES as usize);
            }
        }
        sources.identify(ui.hashes, ui.progress, ui.cancel).map_err(Error::below)?;
        if config.arms.contains(&ArmName::RandomMother) {
            let [father, mother] = logical.map(|name| sources.get(name).expect("opened").clone());
            let random = random_mother(father.as_ref(), mother.as_ref(), config.seeds.run)?;
            let known = Fingerprint::of(
                RANDOM_MOTHER,
                [
                    ("father", fingerprints[0].as_str()),
                    ("mother", fingerprints[1].as_str()),
                    ("seed", &config.seeds.run.to_string()),
                ],
            );
            sources.insert_known(RANDOM_MOTHER, Arc::new(random), known);
        }
        let load = |name: &str| -> Result<Loaded, Error> {
            let source = sources.get(name).expect("both parents were opened above");
            Loaded::open(source.as_ref()).map_err(Error::below)
        };
        let (father_loaded, mother_loaded) = (load(FATHER)?, load(MOTHER)?);
        Ok(Self {
            father_model: father_loaded.model,
            mother_model: mother_loaded.model,
            weights: [father_loaded.weights, mother_loaded.weights],
            father,
            mother,
            text,
            sources,
            refs,
            solver: None,
        })
    }

    /// Makes RegMean's recipes possible: their maps are solved from these items.
    ///
    /// # Errors
    /// [`Error::Below`] with the sentences of RegMean; [`Error::Cancelled`].
    pub(crate) fn solve_from(
        &mut self,
        config: &RunConfig,
        calibration: &Encoded,
        ui: Ui<'_>,
    ) -> Result<(), Error> {
        self.solver = Some(Solver::new(config, self, calibration, ui)?);
        Ok(())
    }

    /// What RegMean's recipes are made from.
    pub(crate) fn solvable(&self) -> Option<&Solvable> {
        self.solver.as_ref().map(Solver::solvable)
    }

    /// A recipe's merge, its maps solved where it needs that.
    ///
    /// # Errors
    /// [`Error::Below`] with the sentences of merge and RegMean; [`Error::Cancelled`].
    pub(crate) fn merge(
        &self,
        recipe: &Recipe,
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Result<Merge, Error> {
        let merge = Merge::new(recipe, &self.sources).map_err(Error::below)?;
        let Some(solver) = self.solver.as_ref().filter(|_| !merge.is_solved()) else {
            return Ok(merge);
        };
        let models: [&dyn LayerSource; 2] = [&self.father_model, &self.mother_model];
        solver.solve(models, recipe, merge, progress, cancel)
    }

    /// The father as the profiler sees him.
    #[must_use]
    pub fn father_subject(&self) -> Subject<'_> {
        Subject {
            model: &self.father_model,
            source: self.father.as_ref(),
            reference: &self.refs[0],
        }
    }

    /// The mother as the profiler sees her.
    #[must_use]
    pub fn mother_subject(&self) -> Subject<'_> {
        Subject {
            model: &self.mother_model,
            source: self.mother.as_ref(),
            reference: &self.refs[1],
        }
    }

    /// Does something with a recipe's merge, made in memory. The inner error is the candidate's own
    /// failure; a panic is one, too: hours of search do not end with one candidate.
    ///
    /// # Errors
    /// [`Error::Cancelled`], and what makes every candidate fail alike.
    pub fn with_child<T>(
        &self,
        recipe: &Recipe,
        cancel: &Cancel,
        work: impl FnOnce(&dyn TensorSource) -> Result<Result<T, Error>, Error>,
    ) -> Result<Result<T, Error>, Error> {
        let made = || match self.merge(recipe, &NoProgress, cancel) {
            Ok(merge) => work(&merge),
            Err(Error::Cancelled) => Err(Error::Cancelled),
            Err(error) => Ok(Err(error)),
        };
        // What a panic could leave half done is not seen afterwards: merge and loaded model are the
        // candidate's own and gone, weights and items of the parents are only read, and what is
        // kept for the next candidate (draws, buffers) is put in its place whole.
        caught(made).unwrap_or_else(|reason| Ok(Err(panicked(&reason))))
    }

    /// Evaluates a recipe's merge in memory.
    ///
    /// # Errors
    /// As [`Parents::with_child`].
    pub fn evaluate(
        &self,
        recipe: &Recipe,
        evaluator: &dyn Evaluator,
        cancel: &Cancel,
    ) -> Result<Result<Evaluation, Error>, Error> {
        self.with_child(recipe, cancel, |source| {
            let candidate = Candidate { name: "candidate", source };
            let mut results =
                evaluator.evaluate(&[candidate], &NoProgress, cancel).map_err(Error::below)?;
            let nothing = || Err(Error::Optimiser("the evaluator returned nothing".to_owned()));
            Ok(results.pop().map_or_else(nothing, |result| result.map_err(Error::below)))
        })
    }

    /// A recipe's identity: its logical form and the parents that it merges.
    #[must_use]
    pub fn fingerprint_of(&self, recipe: &Recipe) -> String {
        let known = self.sources.fingerprint_of(recipe);
        known.expect("both parents were identified when they were opened").into()
    }

    /// The shape that the search needs; groups only where an arm needs them.
    ///
    /// # Errors
    /// [`Error::Below`] where an arm needs derivatives that the family has not.
    pub fn shape(&self, config: &RunConfig) -> Result<Shape, Error> {
        let source = |name| self.sources.get(name).expect("both parents were opened").as_ref();
        let needed = |arm: &ArmName| arm.ascends() || *arm == ArmName::BlindWide;
        let groups = if config.arms.iter().any(needed) {
            let direction = Direction::between(source(FATHER), source(MOTHER));
            direction.map_err(Error::below)?.groups().to_vec()
        } else {
            Vec::new()
        };
        Ok(Shape { linear: self.linear_layers(), groups: groups.into() })
    }

    /// What the rule of `card-v5` reads in the parents' values: of each tensor with a share, the
    /// mother's score over the sum of both.
    ///
    /// # Errors
    /// [`Error::Below`] where a tensor cannot be read.
    pub(crate) fn tensor_shares(&self) -> Result<Vec<TensorShare>, Error> {
        let [father, mother] =
            [FATHER, MOTHER].map(|name| self.sources.get(name).expect("opened").as_ref());
        let (mut named, mut ids) = (Vec::new(), [Vec::new(), Vec::new()]);
        for id in father.manifest().ids() {
            let info = father.manifest().get(id);
            let other = mother.manifest().find(&info.name);
            let part = part_of(info.role, &info.name).filter(|_| info.dtype.is_mergeable());
            if let (Some(part), Some(other)) = (part, other) {
                named.push((info.name.clone(), part));
                ids[0].push(id);
                ids[1].push(other);
            }
        }
        let scores = |source: &dyn TensorSource, ids: &[TensorId]| {
            let found = tensor_statics(source, ids).map_err(Error::below)?;
            Ok::<Vec<f64>, Error>(found.into_iter().map(TensorShare::score).collect())
        };
        let (of_father, of_mother) = (scores(father, &ids[0])?, scores(mother, &ids[1])?);
        let both = of_father.into_iter().zip(of_mother);
        let shares = both.map(|(f, m)| if f + m > 0.0 { m / (f + m) } else { 0.5 });
        let tensors = named.into_iter().zip(shares);
        Ok(tensors.map(|((tensor, part), share)| TensorShare { tensor, part, share }).collect())
    }

    /// For each layer whether it is linear attention.
    #[must_use]
    pub fn linear_layers(&self) -> Vec<bool> {
        let kinds = &self.father_model.config().layer_types;
        kinds.iter().map(|k| *k == darwin_engine::LayerKind::LinearAttention).collect()
    }
}

/// A recipe of logical parents for where the parents lie.
pub(crate) fn located(config: &RunConfig, recipe: &Recipe) -> Recipe {
    let [father, mother] = [&config.father, &config.mother].map(|path| path.display().to_string());
    recipe.with_parents(Some(&father), Some(&mother))
}

/// The father with random differences of the norms that the mother's have, tensor by tensor and
/// expert by expert (method 3.2).
fn random_mother(
    father: &dyn TensorSource,
    mother: &dyn TensorSource,
    seed: u64,
) -> Result<MemorySource, Error> {
    let mut tensors = Vec::new();
    for id in father.manifest().ids() {
        let info = father.manifest().get(id).clone();
        let mut values = read_tensor(father, id).map_err(Error::below)?;
        if let Some(other) = mother.manifest().find(&info.name) {
            let target = read_tensor(mother, other).map_err(Error::below)?;
            let units = info.experts().unwrap_or(1);
            let mut rng = Rng::new(Key::new(seed, &[RANDOM_MOTHER, &info.name]), 0);
            let size = (values.len() / units.max(1)).max(1);
            for (own, target) in values.chunks_mut(size).zip(target.chunks(size)) {
                let square = |x: f64| x * x;
                let norm = own.iter().zip(target).map(|(f, m)| square(f64::from(m - f)));
                let norm = norm.sum::<f64>().sqrt();
                let drawn: Vec<f64> = own.iter().map(|_| rng.normal()).collect();
                let scale = norm / drawn.iter().map(|x| square(*x)).sum::<f64>().sqrt().max(1e-30);
                own.iter_mut().zip(drawn).for_each(|(v, x)| *v += (scale * x) as f32);
            }
        }
        tensors.push((info.name, info.dtype, info.shape, values));
    }
    MemorySource::new(RANDOM_MOTHER, father.config().clone(), tensors).map_err(Error::below)
}

/// The failure of a candidate that panicked, in the words of the panic.
fn panicked(reason: &str) -> Error {
    Error::Below {
        message: format!("the candidate panicked: {reason}"),
        hint: Some("this is a fault of Darwin: please report it with the recipe".to_owned()),
        fault: Fault::User,
    }
}

/// Bytes of a parent's tensors as they are kept in memory, beside the loaded model; 0 where they
/// are read from the disk each time.
pub(crate) fn kept_bytes(model: &Checkpoint) -> u64 {
    if is_kept(model) { float32_bytes(model) } else { 0 }
}

/// Bytes of a model's tensors in float32.
pub(crate) fn float32_bytes(model: &Checkpoint) -> u64 {
    model.manifest().tensors().iter().map(|t| 4 * t.elements() as u64).sum()
}

/// Bytes of the masks' numbers that are kept, where there are masks.
pub(crate) fn draws_bytes(model: &Checkpoint) -> u64 {
    if is_kept(model) { float32_bytes(model).min(IN_MEMORY_BYTES) } else { 0 }
}

fn is_kept(model: &Checkpoint) -> bool {
    let small = model.tensor_bytes() <= IN_MEMORY_BYTES;
    small && model.manifest().tensors().iter().all(|t| t.dtype.is_mergeable())
}

fn in_memory(model: &Checkpoint) -> Result<Option<MemorySource>, Error> {
    if is_kept(model) {
        MemorySource::read(model).map(Some).map_err(Error::below)
    } else {
        Ok(None)
    }
}
