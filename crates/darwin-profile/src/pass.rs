//! Forward passes over batches of samples.

use crate::Error;
use crate::sample::{Sample, batch_of};
use darwin_core::Cancel;
use darwin_engine::{HEAD_BLOCK, Interventions, Logits, Model, State, Tap};
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

/// The losses of some samples' answers, from logits that come in bands of the vocabulary.
pub(crate) struct Answers {
    /// [`answer_positions`].
    pub(crate) positions: Vec<usize>,
    targets: Vec<u32>,
    /// The logit of each target.
    found: Vec<f32>,
    sums: Vec<LogSumExp>,
}

impl Answers {
    pub(crate) fn new(samples: &[Sample]) -> Self {
        let (positions, targets) = answer_positions(samples);
        let (found, sums) = (vec![0.0; targets.len()], vec![LogSumExp::default(); targets.len()]);
        Self { positions, targets, found, sums }
    }

    /// Takes in the logits of some positions. Bands come in order, and begin at multiples of
    /// [`HEAD_BLOCK`].
    pub(crate) fn add(&mut self, logits: &Logits<'_>) {
        let Logits { first, band, values, .. } = logits;
        let (first, rows) = (*first, values.len() / band.len());
        let (sums, found) = (&mut self.sums[first..first + rows], &mut self.found[first..]);
        let targets = &self.targets[first..first + rows];
        let each = sums.par_iter_mut().zip(found).zip(targets).zip(values.par_chunks(band.len()));
        each.for_each(|(((sum, found), target), row)| {
            sum.add(row);
            if band.contains(&(*target as usize)) {
                *found = row[*target as usize - band.start];
            }
        });
    }

    /// Nats per answer of each sample, after all bands; NaN where a logit is not finite.
    pub(crate) fn nll(&self, samples: &[Sample]) -> Vec<f64> {
        let mut losses = self.sums.iter().zip(&self.found).map(|(s, v)| s.loss(*v));
        samples.iter().map(|s| losses.by_ref().take(s.answer().len()).sum()).collect()
    }
}

/// Nats per answer of each sample of a state that has passed all layers.
pub(crate) fn answer_nll(model: &Model, state: &State, samples: &[Sample]) -> Vec<f64> {
    let mut answers = Answers::new(samples);
    let vocab = model.config().vocab_size;
    let rows = (LOGITS_AT_ONCE / vocab.max(1)).max(1);
    let positions = std::mem::take(&mut answers.positions);
    for (i, run) in positions.chunks(rows).enumerate() {
        let (first, values) = (i * rows, &model.logits(state, run)[..]);
        answers.add(&Logits { batch: 0, first, band: 0..vocab, values });
    }
    answers.nll(samples)
}

/// ln of a sum of exponentials that is added up in blocks of [`HEAD_BLOCK`] terms, so that it does
/// not depend on how many are there at a time. NaN where a term is not finite.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LogSumExp {
    max: f64,
    /// Relative to the exponential of `max`.
    sum: f64,
}

impl Default for LogSumExp {
    fn default() -> Self {
        Self { max: f64::NEG_INFINITY, sum: 0.0 }
    }
}

impl LogSumExp {
    /// Of a whole row.
    pub(crate) fn of(row: &[f32]) -> Self {
        let mut sum = Self::default();
        sum.add(row);
        sum
    }

    fn add(&mut self, row: &[f32]) {
        for block in row.chunks(HEAD_BLOCK) {
            // An infinity below the others would only add 0. Without its sign, the exponent of what
            // is not finite is all ones.
            let bits = block.iter().fold(0, |most: u32, v| most.max(v.to_bits() << 1));
            if bits >= 0xff00_0000 {
                self.sum = f64::NAN;
            }
            let max = f64::from(block.iter().copied().fold(f32::NEG_INFINITY, f32::max));
            let sum = block.iter().map(|v| (f64::from(*v) - max).exp()).sum::<f64>();
            let top = self.max.max(max);
            self.sum = self.sum * (self.max - top).exp() + sum * (max - top).exp();
            self.max = top;
        }
    }

    /// The negative log-probability of one of the terms. The largest is subtracted first: added to
    /// the logarithm it would swallow it where logits are large.
    pub(crate) fn loss(&self, term: f32) -> f64 {
        (self.max - f64::from(term)) + self.sum.ln()
    }
}

pub(crate) fn stop_if(cancel: &Cancel) -> Result<(), Error> {
    if cancel.is_cancelled() { Err(Error::Cancelled) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sum_is_the_same_in_bands() {
        let row: Vec<f32> =
            (0..3 * HEAD_BLOCK + 77).map(|i| ((i * 31) % 97) as f32 * 0.3 - 9.0).collect();
        let mut bands = LogSumExp::default();
        bands.add(&row[..2 * HEAD_BLOCK]);
        bands.add(&row[2 * HEAD_BLOCK..]);
        assert_eq!(bands.loss(0.5).to_bits(), LogSumExp::of(&row).loss(0.5).to_bits());
        let plain = row.iter().map(|v| f64::from(*v).exp()).sum::<f64>().ln();
        assert!((bands.loss(0.0) - plain).abs() < 1e-12 * plain);
    }

    #[test]
    fn large_logits_keep_their_loss_and_infinite_ones_have_none() {
        for value in [1e38, -1e38, 1e9, 0.0] {
            let loss = LogSumExp::of(&[value; 40]).loss(value);
            assert!((loss - 40_f64.ln()).abs() < 1e-12, "{value}: {loss}");
        }
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for at in [0, 39, HEAD_BLOCK + 3] {
                let mut row = vec![1.0; HEAD_BLOCK + 40];
                row[at] = bad;
                assert!(LogSumExp::of(&row).loss(1.0).is_nan(), "{bad} at {at}");
            }
        }
    }
}
