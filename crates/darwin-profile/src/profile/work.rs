//! Everything that a profile runs, in one sweep over the layers: samples and probes.

use super::ProfileOptions;
use super::counters::{MARGIN_BINS, Samples, Setting};
use super::probes::{self, Pooling, ProbeTap, Prompt};
use super::statics::counting_bytes;
use super::tap::CounterTap;
use crate::Error;
use crate::broken::Broken;
use crate::pass::{Answers, Meter};
use crate::sample::{Sample, batch_of, batches, samples_of};
use darwin_core::{Cancel, Progress};
use darwin_engine::{Batch, Config, LayerSource, Record, Room, Site, Sweep, Tap, Workload};
use darwin_eval::Encoded;
use std::collections::BTreeSet;

/// Tokens for each thread that are measured with.
const MEASURED_TOKENS: usize = 512;

/// Samples and probes.
pub(crate) struct Work {
    samples: Vec<Sample>,
    prompts: Vec<Prompt>,
    pooling: Pooling,
    pub(crate) batch_tokens: usize,
}

impl Work {
    pub(crate) fn new(encoded: &Encoded, options: &ProfileOptions) -> Result<Self, Error> {
        let samples = samples_of(encoded, options.per_domain);
        if samples.is_empty() {
            return Err(Error::NoSamples);
        }
        let prompts = probes::prompts(&samples);
        let (pooling, batch_tokens) = (options.pooling, options.batch_tokens);
        Ok(Self { samples, prompts, pooling, batch_tokens })
    }

    fn sequences(&self) -> impl Iterator<Item = &[u32]> {
        let prompts = self.prompts.iter().map(|(_, _, ids)| ids.as_slice());
        self.samples.iter().map(|s| s.ids.as_slice()).chain(prompts)
    }

    /// What a sequence is called, counted over samples and probes.
    fn called(&self, sequence: usize) -> String {
        match sequence.checked_sub(self.samples.len()) {
            None => format!("sample {}", self.samples[sequence].id),
            Some(prompt) => format!("prompt {} of probe {}", prompt + 1, self.prompts[prompt].0),
        }
    }

    /// What goes through the model, beside `held` bytes of the process.
    pub(crate) fn workload(&self, config: &Config, held: u64) -> Workload {
        let tokens: usize = self.sequences().map(<[u32]>::len).sum();
        let distinct: BTreeSet<u32> = self.sequences().flatten().copied().collect();
        let (layers, batches) = (config.num_hidden_layers, tokens / self.batch_tokens + 2);
        let row = 20 * config.num_experts + 8 * config.num_attention_heads + 128;
        let counters = layers * (self.samples.len() * row + batches * 8 * MARGIN_BINS);
        let probes = self.prompts.len() * layers * 8 * config.hidden_size;
        Workload {
            tokens: tokens as u64,
            distinct: distinct.len() as u64,
            longest: self.sequences().map(<[u32]>::len).max().unwrap_or(0),
            batch_tokens: self.batch_tokens,
            states: 1,
            models: 1,
            sweeps: 1,
            kept: held + (counters + probes + 24 * tokens + counting_bytes()) as u64,
        }
    }

    /// Positions whose logits are needed.
    pub(crate) fn positions(&self) -> u64 {
        self.samples.iter().map(|s| s.answer().len() as u64).sum()
    }

    /// A batch to measure with: enough that every thread has its share, and not more than so many
    /// tokens.
    pub(crate) fn sample(&self, most: usize) -> Batch {
        let tokens = most.min(MEASURED_TOKENS * rayon::current_num_threads());
        let first = batches(&self.samples, tokens).into_iter().next().unwrap_or_default();
        batch_of(first)
    }

    /// Runs everything, one sweep over the layers.
    pub(crate) fn run(
        &self,
        model: &dyn LayerSource,
        room: &Room,
        setting: Setting,
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Result<Samples, Error> {
        let config = model.config();
        let samples = batches(&self.samples, self.batch_tokens);
        let prompts = probes::batches(&self.prompts, self.batch_tokens);
        let all: Vec<Batch> = samples
            .iter()
            .map(|batch| batch_of(batch))
            .chain(prompts.iter().map(|batch| probes::batch_of(batch)))
            .collect();
        let tokens: usize = all.iter().map(Batch::tokens).sum();
        let layers = config.num_hidden_layers;
        let phase = format!("profile {}", setting.model.name);
        progress.start(&phase, (tokens * layers) as u64, "layer tokens");
        let mut taps: Vec<Watch> = all
            .iter()
            .enumerate()
            .map(|(i, batch)| match i < samples.len() {
                true => Watch::Samples(CounterTap::new(config, batch)),
                false => {
                    let tap = ProbeTap::new(batch, layers, config.hidden_size, self.pooling);
                    Watch::Probes(tap)
                }
            })
            .collect();
        let mut sweep = Sweep::begin(model, &all, room)?;
        let name = setting.model.name.clone();
        sweep
            .run(&mut taps, progress, cancel)
            .map_err(|error| Error::from(error).of_model(&name, |i| self.called(i)))?;
        let mut answers: Vec<Answers> = samples.iter().map(|batch| Answers::new(batch)).collect();
        let positions: Vec<_> = answers.iter().map(|a| a.positions.clone()).collect();
        sweep.logits(&positions, &mut |found| answers[found.batch].add(found))?;
        let mut found = Samples::empty(setting);
        for (i, tap) in taps.into_iter().enumerate() {
            match tap {
                Watch::Samples(tap) => found.add(samples[i], tap, &answers[i].nll(samples[i])),
                Watch::Probes(tap) => found.probes.extend(tap.rows(prompts[i - samples.len()])),
            }
        }
        let broken = found.rows.iter().find_map(Broken::of_row);
        if let Some(broken) = broken.or_else(|| probes::broken(&found.probes, config.hidden_size)) {
            return Err(Error::broken(&name, broken));
        }
        found.probes = probes::kept(found.probes);
        let mut meter = Meter::default();
        meter.add(tokens, layers);
        found.forward_tokens = meter.forward_tokens(layers);
        progress.finish();
        Ok(found)
    }
}

/// The tap of a batch.
enum Watch {
    Samples(CounterTap),
    Probes(ProbeTap),
}

impl Tap for Watch {
    fn wants(&self, site: Site, layer: usize) -> bool {
        match self {
            Self::Samples(tap) => tap.wants(site, layer),
            Self::Probes(tap) => tap.wants(site, layer),
        }
    }

    fn record(&mut self, record: &Record<'_>) {
        match self {
            Self::Samples(tap) => tap.record(record),
            Self::Probes(tap) => tap.record(record),
        }
    }
}
