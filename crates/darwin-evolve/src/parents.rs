//! The two parents, opened once and kept: checkpoints, tensors in memory where they fit, loaded
//! models, the tokenizer.

use crate::run::Ui;
use crate::{Error, RunConfig};
use darwin_checkpoint::{Checkpoint, MemorySource, TensorSource};
use darwin_core::files::ModelRef;
use darwin_core::panics::caught;
use darwin_core::{Cancel, Fault, NoProgress};
use darwin_engine::{Model, Text};
use darwin_eval::{Candidate, Evaluation, Evaluator};
use darwin_merge::{Merge, Recipe, Sources};
use darwin_profile::{Loaded, Subject, Weights, model_ref};
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
}

impl Parents {
    /// Opens both parents. All problems of both come before a weight is read.
    ///
    /// # Errors
    /// [`Error::Below`] with the sentences of checkpoint, merge or engine.
    pub fn open(config: &RunConfig, line: &Recipe, ui: Ui<'_>) -> Result<Self, Error> {
        let mut sources = Sources::open(line).map_err(Error::below)?;
        let name = |path: &Path| path.display().to_string();
        let (father_name, mother_name) = (name(&config.father), name(&config.mother));
        // Headers first: whatever does not fit between the parents is said before loading.
        Merge::new(line, &sources).map_err(Error::below)?;
        let checkpoint = |name: &str| {
            sources.checkpoint(name).cloned().ok_or_else(|| Error::Config {
                path: config.father.clone(),
                text: format!("`{name}` was not opened"),
                hint: "father and mother must be two different folders".to_owned(),
            })
        };
        let father = checkpoint(&father_name)?;
        let mother = checkpoint(&mother_name)?;
        let text = Text::open(&config.father).map_err(Error::below)?;
        sources.identify(ui.hashes, ui.progress, ui.cancel).map_err(Error::below)?;
        ui.hashes.save();
        let reference = |role: &str, name: &str, model: &Checkpoint, text: Option<&Text>| {
            let fingerprint = sources.fingerprint(name).expect("it was identified above");
            model_ref(role, model, text, fingerprint.clone())
        };
        let refs = [
            reference("father", &father_name, &father, Some(&text)),
            reference("mother", &mother_name, &mother, Text::open(&config.mother).ok().as_ref()),
        ];
        for (name, model) in [(&father_name, &father), (&mother_name, &mother)] {
            if let Some(memory) = in_memory(model)? {
                sources.insert(name, Arc::new(memory));
                sources.keep_draws(IN_MEMORY_BYTES as usize);
            }
        }
        let load = |name: &str| -> Result<Loaded, Error> {
            let source = sources.get(name).expect("both parents were opened above");
            Loaded::open(source.as_ref()).map_err(Error::below)
        };
        let (father_loaded, mother_loaded) = (load(&father_name)?, load(&mother_name)?);
        Ok(Self {
            father_model: father_loaded.model,
            mother_model: mother_loaded.model,
            weights: [father_loaded.weights, mother_loaded.weights],
            father,
            mother,
            text,
            sources,
            refs,
        })
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

    /// Evaluates a recipe's merge in memory. The inner error is the candidate's own failure; a panic
    /// is one, too: hours of search do not end with one candidate.
    ///
    /// # Errors
    /// [`Error::Cancelled`], and what makes every candidate fail alike.
    pub fn evaluate(
        &self,
        recipe: &Recipe,
        evaluator: &dyn Evaluator,
        cancel: &Cancel,
    ) -> Result<Result<Evaluation, Error>, Error> {
        let evaluate = || {
            let merge = match Merge::new(recipe, &self.sources) {
                Ok(merge) => merge,
                Err(error) => return Ok(Err(Error::below(error))),
            };
            let candidate = Candidate { name: "candidate", source: &merge };
            let mut results =
                evaluator.evaluate(&[candidate], &NoProgress, cancel).map_err(Error::below)?;
            let nothing = || Err(Error::Optimiser("the evaluator returned nothing".to_owned()));
            Ok(results.pop().map_or_else(nothing, |result| result.map_err(Error::below)))
        };
        // What a panic could leave half done is not seen afterwards: merge and loaded model are the
        // candidate's own and gone, weights and items of the parents are only read, and what is
        // kept for the next candidate (draws, buffers) is put in its place whole.
        caught(evaluate).unwrap_or_else(|reason| Ok(Err(panicked(&reason))))
    }

    /// A recipe's identity: its logical form and the parents that it merges.
    #[must_use]
    pub fn fingerprint_of(&self, recipe: &Recipe) -> String {
        let known = self.sources.fingerprint_of(recipe);
        known.expect("both parents were identified when they were opened").into()
    }

    /// For each layer whether it is linear attention.
    #[must_use]
    pub fn linear_layers(&self) -> Vec<bool> {
        let kinds = &self.father_model.config().layer_types;
        kinds.iter().map(|k| *k == darwin_engine::LayerKind::LinearAttention).collect()
    }
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
    if !is_kept(model) {
        return 0;
    }
    model.manifest().tensors().iter().map(|t| 4 * t.elements() as u64).sum()
}

/// Bytes of the masks' numbers that are kept, where there are masks.
pub(crate) fn draws_bytes(model: &Checkpoint) -> u64 {
    let largest = model.manifest().tensors().iter().map(|t| 4 * t.elements() as u64).sum::<u64>();
    if is_kept(model) { largest.min(IN_MEMORY_BYTES) } else { 0 }
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
