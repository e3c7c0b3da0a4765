//! A whole text model: weights that are cheap to share, swap and run.

use crate::cache::Caches;
use crate::families::read_config;
use crate::kernels::{multiply, rms_norm};
use crate::layer::{Ends, Layer, Pass, expected, prefix};
use crate::mixer::Block;
use crate::probe::{Probe, Seen, Wanted};
use crate::team::{Team, run_all};
use crate::weights::{Loader, check_tensors};
use crate::workspaces::{Borrowed, Workspaces};
use crate::{Batch, Config, Device, Error, Interventions, Site, State, Tap};
use darwin_checkpoint::{TensorInfo, TensorSource};
use darwin_core::{Component, LayerIdx};
use rayon::prelude::*;
use std::convert::Infallible;
use std::ops::Range;
use std::sync::Arc;

/// Most tokens that go through a layer together on one thread: many, so that an expert gets many
/// at once, but the hidden states stay in the caches.
pub(crate) const MAX_GROUP_TOKENS: usize = 512;

/// How many tokens a thread shall take together out of so many, for all threads to have a share.
pub(crate) fn group_tokens(all: usize) -> usize {
    let threads = rayon::current_num_threads();
    let groups = all.div_ceil(MAX_GROUP_TOKENS).next_multiple_of(threads);
    all.div_ceil(groups.max(1)).max(64)
}

/// Rows of logits that are computed together.
pub(crate) const LOGIT_ROWS: usize = 48;

/// Weights of a layer that a token meets, from which on threads share the work on a layer: about
/// those that a core's second-level cache holds.
const LARGE_LAYER: usize = 1 << 18;

/// The weights of a text model. Every part is behind an [`Arc`]: clones and swaps are cheap.
#[derive(Clone, Debug)]
pub struct Model {
    config: Arc<Config>,
    device: Device,
    ends: Ends,
    layers: Vec<Layer>,
    workspaces: Arc<Workspaces>,
    /// Whether threads share the work on a layer where they have less than a group each.
    large: bool,
}

impl Model {
    /// Reads a text model from any source. Names and shapes are checked from config and manifest
    /// before a weight is read.
    ///
    /// # Errors
    /// [`Error::Model`] with everything that does not fit; [`Error::Weights`] where reading fails.
    pub fn load(source: &dyn TensorSource) -> Result<Self, Error> {
        Self::load_on(source, &Device::default())
    }

    /// [`Model::load`], with products computed on a device.
    ///
    /// # Errors
    /// As [`Model::load`]; [`Error::Device`] where the weights do not fit.
    pub fn load_on(source: &dyn TensorSource, device: &Device) -> Result<Self, Error> {
        Self::read(source, device, &|_| true, None)
    }

    /// The model of another source of the same shape that differs from this one only in the
    /// tensors for which `changed` is true: only those are read, the rest is shared.
    ///
    /// # Errors
    /// As [`Model::load`]; a source of other sizes is read whole.
    pub fn reload(
        &self,
        source: &dyn TensorSource,
        changed: &dyn Fn(&TensorInfo) -> bool,
    ) -> Result<Self, Error> {
        Self::read(source, &self.device, changed, Some(self))
    }

    fn read(
        source: &dyn TensorSource,
        device: &Device,
        changed: &dyn Fn(&TensorInfo) -> bool,
        old: Option<&Self>,
    ) -> Result<Self, Error> {
        let config = read_config(source)?;
        check_tensors(source, &expected(&config))?;
        let old = old.filter(|o| *o.config == config);
        let loader = Loader::new(source, device, changed);
        let ends = Ends::load(&loader, &config, old.map(|o| &o.ends))?;
        let layers = (0..config.num_hidden_layers)
            .into_par_iter()
            .map(|i| Layer::load(&loader, &config, i, &prefix(i), old.map(|o| &o.layers[i])))
            .collect::<Result<_, _>>()?;
        let workspaces = old.map_or_else(Arc::default, |o| o.workspaces.clone());
        let large = config.active_weights() / config.num_hidden_layers >= LARGE_LAYER;
        let (config, device) = (Arc::new(config), device.clone());
        Ok(Self { config, device, ends, layers, workspaces, large })
    }

    /// The numbers.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Where products are computed.
    pub(crate) fn device(&self) -> &Device {
        &self.device
    }

    /// This model with one whole layer of `donor`, a model of the same config.
    #[must_use]
    pub fn with_layer(&self, layer: LayerIdx, donor: &Self) -> Self {
        let mut model = self.clone();
        model.layers[layer.0] = donor.layers[layer.0].clone();
        model
    }

    /// This model with one component of one layer of `donor`, a model of the same config: the
    /// mixer brings its input norm, the routed experts bring the norm before them.
    #[must_use]
    pub fn with_component(&self, layer: LayerIdx, component: Component, donor: &Self) -> Self {
        let mut model = self.clone();
        model.layers[layer.0] =
            self.layers[layer.0].with_component(component, &donor.layers[layer.0]);
        model
    }

    /// The state before the first layer.
    ///
    /// # Errors
    /// A token outside the vocabulary, an empty sequence, a sequence longer than the context.
    pub fn embed(&self, batch: &Batch) -> Result<State, Error> {
        let mut hidden = Vec::with_capacity(batch.tokens() * self.config.hidden_size);
        for (i, sequence) in batch.sequences().iter().enumerate() {
            self.check_ids("sequence", i, &sequence.ids)?;
            self.check_length(i, sequence.ids.len())?;
            self.embed_into(&sequence.ids, &mut hidden);
        }
        Ok(State::new(hidden, batch.clone()))
    }

    /// Runs layers on a state. After the last layer the sites `FinalNorm` and `Logits` are
    /// computed if the tap wants them; their layer is the number of layers.
    ///
    /// # Errors
    /// [`Error::Layers`] where the range does not start at the state's layer or leaves the model;
    /// [`Error::Intervention`].
    pub fn run(
        &self,
        state: &mut State,
        layers: Range<usize>,
        tap: &mut dyn Tap,
        interventions: &Interventions,
    ) -> Result<(), Error> {
        let all = self.layers.len();
        if layers.start != state.layer || layers.end > all || layers.start > layers.end {
            return Err(Error::Layers { asked: layers, layers: all, reached: state.layer });
        }
        interventions.check(&self.config, state.batch().tokens())?;
        // Without taps a group runs through all layers at once; with taps layer after layer, so
        // that records come in order and few values are kept.
        let wanted = Wanted::of(tap, layers.clone());
        let step = if wanted.any() { 1 } else { layers.len().max(1) };
        while state.layer < layers.end {
            let now = state.layer..layers.end.min(state.layer + step);
            let seen = self.run_groups(state, now.clone(), &wanted, interventions)?;
            let sites = seen.first().map_or(0, Vec::len);
            for site in 0..sites {
                seen.iter().for_each(|group| group[site].tell(state.batch(), tap));
            }
            state.layer = now.end;
        }
        if state.layer == all {
            self.tell_ends(state, tap);
        }
        Ok(())
    }

    /// Groups of sequences through some layers, in parallel.
    fn run_groups(
        &self,
        state: &mut State,
        layers: Range<usize>,
        wanted: &Wanted,
        interventions: &Interventions,
    ) -> Result<Vec<Vec<Seen>>, Error> {
        let mut jobs = Vec::new();
        let offsets = state.batch().offsets().to_vec();
        let mut rest = state.hidden.as_mut_slice();
        for group in groups(&offsets) {
            let first = offsets[group.start];
            let local: Vec<usize> =
                offsets[group.start..=group.end].iter().map(|o| o - first).collect();
            let tokens = offsets[group.end] - first;
            let (hidden, after) = rest.split_at_mut(tokens * self.config.hidden_size);
            rest = after;
            jobs.push((first, local, hidden));
        }
        let run = |(first, local, hidden): (usize, Vec<usize>, &mut [f32]), team: Team<'_>| {
            let work = &mut *self.workspace();
            let probe = Probe::new(interventions, wanted, first);
            let blocks = Block::cut(&local);
            let mut pass = Pass { blocks, caches: Caches::fresh(), team, work, probe };
            self.forward(hidden, layers.clone(), &mut pass)?;
            Ok(pass.probe.into_seen())
        };
        let shared = self.shares(jobs.len());
        run_all(jobs, shared, run)
    }

    /// Whether so many jobs are done one after another by all threads, not side by side: where
    /// there are fewer than threads, and a layer is large enough to be cut.
    pub(crate) fn shares(&self, jobs: usize) -> bool {
        self.large && jobs < rayon::current_num_threads()
    }

    /// Whether a layer is large enough to be cut.
    pub(crate) fn is_large(&self) -> bool {
        self.large
    }

    /// Buffers for [`Model::forward`].
    pub(crate) fn workspace(&self) -> Borrowed<'_> {
        self.workspaces.borrow()
    }

    /// Layers on (tokens, hidden), in place.
    pub(crate) fn forward(
        &self,
        hidden: &mut [f32],
        layers: Range<usize>,
        pass: &mut Pass<'_>,
    ) -> Result<(), Error> {
        if hidden.is_empty() {
            return Ok(());
        }
        let weights = &self.layers[layers.clone()];
        layers.zip(weights).try_for_each(|(i, layer)| layer.forward(&self.config, i, hidden, pass))
    }

    /// The sites after the last layer.
    fn tell_ends(&self, state: &State, tap: &mut dyn Tap) {
        let layer = self.layers.len();
        let wanted = Wanted::of(tap, layer..layer + 1);
        if !wanted.any() {
            return;
        }
        let nothing = Interventions::default();
        let rows = LOGIT_ROWS * self.config.hidden_size;
        for (i, hidden) in state.hidden.chunks(rows).enumerate() {
            let mut probe = Probe::new(&nothing, &wanted, i * LOGIT_ROWS);
            let normed = self.final_norm(hidden);
            probe.see(Site::FinalNorm, layer, &normed, self.config.hidden_size);
            if probe.wants(Site::Logits, layer) {
                probe.see(Site::Logits, layer, &self.head(&normed), self.config.vocab_size);
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
        let (width, vocab) = (self.config.hidden_size, self.config.vocab_size);
        logits.resize(positions.len() * vocab, 0.0);
        let rows = logits.chunks_mut(LOGIT_ROWS * vocab).zip(positions.chunks(LOGIT_ROWS));
        let rows: Vec<_> = rows.collect();
        let shared = self.shares(rows.len());
        let done: Result<Vec<()>, Infallible> =
            run_all(rows, shared, |(logits, positions), team| {
                let mut hidden = Vec::with_capacity(positions.len() * width);
                for p in positions {
                    hidden.extend_from_slice(&state.hidden[p * width..(p + 1) * width]);
                }
                self.head_into(team, &self.final_norm(&hidden), logits);
                Ok(())
            });
        done.unwrap_or_else(|never| match never {});
    }

    /// The final norm of (rows, hidden).
    pub(crate) fn final_norm(&self, hidden: &[f32]) -> Vec<f32> {
        let mut normed = vec![0.0; hidden.len()];
        self.final_norm_into(hidden, &mut normed);
        normed
    }

    /// The final norm of (rows, hidden).
    pub(crate) fn final_norm_into(&self, hidden: &[f32], normed: &mut [f32]) {
        rms_norm(hidden, &self.ends.norm, self.config.rms_norm_eps as f32, normed);
    }

    /// Logits (rows, vocab) of normed rows.
    pub(crate) fn head(&self, normed: &[f32]) -> Vec<f32> {
        let mut logits = vec![0.0; normed.len() / self.config.hidden_size * self.config.vocab_size];
        self.head_into(Team::alone(), normed, &mut logits);
        logits
    }

    /// Logits (rows, vocab) of normed rows.
    pub(crate) fn head_into(&self, team: Team<'_>, normed: &[f32], logits: &mut [f32]) {
        let (width, vocab) = (self.config.hidden_size, self.config.vocab_size);
        let rows = normed.len() / width;
        multiply(team, rows, normed, width, self.ends.lm_head.panels(), logits, vocab);
    }

    /// Appends the embeddings of checked ids.
    pub(crate) fn embed_into(&self, ids: &[u32], hidden: &mut Vec<f32>) {
        let width = self.config.hidden_size;
        for id in ids {
            hidden.extend_from_slice(&self.ends.embed_tokens[*id as usize * width..][..width]);
        }
    }

    /// Checks that there are ids and that all are in the vocabulary.
    pub(crate) fn check_ids(
        &self,
        what: &'static str,
        index: usize,
        ids: &[u32],
    ) -> Result<(), Error> {
        if ids.is_empty() {
            return Err(Error::Empty { what, index });
        }
        let vocab_size = self.config.vocab_size;
        match ids.iter().position(|id| *id as usize >= vocab_size) {
            None => Ok(()),
            Some(position) => {
                let id = ids[position];
                Err(Error::TokenOutOfRange { sequence: index, position, id, vocab_size })
            }
        }
    }

    /// Checks that a sequence of so many tokens fits the context.
    pub(crate) fn check_length(&self, sequence: usize, tokens: usize) -> Result<(), Error> {
        let limit = self.config.max_position_embeddings;
        if tokens > limit {
            return Err(Error::ContextTooLong { sequence, tokens, limit });
        }
        Ok(())
    }
}

/// Cuts a batch into groups of whole sequences.
fn groups(offsets: &[usize]) -> Vec<Range<usize>> {
    let tokens = group_tokens(offsets.last().copied().unwrap_or(0));
    let mut groups = Vec::new();
    let mut start = 0;
    for end in 1..offsets.len() {
        if offsets[end] - offsets[start] >= tokens || end + 1 == offsets.len() {
            groups.push(start..end);
            start = end;
        }
    }
    groups
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
        assert!(!model.large, "a tiny model is not shared by itself");
        model.large = true;
        for threads in [2, 5] {
            assert_eq!(all(&model, threads), alone, "{threads} threads");
        }
    }
}
