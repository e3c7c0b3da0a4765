//! A whole text model: weights that are cheap to share, swap and run.

use crate::families::read_config;
use crate::head::{Head, LOGIT_ROWS};
use crate::layer::{Layer, Pass, expected, prefix};
use crate::layers::{Layers, is_large};
use crate::probe::{Probe, Wanted};
use crate::team::Team;
use crate::weights::{Loader, check_tensors};
use crate::workspaces::Borrowed;
use crate::{Batch, Config, Error, Interventions, Site, State, Tap};
use darwin_checkpoint::TensorSource;
use darwin_core::{LayerIdx, Part};
use rayon::prelude::*;
use std::ops::Range;
use std::sync::Arc;

/// The weights of a text model. Every part is behind an [`Arc`]: clones and swaps are cheap.
#[derive(Clone, Debug)]
pub struct Model {
    /// (vocab, hidden), row-major
    embed_tokens: Arc<[f32]>,
    layers: Layers,
    head: Head,
}

impl Model {
    /// Reads a text model from any source. Names and shapes are checked from config and manifest
    /// before a weight is read.
    ///
    /// # Errors
    /// [`Error::Model`] with everything that does not fit; [`Error::Weights`] where reading fails.
    pub fn load(source: &dyn TensorSource) -> Result<Self, Error> {
        let config = read_config(source)?;
        check_tensors(source, &expected(&config))?;
        let loader = Loader::new(source);
        let embed_tokens = loader.vector("embed_tokens.weight", |w| w)?;
        let norm = loader.norm(&config, "norm")?;
        let weight = loader.matrix(config.head())?;
        let load = |i| Layer::load(&loader, &config, i, &prefix(i));
        let layers: Vec<Layer> =
            (0..config.num_hidden_layers).into_par_iter().map(load).collect::<Result<_, _>>()?;
        let (large, band, config) = (is_large(&config), 0..config.vocab_size, Arc::new(config));
        let layers = Layers::new(config.clone(), 0, layers, Arc::default(), large);
        let head = Head { config, norm, weight, band, large };
        Ok(Self { embed_tokens, layers, head })
    }

    /// The numbers.
    #[must_use]
    pub fn config(&self) -> &Config {
        self.layers.config()
    }

    /// Its layers.
    #[must_use]
    pub fn layers(&self) -> &Layers {
        &self.layers
    }

    /// Its head.
    pub(crate) fn output(&self) -> &Head {
        &self.head
    }

    /// This model with one whole layer of `donor`, a model of the same config.
    #[must_use]
    pub fn with_layer(&self, layer: LayerIdx, donor: &Self) -> Self {
        Self { layers: self.layers.with_layer(layer, &donor.layers), ..self.clone() }
    }

    /// This model with one part of one layer of `donor`, a model of the same config: the mixer
    /// brings its input norm, the routed experts bring the norm before them, and parts outside the
    /// layers change nothing.
    #[must_use]
    pub fn with_part(&self, layer: LayerIdx, part: Part, donor: &Self) -> Self {
        let layers = self.layers.with_part(layer, part, &donor.layers);
        Self { layers, ..self.clone() }
    }

    /// The state before the first layer.
    ///
    /// # Errors
    /// A token outside the vocabulary, an empty sequence, a sequence longer than the context.
    pub fn embed(&self, batch: &Batch) -> Result<State, Error> {
        self.config().check_batch(batch)?;
        let mut hidden = Vec::with_capacity(batch.tokens() * self.config().hidden_size);
        for sequence in batch.sequences() {
            self.embed_into(&sequence.ids, &mut hidden);
        }
        Ok(State::new(hidden, Arc::new(batch.clone())))
    }

    /// Runs layers on a state. After the last layer the sites `FinalNorm` and `Logits` are
    /// computed if the tap wants them; their layer is the number of layers.
    ///
    /// # Errors
    /// [`Error::Layers`] where the range does not start at the state's layer or leaves the model;
    /// [`Error::Intervention`]; [`Error::NotFinite`].
    pub fn run(
        &self,
        state: &mut State,
        layers: Range<usize>,
        tap: &mut dyn Tap,
        interventions: &Interventions,
    ) -> Result<(), Error> {
        self.layers.run(state, layers, tap, interventions)?;
        if state.layer == self.config().num_hidden_layers {
            self.tell_ends(state, tap);
        }
        Ok(())
    }

    /// [`Layers::shares`], where what follows the jobs may have few tokens.
    pub(crate) fn shares(&self, jobs: usize) -> bool {
        self.layers.shares(jobs, 0)
    }

    /// Whether a layer is large enough to be cut.
    pub(crate) fn is_large(&self) -> bool {
        self.layers.large
    }

    /// Buffers for [`Model::forward`].
    pub(crate) fn workspace(&self) -> Borrowed<'_> {
        self.layers.workspace()
    }

    /// Layers on (tokens, hidden), in place.
    pub(crate) fn forward(
        &self,
        hidden: &mut [f32],
        layers: Range<usize>,
        pass: &mut Pass<'_>,
    ) -> Result<(), Error> {
        self.layers.forward(hidden, layers, pass)
    }

    /// The sites after the last layer.
    fn tell_ends(&self, state: &State, tap: &mut dyn Tap) {
        let layer = self.config().num_hidden_layers;
        let wanted = Wanted::of(tap, layer..layer + 1);
        if !wanted.any() {
            return;
        }
        let nothing = Interventions::default();
        let rows = LOGIT_ROWS * self.config().hidden_size;
        for (i, hidden) in state.hidden.chunks(rows).enumerate() {
            let tokens = hidden.len() / self.config().hidden_size;
            let mut probe = Probe::new(&nothing, &wanted, i * LOGIT_ROWS, tokens);
            let normed = self.final_norm(hidden);
            probe.see(Site::FinalNorm, layer, &normed, self.config().hidden_size);
            if probe.wants(Site::Logits, layer) {
                probe.see(Site::Logits, layer, &self.head(&normed), self.config().vocab_size);
            }
            probe.into_seen().iter().for_each(|seen| seen.tell(state.batch(), tap));
        }
    }

    /// Logits of chosen flat token positions, row-major (positions, vocab). The state must have
    /// passed all layers for them to mean the model's output.
    ///
    /// # Panics
    /// If a position is not in the batch.
    #[must_use]
    pub fn logits(&self, state: &State, positions: &[usize]) -> Vec<f32> {
        let mut logits = Vec::new();
        self.logits_into(state, positions, &mut logits);
        logits
    }

    /// [`Model::logits`] into a buffer that can be used again: fresh memory for many rows costs
    /// about as much as a layer.
    ///
    /// # Panics
    /// If a position is not in the batch.
    pub fn logits_into(&self, state: &State, positions: &[usize], logits: &mut Vec<f32>) {
        self.head.logits_into(state, positions, logits);
    }

    /// The final norm of (rows, hidden).
    pub(crate) fn final_norm(&self, hidden: &[f32]) -> Vec<f32> {
        let mut normed = vec![0.0; hidden.len()];
        self.head.norm_into(hidden, &mut normed);
        normed
    }

    /// The final norm of (rows, hidden).
    pub(crate) fn final_norm_into(&self, hidden: &[f32], normed: &mut [f32]) {
        self.head.norm_into(hidden, normed);
    }

    /// Logits (rows, vocab) of normed rows.
    pub(crate) fn head(&self, normed: &[f32]) -> Vec<f32> {
        let config = self.config();
        let mut logits = vec![0.0; normed.len() / config.hidden_size * config.vocab_size];
        self.head_into(Team::alone(), normed, &mut logits);
        logits
    }

    /// Logits (rows, vocab) of normed rows.
    pub(crate) fn head_into(&self, team: Team<'_>, normed: &[f32], logits: &mut [f32]) {
        self.head.multiply(team, normed, logits);
    }

    /// Appends the embeddings of checked ids.
    pub(crate) fn embed_into(&self, ids: &[u32], hidden: &mut Vec<f32>) {
        let width = self.config().hidden_size;
        for id in ids {
            hidden.extend_from_slice(&self.embed_tokens[*id as usize * width..][..width]);
        }
    }

    /// [`Config::check_ids`].
    pub(crate) fn check_ids(
        &self,
        what: &'static str,
        index: usize,
        ids: &[u32],
    ) -> Result<(), Error> {
        self.config().check_ids(what, index, ids)
    }

    /// [`Config::check_length`].
    pub(crate) fn check_length(&self, sequence: usize, tokens: usize) -> Result<(), Error> {
        self.config().check_length(sequence, tokens)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{GenerateOptions, NoTap, ScoreItem, Sequence, generate, score};
    use darwin_core::Cancel;

    /// Threads that share the work on every layer give the bits of one thread alone.
    #[test]
    fn shared_layers_do_not_change_a_bit() {
        let mut model = Model::load(&darwin_testkit::tiny_qwen35(1)).unwrap();
        let ids: Vec<Vec<u32>> =
            (1..6).map(|n| (0..n * 23).map(|i| i * 31 % 250).collect()).collect();
        let prompts: Vec<Vec<u32>> = ids.iter().map(|ids| ids[..9].to_vec()).collect();
        let items: Vec<ScoreItem> = ids
            .iter()
            .map(|ids| ScoreItem { prompt: ids[..5].to_vec(), answer: ids[5..].to_vec() })
            .collect();
        let all = |model: &Model, threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let batch = Batch::new(ids.iter().cloned().map(Sequence::new).collect());
                let mut state = model.embed(&batch).unwrap();
                let layers = 0..model.config().num_hidden_layers;
                model.run(&mut state, layers, &mut NoTap, &Interventions::new()).unwrap();
                let logits = model.logits(&state, &[0, 7, batch.tokens() - 1]);
                let options = GenerateOptions { max_new_tokens: 20, stop: vec![] };
                let never = Cancel::default();
                let answers = generate(model, &prompts, &[], &options, &never).unwrap();
                (state.hidden, logits, answers, score(model, &items, &never).unwrap())
            })
        };
        let alone = all(&model, 1);
        assert!(!model.is_large(), "a tiny model is not shared by itself");
        model.layers.large = true;
        model.head.large = true;
        for threads in [2, 5] {
            assert_eq!(all(&model, threads), alone, "{threads} threads");
        }
    }
}
