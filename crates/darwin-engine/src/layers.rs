//! Consecutive layers in memory, and how batches go through them.

use crate::cache::Caches;
use crate::finite::{EMBEDDING, first_not_finite};
use crate::layer::{Layer, Pass};
use crate::mixer::{Block, token_of};
use crate::probe::{Probe, Seen, Wanted};
use crate::team::{Team, run_all};
use crate::workspaces::{Borrowed, Workspaces};
use crate::{Config, Error, Interventions, NonFinite, State, Tap};
use darwin_core::{LayerIdx, Part};
use std::ops::Range;
use std::sync::Arc;

/// Most tokens that go through a layer together on one thread: many, so that an expert gets many
/// at once, but the hidden states stay in the caches.
pub(crate) const MAX_GROUP_TOKENS: usize = 512;

/// How many tokens a thread shall take together out of so many, for all threads to have a share.
pub(crate) fn group_tokens(all: usize) -> usize {
    group_tokens_of(all, rayon::current_num_threads())
}

/// [`group_tokens`] for so many threads.
pub(crate) fn group_tokens_of(all: usize, threads: usize) -> usize {
    let groups = all.div_ceil(MAX_GROUP_TOKENS).next_multiple_of(threads);
    all.div_ceil(groups.max(1)).max(64)
}

/// Weights of a layer that a token meets, from which on threads share the work on a layer: about
/// those that a core's second-level cache holds.
const LARGE_LAYER: usize = 1 << 18;

/// Multiply-adds of a layer, from which on threads share the work on it whatever its size: a
/// quarter of a millisecond each, so that handing over some twenty parts does not matter.
const MUCH_WORK: usize = 1 << 24;

/// Weights of a layer that a token meets.
fn layer_weights(config: &Config) -> usize {
    config.active_weights() / config.num_hidden_layers
}

/// Whether a model's layers are large enough to be cut.
pub(crate) fn is_large(config: &Config) -> bool {
    layer_weights(config) >= LARGE_LAYER
}

/// Layers of a model that follow one another: all of them, or one that a sweep is at. Clones and
/// swaps are cheap.
#[derive(Clone, Debug)]
pub struct Layers {
    config: Arc<Config>,
    first: usize,
    weights: Vec<Layer>,
    workspaces: Arc<Workspaces>,
    /// Whether threads share the work on a layer where they have less than a group each.
    pub(crate) large: bool,
}

impl Layers {
    /// Layers from number `first` on.
    pub(crate) fn new(
        config: Arc<Config>,
        first: usize,
        weights: Vec<Layer>,
        workspaces: Arc<Workspaces>,
        large: bool,
    ) -> Self {
        Self { config, first, weights, workspaces, large }
    }

    /// The model's numbers.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Which layers of the model these are.
    #[must_use]
    pub fn range(&self) -> Range<usize> {
        self.first..self.first + self.weights.len()
    }

    /// The weights of a layer that is among these.
    pub(crate) fn get(&self, layer: usize) -> &Layer {
        &self.weights[layer - self.first]
    }

    /// Layers of a model of the same config, alone.
    pub(crate) fn only(&self, layer: usize) -> Self {
        Self { first: layer, weights: vec![self.get(layer).clone()], ..self.clone() }
    }

    /// These layers with one of `donor`'s, layers of a model of the same config.
    ///
    /// # Panics
    /// If the layer is not among both.
    #[must_use]
    pub fn with_layer(&self, layer: LayerIdx, donor: &Self) -> Self {
        let mut layers = self.clone();
        layers.weights[layer.0 - self.first] = donor.get(layer.0).clone();
        layers
    }

    /// These layers with one part of one layer of `donor`, layers of a model of the same
    /// config: the mixer brings its input norm, the routed experts bring the norm before them,
    /// and parts outside the layers change nothing.
    ///
    /// # Panics
    /// If the layer is not among both.
    #[must_use]
    pub fn with_part(&self, layer: LayerIdx, part: Part, donor: &Self) -> Self {
        let mut layers = self.clone();
        let own = &mut layers.weights[layer.0 - self.first];
        *own = own.with_part(part, donor.get(layer.0));
        layers
    }

    /// Runs some of these layers on a state.
    ///
    /// # Errors
    /// [`Error::Layers`] where the range does not start at the state's layer or leaves these
    /// layers; [`Error::Intervention`]; [`Error::NotFinite`].
    pub fn run(
        &self,
        state: &mut State,
        layers: Range<usize>,
        tap: &mut dyn Tap,
        interventions: &Interventions,
    ) -> Result<(), Error> {
        let own = self.range();
        let inside = own.start <= layers.start && layers.end <= own.end;
        if layers.start != state.layer || !inside || layers.start > layers.end {
            return Err(Error::Layers { asked: layers, layers: own.end, reached: state.layer });
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
        let tokens = state.batch().tokens();
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
            jobs.push((group.start, first, local, hidden));
        }
        type Job<'a> = (usize, usize, Vec<usize>, &'a mut [f32]);
        let run = |(sequences, first, local, hidden): Job<'_>, team: Team<'_>| {
            let work = &mut *self.workspace();
            let tokens = hidden.len() / self.config.hidden_size;
            let probe = Probe::new(interventions, wanted, first, tokens);
            let blocks = Block::cut(&local);
            let mut pass = Pass { blocks, caches: Caches::fresh(), team, work, probe };
            self.forward(hidden, layers.clone(), &mut pass)
                .map_err(|error| error.at(|sequence, at| (sequences + sequence, at)))?;
            Ok(pass.probe.into_seen())
        };
        let shared = self.shares(jobs.len(), tokens);
        run_all(jobs, shared, run)
    }

    /// Whether so many jobs are done one after another by all threads, not side by side: where
    /// there are fewer than threads, and a layer is large enough to be cut, or they have many
    /// tokens together.
    pub(crate) fn shares(&self, jobs: usize, tokens: usize) -> bool {
        jobs < rayon::current_num_threads()
            && (self.large || tokens * layer_weights(&self.config) >= MUCH_WORK)
    }

    /// Buffers for [`Layers::forward`].
    pub(crate) fn workspace(&self) -> Borrowed<'_> {
        self.workspaces.borrow()
    }

    /// Layers on (tokens, hidden), in place. Every value of the stream is finite afterwards, or
    /// [`Error::NotFinite`] says where it first was not; sequences are counted from the pass's first.
    pub(crate) fn forward(
        &self,
        hidden: &mut [f32],
        layers: Range<usize>,
        pass: &mut Pass<'_>,
    ) -> Result<(), Error> {
        if hidden.is_empty() {
            return Ok(());
        }
        if layers.start == 0
            && let Some((row, value)) = first_not_finite(hidden, self.config.hidden_size)
        {
            let ((sequence, position), layer) = (token_of(&pass.blocks, row), None);
            let component = EMBEDDING;
            let found = NonFinite { layer, component, value, sequence, position };
            return Err(Error::NotFinite(found));
        }
        let weights = &self.weights[layers.start - self.first..layers.end - self.first];
        layers.zip(weights).try_for_each(|(i, layer)| layer.forward(&self.config, i, hidden, pass))
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
