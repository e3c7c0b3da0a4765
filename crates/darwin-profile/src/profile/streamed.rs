//! Profiles of models that are not loaded: their layers are read one after another, once.

use super::counters::{Samples, Setting};
use super::statics::Statics;
use super::work::Work;
use super::{ProfileOptions, setting};
use crate::Error;
use darwin_checkpoint::TensorSource;
use darwin_core::files::{ModelRef, Profile};
use darwin_core::{Cancel, Progress};
use darwin_engine::{Budget, LayerSource, Plan, Stream, Workload};
use darwin_eval::Encoded;

/// A model that lies in its source, and its name in files.
#[derive(Clone, Copy)]
pub struct Unloaded<'a> {
    /// Where its weights come from.
    pub source: &'a dyn TensorSource,
    /// How files name it.
    pub reference: &'a ModelRef,
}

/// What a profile would take.
#[derive(Clone, Debug)]
pub struct ProfilePlan {
    /// What goes through the model.
    pub work: Workload,
    /// How.
    pub plan: Plan,
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
    let work = Work::new(encoded, options)?;
    let stream = Stream::open(subject.source)?;
    let work = work.workload(stream.config(), held);
    Ok(ProfilePlan { plan: stream.plan(&work, budget)?, work })
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
        let setting = setting(config, subject.source, subject.reference, encoded.split());
        work.run(&stream, &plan.room, setting, progress, cancel)?
    };
    let layers = samples.setting.layer_kinds.len();
    samples.setting = Setting { statics: statics.finish(layers)?, ..samples.setting };
    Ok((samples.profile(), samples))
}
