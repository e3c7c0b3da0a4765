//! Forward passes over batches of samples.

use crate::Error;
use crate::sample::{Sample, batch_of};
use darwin_core::Cancel;
use darwin_engine::{Interventions, Model, State, Tap};
use rayon::prelude::*;

/// Logits held at once, in values.
const LOGITS_AT_ONCE: usize = 1 << 23;

/// Counts layers passed by tokens; a forward token is one token through all layers, so partial
/// passes count their share (method 0).
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Meter {
    layer_tokens: u64,
}

impl Meter {
    pub(crate) fn add(&mut self, tokens: usize, layers: usize) {
        self.layer_tokens += (tokens * layers) as u64;
    }

    /// Forward tokens of a model with so many layers, rounded up.
    pub(crate) fn forward_tokens(self, layers: usize) -> u64 {
        self.layer_tokens.div_ceil(layers.max(1) as u64)
    }
}

/// Embeds a batch and runs all layers under a tap.
pub(crate) fn full_pass(
    model: &Model,
    samples: &[Sample],
    tap: &mut dyn Tap,
    meter: &mut Meter,
) -> Result<State, Error> {
    let layers = model.config().num_hidden_layers;
    let mut state = model.embed(&batch_of(samples))?;
    model.run(&mut state, 0..layers, tap, &Interventions::default())?;
    meter.add(state.batch().tokens(), layers);
    Ok(state)
}

/// Flat positions whose logits predict the answers' tokens, with those tokens.
pub(crate) fn answer_positions(samples: &[Sample]) -> (Vec<usize>, Vec<u32>) {
    let (mut positions, mut targets, mut offset) = (Vec::new(), Vec::new(), 0);
    for sample in samples {
        for (i, token) in sample.answer().iter().enumerate() {
            positions.push(offset + sample.prompt + i - 1);
            targets.push(*token);
        }
        offset += sample.ids.len();
    }
    (positions, targets)
}

/// Calls `visit` with runs of positions and their logits (positions, vocab), within bounded memory.
pub(crate) fn for_logits(
    model: &Model,
    state: &State,
    positions: &[usize],
    mut visit: impl FnMut(usize, &[f32]),
) {
    let vocab = model.config().vocab_size;
    let rows = (LOGITS_AT_ONCE / vocab.max(1)).max(1);
    for (i, run) in positions.chunks(rows).enumerate() {
        visit(i * rows, &model.logits(state, run));
    }
}

/// Nats per answer of each sample of a state that has passed all layers.
pub(crate) fn answer_nll(model: &Model, state: &State, samples: &[Sample]) -> Vec<f64> {
    let (positions, targets) = answer_positions(samples);
    let vocab = model.config().vocab_size;
    let mut losses = vec![0.0; positions.len()];
    for_logits(model, state, &positions, |first, logits| {
        let rows = logits.par_chunks(vocab).zip(&targets[first..]);
        let found: Vec<f64> =
            rows.map(|(row, target)| log_sum_exp(row) - f64::from(row[*target as usize])).collect();
        losses[first..first + found.len()].copy_from_slice(&found);
    });
    let mut rest = losses.as_slice();
    samples
        .iter()
        .map(|sample| {
            let (own, others) = rest.split_at(sample.answer().len());
            rest = others;
            own.iter().sum()
        })
        .collect()
}

/// ln of the sum of exponentials.
pub(crate) fn log_sum_exp(row: &[f32]) -> f64 {
    let max = f64::from(row.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    max + row.iter().map(|v| (f64::from(*v) - max).exp()).sum::<f64>().ln()
}

pub(crate) fn stop_if(cancel: &Cancel) -> Result<(), Error> {
    if cancel.is_cancelled() { Err(Error::Cancelled) } else { Ok(()) }
}
