//! A merge that nobody has written yet, as a tensor source.

use crate::align::align;
use crate::compute::{Scratch, Work};
use crate::masks::{Chance, Kept, MaskSource};
use crate::plan::{Line, Operation, Plan, plan};
use crate::side::Side;
use crate::solved::Solved;
use crate::sources::Source;
use crate::statistics::Statistics;
use crate::twister::Twister;
use crate::vocabulary;
use crate::{Error, Numerics, Recipe, Sources};
use darwin_checkpoint::{Checkpoint, Manifest, TensorId, TensorPlan, TensorSource};
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A recipe bound to opened models: the child as a [`TensorSource`].
///
/// Making one is cheap (headers alone), so a search makes one for each candidate while the
/// [`Sources`] stay open. Tiles are computed when they are asked for, from any thread.
pub struct Merge {
    name: String,
    record: (String, Option<(&'static str, Vec<u8>)>),
    manifest: Manifest,
    pub(crate) plan: Plan,
    pub(crate) sources: Vec<Source>,
    structure: Option<Arc<Checkpoint>>,
    side: Side,
    /// The values of lines that are solved, once they are there.
    pub(crate) solved: Option<Solved>,
    masks: Option<Arc<dyn MaskSource>>,
    chance: Chance,
    statistics: Vec<Statistics>,
    /// Working memory of the threads that read tiles.
    scratch: Mutex<Vec<Scratch>>,
}

impl Merge {
    /// Plans the merge from headers alone; where the recipe asks for aligned experts, a sample of
    /// their weights is read the first time.
    ///
    /// # Errors
    /// [`Error::Plan`] with everything that does not fit.
    pub fn new(recipe: &Recipe, sources: &Sources) -> Result<Self, Error> {
        let mut problems = Vec::new();
        let mut vocabulary = vocabulary::align(recipe, sources, &mut problems);
        let aligned = vocabulary.as_ref().map_or(sources, |of| &of.sources).clone();
        let mut plan = plan(recipe, &aligned, problems)?;
        if let Some(vocabulary) = &mut vocabulary {
            vocabulary.finish(&mut plan);
        }
        if plan.lines.is_empty() {
            let text = "the child would have no tensor: the models hold none";
            return Err(Error::plan(text, "check that the models are complete (`darwin inspect`)"));
        }
        let side = Side::new(recipe, sources, vocabulary.as_ref());
        plan.notes.extend(side.note()?);
        let list = align(recipe, &aligned, &mut plan)?;
        name_inputs(&mut plan, recipe, sources);
        let infos = plan.lines.iter().map(|line| line.info.clone()).collect();
        let manifest = Manifest::new(infos).map_err(|name| {
            Error::plan(format!("two output tensors are both `{name}`"), "name each layer once")
        })?;
        let seed = recipe.darwin().seed.unwrap_or(0);
        let chance = match recipe.numerics() {
            Numerics::Native => {
                Chance::Keyed { seed, draws: Arc::clone(&aligned.draws), kept: Kept::default() }
            }
            Numerics::Mergekit => {
                let seed = u32::try_from(seed).map_err(|_| {
                    Error::plan(
                        format!("the seed is {seed}, mergekit takes seeds below 2^32"),
                        "choose a smaller one, or native numerics",
                    )
                })?;
                Chance::Twister(Twister::new(seed, plan.words))
            }
        };
        Ok(Self {
            name: format!("merge of {} ({})", recipe.models().join(", "), recipe.method().name),
            record: recipe.record(),
            statistics: plan.lines.iter().map(|_| Statistics::default()).collect(),
            manifest,
            plan,
            sources: list,
            structure: sources.checkpoint(recipe.structure()).cloned(),
            side,
            solved: None,
            masks: None,
            chance,
            scratch: Mutex::default(),
        })
    }

    /// Names the inputs in the plan again, for sources that were identified since.
    pub fn name_inputs(&mut self, recipe: &Recipe, sources: &Sources) {
        name_inputs(&mut self.plan, recipe, sources);
    }

    /// Uses masks that were recorded elsewhere instead of drawing or selecting elements.
    #[must_use]
    pub fn with_masks(mut self, masks: Arc<dyn MaskSource>) -> Self {
        self.masks = Some(masks);
        self
    }

    /// Writes no tokenizer beside the weights, and no chat template.
    #[must_use]
    pub fn without_tokenizer(mut self) -> Self {
        self.side.bare = true;
        self
    }

    pub(crate) fn side(&self) -> &Side {
        &self.side
    }

    /// What will be done to every tensor.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The recipe's text as it is kept beside the child: as the user wrote it or canonical.
    #[must_use]
    pub fn recipe_text(&self) -> &str {
        &self.record.0
    }

    /// The file of shares that the text names: its name and its bytes.
    pub(crate) fn shares_file(&self) -> Option<(&'static str, &[u8])> {
        self.record.1.as_ref().map(|(name, bytes)| (*name, bytes.as_slice()))
    }

    /// The structural parent, where it is a checkpoint on disk.
    #[must_use]
    pub fn structure(&self) -> Option<&Checkpoint> {
        self.structure.as_deref()
    }

    /// Whether masks were handed over.
    pub(crate) fn has_masks(&self) -> bool {
        self.masks.is_some()
    }

    /// The weight files that it reads, and the adapters'.
    pub(crate) fn files(&self) -> impl Iterator<Item = &Path> {
        self.sources.iter().flat_map(|source| {
            let shards = source.checkpoint.iter().flat_map(|c| c.shard_paths());
            shards.chain(source.adapter.iter().flat_map(|a| a.files()))
        })
    }

    fn scratch(&self) -> MutexGuard<'_, Vec<Scratch>> {
        self.scratch.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn line(&self, id: TensorId) -> &Line {
        &self.plan.lines[id.index()]
    }

    fn work<'a>(&'a self, line: &'a Line) -> Result<Work<'a>, darwin_checkpoint::Error> {
        Work::new(line, &self.sources, self.masks.as_deref(), &self.chance)
    }

    /// Keeps no more than so many bytes of masks.
    pub(crate) fn limit_masks(&self, bytes: usize) {
        self.chance.limit_masks(bytes);
    }
}

fn name_inputs(plan: &mut Plan, recipe: &Recipe, sources: &Sources) {
    plan.inputs = sources.inputs(recipe);
    plan.recipe_sha256 = sources.fingerprint_of(recipe).map(String::from).unwrap_or_default();
}

impl TensorSource for Merge {
    fn name(&self) -> &str {
        &self.name
    }

    fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    fn config(&self) -> &serde_json::Value {
        &self.plan.config
    }

    fn prepare(&self, id: TensorId) -> Result<TensorPlan, darwin_checkpoint::Error> {
        let line = self.line(id);
        if line.operation.is_solved() {
            return self.solved(id)?.prepare(id);
        }
        if let Operation::TaskVectors { vectors, rescale: true, .. } = &line.operation {
            vectors.iter().for_each(|vector| self.chance.keep(&line.info, vector));
        }
        let work = self.work(line)?;
        Ok(TensorPlan {
            id,
            rows: work.rows,
            cols: work.cols,
            dtype: line.info.dtype,
            unit: line.unit,
            rows_per_unit: work.rows_per_unit,
            statistics: self.statistics[id.index()].get(&work)?,
        })
    }

    fn read_tile(
        &self,
        plan: &TensorPlan,
        rows: Range<usize>,
        out: &mut [f32],
    ) -> Result<(), darwin_checkpoint::Error> {
        if self.line(plan.id).operation.is_solved() {
            return self.solved(plan.id)?.read_tile(plan, rows, out);
        }
        let mut scratch = self.scratch().pop().unwrap_or_default();
        let done = self.work(self.line(plan.id))?.tile(&plan.statistics, rows, out, &mut scratch);
        self.scratch().push(scratch);
        done
    }

    fn read_bytes(
        &self,
        plan: &TensorPlan,
        rows: Range<usize>,
        out: &mut [u8],
    ) -> Result<bool, darwin_checkpoint::Error> {
        if self.line(plan.id).operation.is_solved() {
            return self.solved(plan.id)?.read_bytes(plan, rows, out);
        }
        let mut scratch = self.scratch().pop().unwrap_or_default();
        let done = self.work(self.line(plan.id))?.bytes(&plan.statistics, rows, out, &mut scratch);
        self.scratch().push(scratch);
        done
    }

    fn read_raw(
        &self,
        id: TensorId,
        rows: Range<usize>,
        out: &mut Vec<u8>,
    ) -> Result<bool, darwin_checkpoint::Error> {
        let line = self.line(id);
        let Operation::Copy(input) = &line.operation else { return Ok(false) };
        let source = &self.sources[input.source].tensors;
        let stored = source.manifest().get(input.id).dtype;
        if stored != line.info.dtype || line.load.is_some_and(|load| load != stored) {
            return Ok(false);
        }
        source.read_raw(input.id, rows, out)
    }

    fn check_unchanged(&self) -> Result<(), darwin_checkpoint::Error> {
        self.sources.iter().try_for_each(|source| {
            source.checkpoint.iter().try_for_each(|checkpoint| checkpoint.check_unchanged())?;
            source.adapter.iter().try_for_each(|adapter| adapter.check_unchanged())
        })
    }
}
