//! Profiles of models that are not loaded: their layers are read one after another, once.

use super::counters::{Samples, Setting};
use super::statics::Statics;
use super::tap::CounterTap;
use super::work::Work;
use super::{ProfileOptions, setting};
use crate::Error;
use darwin_checkpoint::TensorSource;
use darwin_core::files::{ModelRef, Profile};
use darwin_core::{Cancel, Progress};
use darwin_engine::{Budget, Footprint, LayerSource, Plan, Stream, Workload};
use darwin_eval::Encoded;

/// A model that lies in its source, and its name in files.
#[derive(Clone, Copy)]
pub struct Unloaded<'a> {
    /// Where its weights come from.
    pub source: &'a dyn TensorSource,
    /// How files name it.
    pub reference: &'a ModelRef,
}

/// What a profile takes.
#[derive(Clone, Debug)]
pub struct ProfilePlan {
    /// The model.
    pub parts: Footprint,
    /// What goes through it.
    pub work: Workload,
    /// How.
    pub plan: Plan,
    /// Operations: two for each weight that a token meets.
    pub operations: f64,
    /// Positions whose logits are computed.
    pub positions: u64,
}

/// How long a profile takes, in seconds.
#[derive(Clone, Copy, Debug)]
pub struct Forecast {
    /// Reading weights.
    pub reading: f64,
    /// Running the layers.
    pub running: f64,
    /// Logits.
    pub logits: f64,
    /// Bytes of weights that are read in a second.
    pub read_rate: f64,
    /// Operations in a second.
    pub operation_rate: f64,
}

impl Forecast {
    /// All of it.
    #[must_use]
    pub fn seconds(&self) -> f64 {
        self.reading + self.running + self.logits
    }
}

/// How [`profile_streamed`] would go about it, from headers alone. `held` are the bytes that the
/// process has in memory as it is.
///
/// # Errors
/// [`Error::NoSamples`]; what the engine says of the model; a budget that is too small.
pub fn plan_profile(
    subject: &Unloaded<'_>,
    encoded: &Encoded,
    options: &ProfileOptions,
    budget: &Budget,
    held: u64,
) -> Result<ProfilePlan, Error> {
    let all = Work::new(encoded, options)?;
    let stream = Stream::open(subject.source)?;
    let config = stream.config();
    let work = all.workload(config, held);
    let (positions, head) = (all.positions(), config.vocab_size * config.hidden_size);
    let layers = config.active_weights() - head;
    let operations = 2.0 * (work.tokens as f64 * layers as f64 + positions as f64 * head as f64);
    let plan = stream.plan(&work, budget)?;
    Ok(ProfilePlan { parts: stream.footprint(), work, plan, operations, positions })
}

/// How long [`profile_streamed`] will take, from a layer of each kind that is read, and run on some
/// of the samples.
///
/// # Errors
/// As [`profile_streamed`].
pub fn forecast_profile(
    subject: &Unloaded<'_>,
    encoded: &Encoded,
    options: &ProfileOptions,
    plan: &ProfilePlan,
) -> Result<Forecast, Error> {
    let work = Work::new(encoded, options)?;
    let statics = Statics::new(subject.source);
    let watched = statics.source();
    let stream = Stream::open(&watched)?;
    let speed = stream.measure(&work.sample(plan.plan.batch_tokens), CounterTap::new)?;
    Ok(Forecast {
        reading: speed.reading(plan.plan.read),
        running: speed.running(plan.work.tokens),
        logits: speed.logits(stream.config(), plan.positions),
        read_rate: speed.read,
        operation_rate: speed.operations,
    })
}

/// [`profile`](crate::profile) of a model that is not loaded: the same bits, whatever the plan.
/// Every weight is read once.
///
/// # Errors
/// As [`profile`](crate::profile).
pub fn profile_streamed(
    subject: &Unloaded<'_>,
    encoded: &Encoded,
    options: &ProfileOptions,
    plan: &Plan,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<(Profile, Samples), Error> {
    let mut work = Work::new(encoded, options)?;
    work.batch_tokens = plan.batch_tokens;
    let statics = Statics::new(subject.source);
    let mut samples = {
        let watched = statics.source();
        let stream = Stream::open(&watched)?;
        let config = stream.config();
        let (source, reference) = (subject.source, subject.reference);
        let setting = setting(config, source, reference, encoded.split(), options);
        work.run(&stream, &plan.room, setting, progress, cancel)?
    };
    let layers = samples.setting.layer_kinds.len();
    samples.setting = Setting { statics: statics.finish(layers)?, ..samples.setting };
    Ok((samples.profile(), samples))
}
