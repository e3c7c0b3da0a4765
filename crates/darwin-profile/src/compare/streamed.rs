//! Comparisons of parents that are not loaded.

use super::{CompareOptions, Kept, Parent, run};
use crate::Error;
use crate::profile::streamed::{Forecast, Unloaded};
use crate::sample::{Sample, batch_of, batches, samples_of};
use crate::subject::same_shape;
use darwin_core::files::{Comparison, Profile};
use darwin_core::{Cancel, Progress};
use darwin_engine::{Budget, LayerSource, NoTap, Plan, Stream, Workload};
use darwin_eval::Encoded;
use std::collections::BTreeSet;

/// Tokens for each thread that are measured with.
const MEASURED_TOKENS: usize = 512;

/// How a comparison is done.
#[derive(Clone, Debug)]
pub struct ComparePlan {
    /// What goes through the layers in a sweep.
    pub work: Workload,
    /// How.
    pub plan: Plan,
    /// Bytes of hidden states of a sweep.
    pub states: u64,
    /// Tokens of all samples.
    pub tokens: u64,
    /// Positions of a sample whose logits are computed, all together.
    pub positions: u64,
}

/// How [`compare_streamed`] would go about it, from headers alone. Where the states of all variants
/// do not fit and there is no folder for them, the layers are read in several sweeps. `held` are the
/// bytes that the process has in memory as it is.
///
/// # Errors
/// [`Error::NoSamples`], [`Error::Mismatch`]; what the engine says of the models; a budget that is
/// too small.
pub fn plan_compare(
    parents: [&Unloaded<'_>; 2],
    encoded: &Encoded,
    options: &CompareOptions,
    budget: &Budget,
    held: u64,
) -> Result<ComparePlan, Error> {
    let samples = samples_of(encoded, options.per_domain);
    if samples.is_empty() {
        return Err(Error::NoSamples);
    }
    let [father, mother] = [Stream::open(parents[0].source)?, Stream::open(parents[1].source)?];
    let config = father.config();
    same_shape((config, parents[0].reference), (mother.config(), parents[1].reference))?;
    let all: u64 = samples.iter().map(|s| s.ids.len() as u64).sum();
    let positions: u64 = samples.iter().map(|s| s.answer().len() as u64).sum();
    let distinct: BTreeSet<u32> = samples.iter().flat_map(|s| s.ids.iter().copied()).collect();
    let variants = 2 * config.num_hidden_layers + 2;
    let sums = samples.len() * config.num_hidden_layers * 64 + positions as usize * variants * 32;
    let mut tokens = all;
    loop {
        let work = Workload {
            tokens,
            distinct: distinct.len() as u64,
            longest: samples.iter().map(|s| s.ids.len()).max().unwrap_or(0),
            batch_tokens: options.batch_tokens,
            states: variants as u64,
            models: 2,
            sweeps: all.div_ceil(tokens),
            kept: held + sums as u64 + 24 * all,
        };
        match father.plan(&work, budget) {
            Ok(plan) => {
                let row = 4 * (config.hidden_size * variants) as u64;
                let states = if plan.spilled > 0 { u64::MAX } else { tokens * row };
                return Ok(ComparePlan { work, plan, states, tokens: all, positions });
            }
            Err(error) if tokens <= work.longest as u64 => return Err(error.into()),
            Err(_) => tokens = (tokens / 2).max(work.longest as u64),
        }
    }
}

/// How long [`compare_streamed`] will take, the swaps of components not counted: from a layer of
/// each kind of the father that is read, and run on some of the samples.
///
/// # Errors
/// As [`compare_streamed`].
pub fn forecast_compare(
    father: &Unloaded<'_>,
    encoded: &Encoded,
    options: &CompareOptions,
    plan: &ComparePlan,
) -> Result<Forecast, Error> {
    let samples: Vec<Sample> = samples_of(encoded, options.per_domain);
    let tokens = plan.plan.batch_tokens.min(MEASURED_TOKENS * rayon::current_num_threads());
    let first = batches(&samples, tokens).into_iter().next().unwrap_or_default();
    let stream = Stream::open(father.source)?;
    let speed = stream.measure(&batch_of(first), |_, _| NoTap)?;
    let layers = stream.config().num_hidden_layers as u64;
    // the differences of weights and the correspondence of experts read both parents, too
    let read = plan.plan.read + 2 * plan.work.models * stream.footprint().stored;
    Ok(Forecast {
        reading: speed.reading(read),
        running: speed.running(plan.tokens * (layers + 3)),
        logits: speed.logits(stream.config(), plan.positions * (2 * layers + 2)),
        read_rate: speed.read,
        operation_rate: speed.operations,
    })
}

/// [`compare`](crate::compare) of parents that are not loaded: the same bits, whatever the plan.
///
/// # Errors
/// As [`compare`](crate::compare).
pub fn compare_streamed(
    parents: [&Unloaded<'_>; 2],
    profiles: [&Profile; 2],
    encoded: &Encoded,
    options: &CompareOptions,
    plan: &ComparePlan,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<Comparison, Error> {
    let open = |i: usize| Stream::open(parents[i].source).map(|s| s.keeping(plan.plan.layers));
    let streams = [open(0)?, open(1)?];
    let parent = |i: usize| Parent {
        model: &streams[i],
        source: parents[i].source,
        reference: parents[i].reference,
    };
    let kept = Kept {
        room: plan.plan.room.clone(),
        states: plan.states,
        batch_tokens: plan.plan.batch_tokens,
    };
    run([parent(0), parent(1)], profiles, encoded, options, &kept, progress, cancel)
}
