//! The first pass over a tensor for what needs a whole unit: angles, thresholds, L1 norms.
//!
//! A unit is cut into blocks of fixed size. Every thread that asks for the statistics takes blocks
//! until none is left, so they are computed once, by as many threads as need them, without a pool
//! and without waiting on anything but blocks that are being computed. Sums are added in the order
//! of the blocks, so threads, tiles and layouts do not matter.

mod collect;
mod formulas;
mod near;
mod ordered;

use crate::compute::{Scratch, Work};
use crate::methods::sparsify::Cut;
use crate::plan::Operation;
use collect::Collect;
use darwin_checkpoint::Error;
use darwin_core::Fault;
use near::{Guess, List};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// A magnitude that is looked for.
#[derive(Clone, Copy, Debug)]
struct Search {
    /// Of which task vector, or 0: of a formula's scores.
    of: usize,
    /// Which rank it has, from the largest; while it is narrowed down, among those left.
    wanted: u64,
    /// What is known of it: the bucket of its high bits, then all bits.
    bits: u32,
}

/// What is being looked for in the current unit.
#[derive(Clone, Debug)]
enum Pass {
    /// `[a.a, b.b, a.b]`.
    Dots,
    /// Magnitudes of a sample of rows.
    Sample(Vec<Search>),
    /// What lies near the magnitudes that the sample has.
    Near(Vec<Guess>),
    /// How many magnitudes fall into each bucket of high bits.
    High(Vec<Search>),
    /// The same for low bits within a bucket.
    Low(Vec<Search>),
    /// How many magnitudes equal the one found.
    Ties(Vec<Search>),
    /// L1 norms before and after thinning.
    Norms(Vec<Cut>),
    /// A formula's sums, with numbers that were found before.
    Formula { stage: u8, numbers: Vec<f64> },
}

/// What one block gives.
enum Partial {
    Sums(Vec<[f64; 3]>),
    Counts(Vec<Vec<u32>>),
    Lists(Vec<List>),
}

#[derive(Default)]
struct State {
    unit: usize,
    pass: Option<Pass>,
    next: usize,
    done: usize,
    sums: Vec<Vec<[f64; 3]>>,
    counts: Vec<Vec<u64>>,
    lists: Vec<Vec<List>>,
    results: Vec<f64>,
    finished: Option<Arc<[f64]>>,
    failed: bool,
}

/// The statistics of one tensor, computed at most once.
#[derive(Default)]
pub(crate) struct Statistics {
    state: Mutex<State>,
    changed: Condvar,
}

impl Statistics {
    /// The statistics; the calling thread helps to compute them.
    pub(crate) fn get(&self, work: &Work<'_>) -> Result<Arc<[f64]>, Error> {
        let vectors = match &work.line.operation {
            Operation::TaskVectors { vectors, .. } => &vectors[..],
            _ => &[],
        };
        let collect = Collect { work, vectors };
        let _wakes = WakesOthers(self); // before the lock is taken, so that it outlives it
        let mut scratch = Scratch::default();
        let mut state = self.lock();
        loop {
            if let Some(finished) = &state.finished {
                return Ok(Arc::clone(finished));
            }
            if state.failed {
                return Err(failed_elsewhere());
            }
            if state.pass.is_none() && !collect.begin(&mut state) {
                state.finished = Some(Arc::from(std::mem::take(&mut state.results)));
                continue;
            }
            let blocks = collect.blocks(state.pass.as_ref());
            if state.next == blocks {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let (unit, block) = (state.unit, state.next);
            let pass = state.pass.clone().unwrap_or(Pass::Dots);
            state.next += 1;
            drop(state);
            let partial = collect.block(&pass, unit, block, &mut scratch);
            state = self.lock();
            if let Err(error) = partial.and_then(|partial| {
                state.add(block, blocks, partial);
                if state.done == blocks { collect.end(&mut state) } else { Ok(()) }
            }) {
                state.failed = true;
                self.changed.notify_all();
                return Err(error);
            }
            if state.next == 0 || state.pass.is_none() {
                self.changed.notify_all();
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends the waiting of others when the thread panics: the block that it took would never be done.
struct WakesOthers<'a>(&'a Statistics);

impl Drop for WakesOthers<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.lock().failed = true;
            self.0.changed.notify_all();
        }
    }
}

fn failed_elsewhere() -> Error {
    Error::Source {
        message: "another thread could not read this tensor".to_owned(),
        hint: None,
        fault: Fault::Environment,
    }
}

impl State {
    fn add(&mut self, block: usize, blocks: usize, partial: Partial) {
        self.done += 1;
        match partial {
            Partial::Sums(sums) => {
                self.sums.resize(blocks, Vec::new());
                self.sums[block] = sums;
            }
            Partial::Lists(lists) => {
                self.lists.resize_with(blocks, Vec::new);
                self.lists[block] = lists;
            }
            Partial::Counts(counts) => {
                self.counts.resize(counts.len(), Vec::new());
                for (total, counts) in self.counts.iter_mut().zip(counts) {
                    total.resize(counts.len(), 0);
                    for (total, count) in total.iter_mut().zip(counts) {
                        *total += u64::from(count);
                    }
                }
            }
        }
    }

    fn start(&mut self, pass: Option<Pass>) {
        self.pass = pass;
        (self.next, self.done) = (0, 0);
        self.sums.clear();
        self.counts.clear();
        self.lists.clear();
    }

    /// The sum of all blocks' sums, in order, for vector `i`.
    fn total(&self, i: usize) -> [f64; 3] {
        self.sums.iter().fold([0.0; 3], |mut total, sums| {
            for (total, sum) in total.iter_mut().zip(sums[i]) {
                *total += sum;
            }
            total
        })
    }
}
