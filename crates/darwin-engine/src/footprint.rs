//! What a model weighs in memory and on disk, and what a sweep within a budget takes, from headers
//! alone.

use crate::buffers::{Buffers, record_bytes};
use crate::layer::{expected, expected_of_layer, prefix};
use crate::sweep::{HEAD_BLOCK, LOGITS, Room};
use crate::weights::{Expected, form_of};
use crate::{Config, Error, LayerSource, Stream};
use darwin_checkpoint::{Dtype, TensorSource};
use std::path::PathBuf;

/// Bytes that a thread reads, and packs, at once.
pub(crate) const READING: u64 = 8 << 20;

/// Bytes of a thread's stack that are in use, and of the heap that it allocates from.
const OF_THREAD: u64 = 1 << 20;

/// Allocator overhead as a fraction of the memory requested.
const SLACK: f64 = 0.06;

/// Fewest tokens of a batch: fewer leave threads without work.
const LEAST_BATCH: usize = 512;

/// Bytes of a model's parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Footprint {
    /// Each layer in memory.
    pub layers: Vec<u64>,
    /// Each layer in the files.
    pub stored_layers: Vec<u64>,
    /// A token id's row of the output head in memory.
    pub head_row: u64,
    /// The output head in the files.
    pub stored_head: u64,
    /// A token id's row of the embedding in the files.
    pub stored_row: u64,
    /// The whole text model in the files.
    pub stored: u64,
    /// Elements of the largest matrix of a layer, an expert's being one.
    pub largest: u64,
}

impl Footprint {
    fn of(source: &dyn TensorSource, config: &Config) -> Self {
        let dtype = |name: &str| {
            let found = source.manifest().find(name);
            found.map_or(Dtype::F32, |id| source.manifest().get(id).dtype)
        };
        let stored =
            |t: &Expected| (t.shape.iter().product::<usize>() * dtype(&t.name).size()) as u64;
        let tensors = |layer| expected_of_layer(config, layer, &prefix(layer));
        let packed = |t: &Expected| in_memory(&t.shape, dtype(&t.name));
        let layers = 0..config.num_hidden_layers;
        let (head, hidden) = (config.head(), config.hidden_size);
        Self {
            layers: layers.clone().map(|l| tensors(l).iter().map(packed).sum()).collect(),
            stored_layers: layers.map(|l| tensors(l).iter().map(stored).sum()).collect(),
            head_row: form_of(dtype(head)).bytes(16, hidden) / 16,
            stored_head: (config.vocab_size * hidden * dtype(head).size()) as u64,
            stored_row: (hidden * dtype("embed_tokens.weight").size()) as u64,
            stored: expected(config).iter().map(stored).sum(),
            largest: (0..config.num_hidden_layers)
                .flat_map(tensors)
                .map(|t| t.shape.iter().rev().take(2).product::<usize>() as u64)
                .max()
                .unwrap_or(0),
        }
    }
}

/// Bytes of a tensor as the engine keeps it: matrices packed, the rest as float32.
fn in_memory(shape: &[usize], dtype: Dtype) -> u64 {
    match *shape {
        [rows, cols] if rows > 1 => form_of(dtype).bytes(rows, cols),
        [n, rows, cols] if rows > 1 => n as u64 * form_of(dtype).bytes(rows, cols),
        _ => 4 * shape.iter().product::<usize>() as u64,
    }
}

/// What shall go through a model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Workload {
    /// Tokens of all sequences.
    pub tokens: u64,
    /// Token ids among them, each counted once.
    pub distinct: u64,
    /// The longest sequence.
    pub longest: usize,
    /// Most tokens of a batch, unless a sequence is longer.
    pub batch_tokens: usize,
    /// States of each token that go through the layers side by side.
    pub states: u64,
    /// Models whose layers are there together.
    pub models: u64,
    /// Sweeps over the layers; more than one are worth keeping layers for.
    pub sweeps: u64,
    /// Bytes that the caller keeps meanwhile, whatever else the process holds included.
    pub kept: u64,
}

/// What may be used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Budget {
    /// Memory of the process in bytes; none for as much as is needed.
    pub memory: Option<u64>,
    /// A folder for hidden states that do not fit.
    pub scratch: Option<PathBuf>,
}

/// How a workload is done within a budget.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// What is kept in memory.
    pub room: Room,
    /// Most tokens of a batch.
    pub batch_tokens: usize,
    /// Layers of each model that stay in memory from sweep to sweep.
    pub layers: usize,
    /// Bytes of hidden states that wait in the scratch folder.
    pub spilled: u64,
    /// The most memory that the process is expected to hold, bytes.
    pub peak: u64,
    /// Bytes of weights that are read.
    pub read: u64,
}

impl Stream<'_> {
    /// What its parts weigh.
    #[must_use]
    pub fn footprint(&self) -> Footprint {
        Footprint::of(self.source(), self.config())
    }

    /// How to do a workload within a budget: with as much in memory as the budget allows, so that
    /// no more is read than must be.
    ///
    /// # Errors
    /// [`Error::Memory`] with the least that works.
    pub fn plan(&self, work: &Workload, budget: &Budget) -> Result<Plan, Error> {
        let planner = Planner { config: self.config(), parts: self.footprint(), work };
        planner.plan(budget, rayon::current_num_threads() as u64)
    }
}

/// Bytes that a sweep holds at a time, apart from hidden states that wait.
struct Planner<'a> {
    config: &'a Config,
    parts: Footprint,
    work: &'a Workload,
}

impl Planner<'_> {
    fn plan(&self, budget: &Budget, threads: u64) -> Result<Plan, Error> {
        let states = self.states();
        let limit = budget.memory.unwrap_or(u64::MAX);
        let most = self.work.batch_tokens.max(LEAST_BATCH);
        let batches = || std::iter::successors(Some(most), |b| (*b > LEAST_BATCH).then_some(b / 2));
        let ways: Vec<(bool, usize)> = [true, false]
            .into_iter()
            .flat_map(|prefetch| batches().map(move |batch| (prefetch, batch.max(LEAST_BATCH))))
            .collect();
        let fits = |bytes: u64| with_slack(bytes) + self.work.kept <= limit;
        // First with all states in memory, then with what is left for them.
        let found =
            ways.iter().find(|(prefetch, batch)| fits(self.unspilled(*prefetch, *batch, threads)));
        let spilling = || {
            budget.scratch.as_ref().and_then(|_| {
                ways.iter().find(|(prefetch, batch)| fits(self.passing(*prefetch, *batch, threads)))
            })
        };
        let Some(&(prefetch, batch_tokens)) = found.or_else(spilling) else {
            return Err(self.too_little(limit, budget.scratch.is_some(), threads));
        };
        let passing = match found {
            Some(_) => self.unspilled(prefetch, batch_tokens, threads) - states,
            None => self.passing(prefetch, batch_tokens, threads),
        };
        let left = |bytes: u64| {
            let usable = (limit - self.work.kept) as f64 / (1.0 + SLACK);
            (usable as u64).saturating_sub(bytes)
        };
        let in_memory = states.min(left(passing));
        // Before and after the layers there is room for embedding and head instead; that of a band of
        // the head is part of `passing`.
        let around = self.around(batch_tokens, threads);
        let free = left(in_memory + around);
        let before = left(in_memory + self.reading(threads));
        let layers = self.kept_layers(left(passing + in_memory));
        let row = 4 * self.config.hidden_size as u64;
        let head = free / self.parts.head_row / HEAD_BLOCK as u64;
        let room = Room {
            prefetch,
            states: if in_memory == states { u64::MAX } else { in_memory },
            scratch: budget.scratch.clone(),
            embedding: before / 2,
            head: (head.max(1) as usize).saturating_mul(HEAD_BLOCK).min(self.config.vocab_size),
        };
        let of_layers: u64 = self.parts.layers[..layers].iter().sum::<u64>() * self.work.models;
        let embedding = (self.work.distinct * row).min(room.embedding);
        let ends = (embedding + self.reading(threads))
            .max(room.head as u64 * self.parts.head_row + around);
        let peak = passing.max(ends) + in_memory + of_layers;
        Ok(Plan {
            room,
            batch_tokens,
            layers,
            spilled: states - in_memory,
            peak: with_slack(peak) + self.work.kept,
            read: self.read(layers),
        })
    }

    fn too_little(&self, given: u64, scratch: bool, threads: u64) -> Error {
        let spilled = with_slack(self.passing(false, LEAST_BATCH, threads)) + self.work.kept;
        let whole = with_slack(self.unspilled(false, LEAST_BATCH, threads)) + self.work.kept;
        let least = if scratch { spilled } else { whole };
        Error::Memory { given, least, with_scratch: (!scratch).then_some(spilled) }
    }

    /// Hidden states of all tokens.
    fn states(&self) -> u64 {
        self.work.tokens * self.work.states * 4 * self.config.hidden_size as u64
    }

    /// [`Planner::passing`] with all states in memory: that of the batch is one of them.
    fn unspilled(&self, prefetch: bool, batch_tokens: usize, threads: u64) -> u64 {
        let batch = batch_tokens.max(self.work.longest) as u64;
        let row = 4 * self.config.hidden_size as u64;
        let taken = if self.work.models > 1 { 0 } else { row * batch.min(self.work.tokens) };
        let layers = self.through_layers(prefetch, batch_tokens, threads) - taken;
        layers.max(self.through_head(batch_tokens, threads)) + self.states()
    }

    /// Bytes of all threads that read and pack.
    fn reading(&self, threads: u64) -> u64 {
        threads * READING.min(8 * self.parts.largest)
    }

    fn largest_layer(&self) -> u64 {
        self.parts.layers.iter().copied().max().unwrap_or(0)
    }

    /// What a sweep takes at a time: that of the layers or of the head, where that is more.
    fn passing(&self, prefetch: bool, batch_tokens: usize, threads: u64) -> u64 {
        let layers = self.through_layers(prefetch, batch_tokens, threads);
        layers.max(self.through_head(batch_tokens, threads))
    }

    /// Layers, and what a batch takes on its way through one.
    fn through_layers(&self, prefetch: bool, batch_tokens: usize, threads: u64) -> u64 {
        let batch = batch_tokens.max(self.work.longest) as u64;
        let ahead = prefetch && threads > 1;
        let layers = self.largest_layer() * self.work.models * if ahead { 2 } else { 1 };
        let buffers = Buffers::new(self.config, batch_tokens, self.work.longest, threads);
        // The state that is worked on; where two models are run on it, their outcome too.
        let states = self.work.models.min(2) * 4 * self.config.hidden_size as u64;
        let working =
            buffers.bytes() + batch * (states + record_bytes(self.config)) + threads * OF_THREAD;
        layers + working + self.reading(threads)
    }

    /// A band of the head with its logits.
    fn through_head(&self, batch_tokens: usize, threads: u64) -> u64 {
        let band = HEAD_BLOCK.min(self.config.vocab_size) as u64;
        band * self.parts.head_row + self.around(batch_tokens, threads)
    }

    /// What the output head takes beside its weights: its reading, logits, a batch.
    fn around(&self, batch_tokens: usize, threads: u64) -> u64 {
        let batch = batch_tokens.max(self.work.longest) * self.config.hidden_size;
        threads * READING + 4 * (LOGITS + self.config.vocab_size.min(1 << 18) + batch) as u64
    }

    /// How many layers can stay in so many bytes.
    fn kept_layers(&self, bytes: u64) -> usize {
        if self.work.sweeps < 2 {
            return 0;
        }
        let sums = self.parts.layers.iter().scan(0_u64, |sum, layer| {
            *sum += layer * self.work.models;
            Some(*sum)
        });
        sums.take_while(|sum| *sum <= bytes).count()
    }

    /// Bytes of weights that are read.
    fn read(&self, kept: usize) -> u64 {
        let (once, again) = self.parts.stored_layers.split_at(kept);
        let layers = once.iter().sum::<u64>() + again.iter().sum::<u64>() * self.work.sweeps;
        let ends = self.parts.stored_head + self.work.distinct * self.parts.stored_row;
        self.work.models * (layers + ends * self.work.sweeps)
    }
}

pub(crate) fn with_slack(bytes: u64) -> u64 {
    (bytes as f64 * (1.0 + SLACK)) as u64
}
