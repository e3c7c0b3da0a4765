//! Many batches through a model, layer by layer: every layer is read once however many there are.

use crate::states::States;
use crate::{Batch, Config, Error, Head, Interventions, Layers, Model, State, Tap};
use darwin_core::{Cancel, Progress};
use std::ops::Range;
use std::path::PathBuf;

/// Where a sweep gets its weights from: a [`Model`] has all of them, a [`Stream`](crate::Stream)
/// reads them when their turn comes.
pub trait LayerSource: Sync {
    /// The model's numbers.
    fn config(&self) -> &Config;

    /// A layer, ready to be run.
    ///
    /// # Errors
    /// [`Error::Weights`] where reading fails.
    fn layer(&self, layer: usize) -> Result<Layers, Error>;

    /// The output head for some token ids, from a multiple of 16 on.
    ///
    /// # Errors
    /// [`Error::Weights`] where reading fails.
    fn head(&self, band: Range<usize>) -> Result<Head, Error>;

    /// Calls `each` with the state of every batch before the first layer, in order. Rows of the
    /// embedding that are read for it may take `room` bytes.
    ///
    /// # Errors
    /// As [`Model::embed`]; [`Error::Weights`] where reading fails.
    fn embed(
        &self,
        batches: &[Batch],
        room: u64,
        each: &mut dyn FnMut(State) -> Result<(), Error>,
    ) -> Result<(), Error>;
}

impl LayerSource for Model {
    fn config(&self) -> &Config {
        self.config()
    }

    fn layer(&self, layer: usize) -> Result<Layers, Error> {
        Ok(self.layers().only(layer))
    }

    fn head(&self, band: Range<usize>) -> Result<Head, Error> {
        Ok(self.output().part(band))
    }

    fn embed(
        &self,
        batches: &[Batch],
        _: u64,
        each: &mut dyn FnMut(State) -> Result<(), Error>,
    ) -> Result<(), Error> {
        batches.iter().try_for_each(|batch| self.config().check_batch(batch))?;
        batches.iter().try_for_each(|batch| each(self.embed(batch)?))
    }
}

/// Bands of the output head begin at multiples of so many token ids: sums over the vocabulary that
/// are made of such blocks do not depend on the bands.
pub const HEAD_BLOCK: usize = 1 << 13;

/// Logits that are held at once.
pub(crate) const LOGITS: usize = 1 << 21;

/// What a sweep keeps in memory. The default keeps everything; less changes no result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Room {
    /// Whether a layer is read while the one before is worked on, so that there are two.
    pub prefetch: bool,
    /// Bytes of hidden states, at least those that are worked on; the others wait in `scratch`.
    pub states: u64,
    /// A folder for hidden states. Without it they all stay in memory.
    pub scratch: Option<PathBuf>,
    /// Bytes of embeddings.
    pub embedding: u64,
    /// Token ids of a band of the output head, taken up to a multiple of [`HEAD_BLOCK`].
    pub head: usize,
}

impl Default for Room {
    fn default() -> Self {
        let (states, embedding, head) = (u64::MAX, u64::MAX, usize::MAX);
        Self { prefetch: true, states, scratch: None, embedding, head }
    }
}

impl Room {
    /// The bands of the output head.
    #[must_use]
    pub fn bands(&self, config: &Config) -> Vec<Range<usize>> {
        let all = config.vocab_size;
        let step = self.head.clamp(1, all).next_multiple_of(HEAD_BLOCK);
        (0..all).step_by(step).map(|first| first..all.min(first + step)).collect()
    }
}

/// Calls `visit` with every layer of models of one shape, in order. If `prefetch`, the threads of
/// the pool read a layer beside what the visit of the one before does.
///
/// # Errors
/// What the visits bring, and [`Error::Weights`] where reading fails.
pub fn each_layer<E: From<Error> + Send>(
    models: &[&dyn LayerSource],
    prefetch: bool,
    mut visit: impl FnMut(usize, &[Layers]) -> Result<(), E> + Send,
) -> Result<(), E> {
    let read = |layer: usize| -> Result<Vec<Layers>, Error> {
        models.iter().map(|model| model.layer(layer)).collect()
    };
    let count = models.first().map_or(0, |model| model.config().num_hidden_layers);
    ahead(count, prefetch, read, |layer, weights| visit(layer, &weights?))
}

/// Calls `visit` with what `read` gives for each number, if `prefetch` while the next is read.
pub(crate) fn ahead<T: Send, E: Send>(
    count: usize,
    prefetch: bool,
    read: impl Fn(usize) -> T + Sync,
    mut visit: impl FnMut(usize, T) -> Result<(), E> + Send,
) -> Result<(), E> {
    let prefetch = prefetch && rayon::current_num_threads() > 1;
    let mut next = None;
    for number in 0..count {
        let now = next.take().unwrap_or_else(|| read(number));
        if prefetch && number + 1 < count {
            let (visited, read) = rayon::join(|| visit(number, now), || read(number + 1));
            visited?;
            next = Some(read);
        } else {
            visit(number, now)?;
        }
    }
    Ok(())
}

/// Logits of some of a batch's positions.
#[derive(Clone, Debug)]
pub struct Logits<'a> {
    /// Which batch.
    pub batch: usize,
    /// The number, among the positions asked for, of the first.
    pub first: usize,
    /// The token ids.
    pub band: Range<usize>,
    /// (positions, token ids of the band), row-major.
    pub values: &'a [f32],
}

/// Batches on their way through a model.
pub struct Sweep<'a> {
    model: &'a dyn LayerSource,
    room: &'a Room,
    states: States,
    /// Sequences of the batches before each.
    sequences: Vec<usize>,
}

impl<'a> Sweep<'a> {
    /// Embeds batches.
    ///
    /// # Errors
    /// As [`LayerSource::embed`]; [`Error::Scratch`].
    pub fn begin(
        model: &'a dyn LayerSource,
        batches: &[Batch],
        room: &'a Room,
    ) -> Result<Self, Error> {
        let mut states = States::new(room);
        model.embed(batches, room.embedding, &mut |state| states.push(state).map(drop))?;
        let count = |before: &mut usize, batch: &Batch| {
            let first = *before;
            *before += batch.sequences().len();
            Some(first)
        };
        let sequences = batches.iter().scan(0, count).collect();
        Ok(Self { model, room, states, sequences })
    }

    /// Runs all batches through all layers, each under its own tap. Progress is in tokens times
    /// layers.
    ///
    /// # Errors
    /// [`Error::Weights`], [`Error::Scratch`], [`Error::Cancelled`]; [`Error::NotFinite`], its
    /// sequence counted over all batches.
    pub fn run<T: Tap + Send>(
        &mut self,
        taps: &mut [T],
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Result<(), Error> {
        let Self { model, room, states, sequences } = self;
        let (nothing, count) = (Interventions::default(), model.config().num_hidden_layers);
        each_layer(&[*model], room.prefetch, |layer, weights| {
            progress.note(&format!("layer {} of {count}", layer + 1));
            for (batch, tap) in taps.iter_mut().enumerate() {
                if cancel.is_cancelled() {
                    return Err(Error::Cancelled);
                }
                let mut state = states.take(batch)?;
                weights[0]
                    .run(&mut state, layer..layer + 1, tap, &nothing)
                    .map_err(|error| error.at(|i, at| (sequences[batch] + i, at)))?;
                progress.advance(state.batch().tokens() as u64);
                states.put(batch, state)?;
            }
            Ok(())
        })
    }

    /// Shows the logits at chosen flat positions of each batch: for each band of the output head, of
    /// all batches in order, runs of positions in order.
    ///
    /// # Errors
    /// [`Error::Weights`], [`Error::Scratch`].
    pub fn logits(
        &mut self,
        positions: &[Vec<usize>],
        visit: &mut dyn FnMut(&Logits<'_>),
    ) -> Result<(), Error> {
        let mut logits = Vec::new();
        for band in self.room.bands(self.model.config()) {
            let head = self.model.head(band.clone())?;
            let rows = (LOGITS / band.len()).max(1);
            for (batch, positions) in positions.iter().enumerate() {
                if positions.is_empty() {
                    continue;
                }
                let state = self.states.take(batch)?;
                for (i, run) in positions.chunks(rows).enumerate() {
                    head.logits_into(&state, run, &mut logits);
                    let (band, first) = (band.clone(), i * rows);
                    visit(&Logits { batch, first, band, values: &logits });
                }
                self.states.put(batch, state)?;
            }
        }
        Ok(())
    }
}
