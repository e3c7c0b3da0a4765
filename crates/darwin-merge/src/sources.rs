//! The opened models of a recipe.

use crate::align::Alignments;
use crate::draws::Draws;
use crate::recipe::HubRef;
use crate::{Error, Recipe};
use darwin_checkpoint::{Adapted, Checkpoint, HasFiles, HashCache, Problem, TensorSource};
use darwin_core::files::InputRef;
use darwin_core::hash::sha256_file;
use darwin_core::{Cancel, Fingerprint, Progress};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A model under the name that recipes use for it.
#[derive(Clone)]
pub(crate) struct Source {
    pub(crate) model: String,
    pub(crate) tensors: Arc<dyn TensorSource>,
    /// The checkpoint behind it, for layout and side files.
    pub(crate) checkpoint: Option<Arc<Checkpoint>>,
    /// The adapter that lies on it, where there is one.
    pub(crate) adapter: Option<Arc<Adapted>>,
    /// SHA-256 of `tokenizer.json`, where there is one.
    pub(crate) tokenizer: Option<String>,
    /// Which model this is; `None` until [`Sources::identify`].
    pub(crate) fingerprint: Option<Fingerprint>,
}

/// The opened models of a recipe. They stay open while recipes change.
#[derive(Clone, Default)]
pub struct Sources {
    pub(crate) list: Vec<Source>,
    pub(crate) draws: Arc<Draws>,
    pub(crate) alignments: Arc<Alignments>,
}

impl Sources {
    /// No models yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Opens every model that a recipe names, from headers alone.
    ///
    /// # Errors
    /// [`Error::Plan`] with all problems of all models.
    pub fn open(recipe: &Recipe) -> Result<Self, Error> {
        let mut sources = Self::new();
        let mut problems = Vec::new();
        let mut opened: BTreeMap<PathBuf, Option<Arc<Checkpoint>>> = BTreeMap::new();
        for model in recipe.models() {
            let folder = recipe.resolve(model);
            if let Some(problem) = recipe.not_cached(model, &folder) {
                problems.push(problem);
                continue;
            }
            if !opened.contains_key(&folder) {
                let checkpoint = Checkpoint::open(&folder);
                let checkpoint = checkpoint.and_then(|c| c.check_known().map(|()| Arc::new(c)));
                opened.insert(folder.clone(), found(checkpoint, &mut problems)?);
            }
            let Some(checkpoint) = opened.get(&folder).and_then(Clone::clone) else { continue };
            match recipe.resolve_adapter(model) {
                None => sources.insert_checkpoint(model, checkpoint),
                Some(lora) => {
                    if let Some(adapted) = found(Adapted::open(checkpoint, lora), &mut problems)? {
                        sources.insert_adapted(model, Arc::new(adapted));
                    }
                }
            }
        }
        if problems.is_empty() { Ok(sources) } else { Err(Error::Plan(problems)) }
    }

    /// Adds a checkpoint under the name that recipes use for it; an earlier one is replaced.
    pub fn insert_checkpoint(&mut self, model: &str, checkpoint: Arc<Checkpoint>) {
        let tokenizer = tokenizer(checkpoint.folder());
        let tensors = Arc::clone(&checkpoint) as Arc<dyn TensorSource>;
        self.put(Source {
            model: model.to_owned(),
            tensors,
            checkpoint: Some(checkpoint),
            adapter: None,
            tokenizer,
            fingerprint: None,
        });
    }

    /// Adds a checkpoint with an adapter on it; layout, side files and tokenizer are the
    /// checkpoint's.
    pub fn insert_adapted(&mut self, model: &str, adapted: Arc<Adapted>) {
        self.put(Source {
            model: model.to_owned(),
            tensors: Arc::clone(&adapted) as Arc<dyn TensorSource>,
            checkpoint: Some(Arc::clone(adapted.base())),
            tokenizer: tokenizer(adapted.base().folder()),
            adapter: Some(adapted),
            fingerprint: None,
        });
    }

    /// Adds any tensor source, such as a [`darwin_checkpoint::MemorySource`]; where a checkpoint
    /// stands under this name already, its layout, side files and tokenizer are kept.
    pub fn insert(&mut self, model: &str, tensors: Arc<dyn TensorSource>) {
        let old = self.list.iter().find(|source| source.model == model);
        self.put(Source {
            model: model.to_owned(),
            tensors,
            checkpoint: old.and_then(|source| source.checkpoint.clone()),
            adapter: old.and_then(|source| source.adapter.clone()),
            tokenizer: old.and_then(|source| source.tokenizer.clone()),
            fingerprint: old.and_then(|source| source.fingerprint.clone()),
        });
    }

    /// Adds a tensor source that is known to be a model, though it has no files.
    pub fn insert_known(
        &mut self,
        model: &str,
        tensors: Arc<dyn TensorSource>,
        fingerprint: Fingerprint,
    ) {
        self.insert(model, tensors);
        if let Some(at) = self.position(model) {
            self.list[at].fingerprint = Some(fingerprint);
        }
    }

    /// Finds out which models these are: reads the files of all that are not known yet, once, with
    /// progress in bytes.
    ///
    /// # Errors
    /// What reading the files brings.
    pub fn identify(
        &mut self,
        hashes: &HashCache,
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Result<(), Error> {
        let files = |source: &Source| -> Option<Arc<dyn HasFiles>> {
            match (&source.adapter, &source.checkpoint) {
                (Some(adapted), _) => Some(Arc::clone(adapted) as Arc<dyn HasFiles>),
                (None, Some(checkpoint)) => Some(Arc::clone(checkpoint) as Arc<dyn HasFiles>),
                (None, None) => None,
            }
        };
        let unknown = self.list.iter_mut().filter(|source| source.fingerprint.is_none());
        let (mut places, mut models) = (Vec::new(), Vec::new());
        for source in unknown {
            if let Some(model) = files(source) {
                models.push(model);
                places.push(&mut source.fingerprint);
            }
        }
        let models: Vec<&dyn HasFiles> = models.iter().map(AsRef::as_ref).collect();
        for (place, found) in
            places.into_iter().zip(hashes.fingerprints(&models, progress, cancel)?)
        {
            *place = Some(found);
        }
        Ok(())
    }

    /// Which model stands under a name, where that is known.
    #[must_use]
    pub fn fingerprint(&self, model: &str) -> Option<&Fingerprint> {
        let source = self.list.iter().find(|source| source.model == model);
        source.and_then(|source| source.fingerprint.as_ref())
    }

    /// A recipe's identity with these models, where all of them are known.
    #[must_use]
    pub fn fingerprint_of(&self, recipe: &Recipe) -> Option<Fingerprint> {
        recipe.fingerprint(|model| self.fingerprint(model))
    }

    /// The recipe's models as `manifest.json` names them.
    pub(crate) fn inputs(&self, recipe: &Recipe) -> BTreeMap<String, InputRef> {
        let input = |(model, role): (&str, String)| {
            let of_checkpoint = self.checkpoint(model);
            let input = InputRef {
                role,
                fingerprint: self.fingerprint(model).cloned(),
                hub: of_checkpoint
                    .and_then(|c| HubRef::of_snapshot(c.folder()))
                    .map(|hub| hub.full_name()),
            };
            (model.to_owned(), input)
        };
        recipe.roles().into_iter().map(input).collect()
    }

    /// Keeps up to so many bytes of random numbers (4 an element of a thinned task vector) for
    /// later merges of these sources with the same seed. Merges are the same with and without.
    pub fn keep_draws(&mut self, bytes: usize) {
        self.draws = Arc::new(Draws::up_to(bytes));
    }

    /// The tensor source of a model.
    #[must_use]
    pub fn get(&self, model: &str) -> Option<&Arc<dyn TensorSource>> {
        self.list.iter().find(|source| source.model == model).map(|source| &source.tensors)
    }

    /// The checkpoint of a model, where it is one.
    #[must_use]
    pub fn checkpoint(&self, model: &str) -> Option<&Arc<Checkpoint>> {
        let source = self.list.iter().find(|source| source.model == model);
        source.and_then(|source| source.checkpoint.as_ref())
    }

    pub(crate) fn position(&self, model: &str) -> Option<usize> {
        self.list.iter().position(|source| source.model == model)
    }

    fn put(&mut self, source: Source) {
        self.alignments = Arc::default();
        match self.position(&source.model) {
            Some(at) => self.list[at] = source,
            None => self.list.push(source),
        }
    }
}

/// What was opened, or `None` with its problems noted.
fn found<T>(
    opened: Result<T, darwin_checkpoint::Error>,
    problems: &mut Vec<Problem>,
) -> Result<Option<T>, Error> {
    match opened {
        Ok(value) => Ok(Some(value)),
        Err(darwin_checkpoint::Error::Invalid(more)) => {
            problems.extend(more);
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

fn tokenizer(folder: &Path) -> Option<String> {
    sha256_file(&folder.join("tokenizer.json")).ok()
}
