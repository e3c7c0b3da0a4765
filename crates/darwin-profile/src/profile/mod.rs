//! Phase 0: a model's profile (method 1.1, 1.2, 1.4).

mod assemble;
pub(crate) mod counters;
mod file;
pub(crate) mod loads;
pub(crate) mod probes;
pub(crate) mod routing;
pub(crate) mod statics;
pub(crate) mod streamed;
pub(crate) mod tap;
mod work;

use crate::profile::counters::{MARGIN_BINS, SampleRow, Samples, Setting};
use crate::profile::probes::Pooling;
use crate::profile::statics::Statics;
use crate::profile::tap::CounterTap;
use crate::profile::work::Work;
use crate::sample::{Sample, samples_fingerprint, samples_of};
use crate::{Error, Subject};
use darwin_checkpoint::TensorSource;
use darwin_core::files::{ModelRef, Origin, Profile};
use darwin_core::{ARITHMETIC, Cancel, Fingerprint, Progress, Split};
use darwin_engine::{Config, Room};
use darwin_eval::Encoded;

/// How to profile.
#[derive(Clone, Debug)]
pub struct ProfileOptions {
    /// Most tokens run at once.
    pub batch_tokens: usize,
    /// At most so many samples per domain, by hash.
    pub per_domain: Option<usize>,
    /// Which state stands for a probe's prompt.
    pub pooling: Pooling,
}

impl Default for ProfileOptions {
    fn default() -> Self {
        Self { batch_tokens: 4096, per_domain: None, pooling: Pooling::default() }
    }
}

/// Profiles a model on calibration items: one pass over their main formats (prompt and answer) and
/// over the probes. Samples are truncated at 512 tokens, ordered by hash, duplicates dropped.
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
    let work = Work::new(encoded, options)?;
    let layers = subject.model.config().num_hidden_layers;
    let statics = Statics::new(subject.source).finish(layers)?;
    let setting = Setting { statics, ..setting_without_statics(subject, encoded, options) };
    let samples = work.run(subject.model, &Room::default(), setting, progress, cancel)?;
    Ok((samples.profile(), samples))
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

/// As the profile has them, without reading the weights.
pub(crate) fn setting_without_statics(
    subject: &Subject<'_>,
    encoded: &Encoded,
    options: &ProfileOptions,
) -> Setting {
    let Subject { model, source, reference } = subject;
    setting(model.config(), *source, reference, encoded.split(), options)
}

/// The origin that a profile will have, without measuring anything.
#[must_use]
pub fn profile_origin(reference: &ModelRef, encoded: &Encoded, options: &ProfileOptions) -> Origin {
    let samples = samples_of(encoded, options.per_domain);
    let items = samples_fingerprint(encoded.split(), samples.iter().map(|s| s.id.as_str()));
    Origin::now(
        [("model", &reference.fingerprint)],
        [(encoded.split().name(), &items)],
        options.fingerprint(),
    )
}

impl ProfileOptions {
    /// What of the options decides the numbers; how many tokens run at once does not.
    fn fingerprint(&self) -> Fingerprint {
        let decisive = Self { batch_tokens: 0, ..self.clone() };
        Fingerprint::of("profile options", [("options", format!("{decisive:?}"))])
    }
}

/// What all samples share, without the statistics of weights.
pub(crate) fn setting(
    config: &Config,
    source: &dyn TensorSource,
    reference: &ModelRef,
    split: Split,
    options: &ProfileOptions,
) -> Setting {
    Setting {
        model: reference.clone(),
        split,
        arithmetic: ARITHMETIC,
        options: options.fingerprint(),
        engine: format!("darwin-engine {}, float32", env!("CARGO_PKG_VERSION")),
        dtype: main_dtype(source),
        num_experts: config.num_experts,
        num_experts_per_tok: config.num_experts_per_tok,
        num_heads: config.num_attention_heads,
        hidden_size: config.hidden_size,
        layer_kinds: config.layer_types.iter().map(|k| k.name().to_owned()).collect(),
        statics: vec![[0.0; 3]; config.num_hidden_layers],
    }
}

/// The dtype of most elements.
fn main_dtype(source: &dyn TensorSource) -> String {
    let mut elements = std::collections::BTreeMap::new();
    for tensor in source.manifest().tensors() {
        *elements.entry(tensor.dtype).or_insert(0) += tensor.elements();
    }
    let most = elements.into_iter().max_by_key(|(_, n)| *n);
    most.map(|(dtype, _)| dtype.torch_name().to_owned()).unwrap_or_default()
}
