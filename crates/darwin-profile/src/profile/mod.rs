//! Phase 0: a model's profile (method 1.1, 1.2, 1.4).

mod assemble;
pub(crate) mod counters;
mod file;
pub(crate) mod loads;
pub(crate) mod probes;
pub(crate) mod routing;
pub(crate) mod statics;
pub(crate) mod tap;

use crate::pass::{Meter, answer_nll, full_pass, stop_if};
use crate::profile::counters::{MARGIN_BINS, SampleRow, Samples, Setting};
use crate::profile::probes::{Pooling, ProbeSet};
use crate::profile::tap::CounterTap;
use crate::sample::{Sample, batch_of, batches, samples_of};
use crate::{Error, Subject};
use darwin_core::files::Profile;
use darwin_core::{Cancel, Progress};
use darwin_engine::Model;
use darwin_eval::Encoded;

/// How to profile.
#[derive(Clone, Debug)]
pub struct ProfileOptions {
    /// Tokens run at once.
    pub batch_tokens: usize,
    /// At most so many samples per domain, by hash.
    pub per_domain: Option<usize>,
    /// Probe sets beside the domains' own questions.
    pub probes: Vec<ProbeSet>,
    /// Which state stands for a probe's prompt.
    pub pooling: Pooling,
}

impl Default for ProfileOptions {
    fn default() -> Self {
        Self {
            batch_tokens: 4096,
            per_domain: None,
            probes: Vec::new(),
            pooling: Pooling::default(),
        }
    }
}

/// Profiles a model on calibration items: one pass over their main formats (prompt and answer) and
/// one over the probes. Samples are truncated at 512 tokens, ordered by hash, duplicates dropped.
///
/// # Errors
/// [`Error::NoSamples`]; whatever engine and weights bring; [`Error::Cancelled`].
pub fn profile(
    subject: &Subject<'_>,
    encoded: &Encoded,
    options: &ProfileOptions,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<(Profile, Samples), Error> {
    let chosen = samples_of(encoded, options.per_domain);
    if chosen.is_empty() {
        return Err(Error::NoSamples);
    }
    let total: usize = chosen.iter().map(|s| s.ids.len()).sum();
    progress.start(&format!("profile {}", subject.reference.name), total as u64, "tokens");
    let mut samples = Samples::empty(setting(subject, encoded)?);
    let mut meter = Meter::default();
    for batch in batches(&chosen, options.batch_tokens) {
        stop_if(cancel)?;
        samples.add_batch(subject.model, batch, &mut meter)?;
        progress.advance(batch.iter().map(|s| s.ids.len() as u64).sum());
    }
    samples.probes = probes::run(
        subject.model,
        probes::prompts(&chosen, &options.probes),
        options.pooling,
        options.batch_tokens,
        &mut meter,
        cancel,
    )?;
    samples.forward_tokens = meter.forward_tokens(subject.model.config().num_hidden_layers);
    progress.finish();
    Ok((samples.profile(), samples))
}

fn setting(subject: &Subject<'_>, encoded: &Encoded) -> Result<Setting, Error> {
    let config = subject.model.config();
    Ok(Setting {
        statics: statics::statics(subject.source, config.num_hidden_layers)?,
        ..setting_without_statics(subject, encoded)
    })
}

/// As [`setting`], without reading the weights.
pub(crate) fn setting_without_statics(subject: &Subject<'_>, encoded: &Encoded) -> Setting {
    let config = subject.model.config();
    Setting {
        model: subject.reference.clone(),
        split: encoded.split(),
        engine: format!("darwin-engine {}, float32", env!("CARGO_PKG_VERSION")),
        dtype: main_dtype(subject),
        num_experts: config.num_experts,
        num_experts_per_tok: config.num_experts_per_tok,
        num_heads: config.num_attention_heads,
        hidden_size: config.hidden_size,
        layer_kinds: config.layer_types.iter().map(|k| k.name().to_owned()).collect(),
        statics: vec![[0.0; 3]; config.num_hidden_layers],
    }
}

/// The dtype of most elements.
fn main_dtype(subject: &Subject<'_>) -> String {
    let mut elements = std::collections::BTreeMap::new();
    for tensor in subject.source.manifest().tensors() {
        *elements.entry(tensor.dtype).or_insert(0) += tensor.elements();
    }
    let most = elements.into_iter().max_by_key(|(_, n)| *n);
    most.map(|(dtype, _)| dtype.torch_name().to_owned()).unwrap_or_default()
}

impl Samples {
    pub(crate) fn empty(setting: Setting) -> Self {
        let layers = setting.layer_kinds.len();
        Self {
            setting,
            rows: Vec::new(),
            margins: vec![vec![0; MARGIN_BINS]; layers],
            probes: Vec::new(),
            forward_tokens: 0,
        }
    }

    /// Runs a batch and adds its counters.
    fn add_batch(
        &mut self,
        model: &Model,
        batch: &[Sample],
        meter: &mut Meter,
    ) -> Result<(), Error> {
        let mut tap = CounterTap::new(model.config(), &batch_of(batch));
        let state = full_pass(model, batch, &mut tap, meter)?;
        let nll = answer_nll(model, &state, batch);
        self.add(batch, tap, &nll);
        Ok(())
    }

    /// Adds the counters of a batch that was run.
    pub(crate) fn add(&mut self, batch: &[Sample], tap: CounterTap, nll: &[f64]) {
        for ((sample, layers), nll) in batch.iter().zip(tap.rows).zip(nll) {
            self.rows.push(SampleRow {
                id: sample.id.clone(),
                domain: sample.domain.clone(),
                tokens: sample.ids.len() as u32,
                nll: *nll,
                layers,
            });
        }
        for (mine, theirs) in self.margins.iter_mut().zip(tap.margins) {
            mine.iter_mut().zip(theirs).for_each(|(a, b)| *a += b);
        }
    }
}
