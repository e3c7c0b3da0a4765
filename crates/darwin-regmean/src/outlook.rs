//! What solving takes, from headers and items alone.

use crate::Error;
use crate::balance::Balance;
use crate::sides::given;
use darwin_core::keyed::{Key, Rng};
use darwin_engine::grams::{Gram, footprint, operations};
use darwin_engine::{Budget, LayerSource, Plan, ScoreItem, Stream, Workload};
use darwin_eval::Encoded;
use darwin_merge::{Merge, RegMean};
use std::collections::{BTreeMap, BTreeSet};

/// Most tokens of a batch where parents are measured.
const BATCH_TOKENS: usize = 4096;

/// What solving takes.
#[derive(Clone, Debug, PartialEq)]
pub struct Outlook {
    /// Tokens that father and mother are run on to be solved from; at most these where it is not
    /// measured yet whose domains are whose.
    pub tokens: [u64; 2],
    /// Tokens of each parent that are run before, to measure that; 0 where it is known.
    pub measured: u64,
    /// Operations of Gram matrices, and at most those of solving, two for a multiplication with its
    /// sum.
    pub grams: f64,
    /// As said.
    pub solving: f64,
    /// Bytes of solved tensors.
    pub solved: u64,
    /// What is kept in memory, and how much that is.
    pub plan: Plan,
}

/// Plans the solution of a merge within a budget, beside `held` bytes of the process.
///
/// # Errors
/// [`Error::Unfit`] for domains without items; [`darwin_engine::Error::Memory`] where the budget is
/// too small; whatever opening the parents brings.
pub fn outlook(
    merge: &Merge,
    settings: &RegMean,
    items: &Encoded,
    parents: [&Stream<'_>; 2],
    budget: &Budget,
    held: u64,
) -> Result<Outlook, Error> {
    let (known, all) = (given(settings, items)?, items.tokens());
    let tokens: [u64; 2] = match &known {
        Some(sides) => sides
            .items(items)
            .map(|items| items.iter().map(ScoreItem::fed_tokens).sum::<usize>() as u64),
        None => [all, all],
    };
    let sequences = items.items().iter().map(|item| item.main());
    let distinct: BTreeSet<u32> = sequences.clone().flat_map(|of| of.sequence()).collect();
    let (mut solved, mut solving, mut widest) = (0_u64, 0.0, 0_usize);
    let mut layers: BTreeMap<Option<usize>, u64> = BTreeMap::new();
    for tensor in merge.unsolved() {
        let info = tensor.info;
        let (n, rows) = (info.cols() as f64, info.rows() as f64);
        let bytes = (info.elements() * info.dtype.size()) as u64;
        solved += bytes;
        widest = widest.max(info.cols());
        *layers.entry(info.layer.map(|layer| layer.0)).or_default() += bytes;
        solving += info.experts().unwrap_or(1) as f64 * n * n * n / 3.0 + 4.0 * rows * n * n;
    }
    let threads = rayon::current_num_threads() as u64;
    // both matrices, both reduced, and rows on their way
    let systems =
        threads * (40 * (widest * widest) as u64 + (64 << 20).min(32 * widest as u64 * 4096));
    let inputs: u64 =
        parents.iter().zip(tokens).map(|(parent, tokens)| footprint(parent.config(), tokens)).sum();
    let states: u64 =
        parents.iter().zip(tokens).map(|(p, n)| 4 * p.config().hidden_size as u64 * n).sum();
    // a layer's bytes, and these behind each other with a header
    let file = 3 * layers.values().max().copied().unwrap_or(0);
    let work = Workload {
        tokens: tokens[0] + tokens[1],
        distinct: distinct.len() as u64,
        longest: sequences.map(|of| of.tokens()).max().unwrap_or(0),
        batch_tokens: BATCH_TOKENS,
        states: 1,
        models: 2,
        sweeps: 1,
        kept: held + inputs - states + systems.max(file),
    };
    let plan = parents[0].plan(&work, budget)?;
    let config = parents[0].config();
    Ok(Outlook {
        measured: if known.is_some() { 0 } else { all },
        grams: operations(config, tokens[0]) + operations(config, tokens[1]),
        tokens,
        solving,
        solved,
        plan,
    })
}

/// Solves a map of random numbers with so many inputs and outputs, on all threads at once: the
/// operations that this takes, to be timed.
#[must_use]
pub fn trial(inputs: usize, outputs: usize) -> f64 {
    use rayon::prelude::*;
    let values = |n: usize, name: &str| -> Vec<f32> {
        let mut rng = Rng::new(Key::new(1, &[name]), 0);
        (0..n).map(|_| rng.normal() as f32).collect()
    };
    let x = values(2 * inputs * inputs, "inputs");
    let gram = Gram::of(&x, inputs);
    let (father, mother) = (values(outputs * inputs, "father"), values(outputs * inputs, "mother"));
    let threads = rayon::current_num_threads();
    (0..threads).into_par_iter().for_each(|_| {
        if let Some(balance) = Balance::new(&gram, &gram, &RegMean::default()) {
            balance.solve(&father, &mother, &mut vec![0.0; father.len()]);
        }
    });
    let (n, rows) = (inputs as f64, outputs as f64);
    threads as f64 * (n * n * n / 3.0 + 4.0 * rows * n * n)
}
