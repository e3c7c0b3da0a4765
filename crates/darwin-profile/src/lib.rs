//! Phase 0 and 3: profile the parents, compare them, check the child (method 1, 2, 5).
//!
//! - [`profile`] runs a model once over calibration items and keeps counters *per sample*
//!   ([`Samples`]): loads and dead experts, entropies, importance, probes. [`Samples::merge`] adds
//!   shards exactly; [`Samples::profile`] computes `profile.json` from the counters alone.
//! - [`compare`] sets father against mother: weights, experts, routers, and the causal donor
//!   advantage of every layer in both directions with shared prefixes.
//! - [`check`] examines a child, whoever made it, against both parents.
//! - [`profile_summary`], [`comparison_summary`] and [`health_summary`] are tables for a terminal.
//!
//! A [`Subject`] is a loaded model with the source of its weights and its name. [`Unloaded`] ones are
//! profiled and compared layer by layer, within a budget: [`profile_streamed`] reads every weight
//! once, [`compare_streamed`] every layer of both parents once for all swaps.

mod broken;
mod check;
mod compare;
mod error;
mod estimate;
mod pass;
mod profile;
mod sample;
mod subject;
mod summary;

pub use broken::Broken;
pub use check::{CheckOptions, Family, Loaded, Weights, check, health_summary, preflight};
pub use compare::streamed::{ComparePlan, compare_streamed, forecast_compare, plan_compare};
pub use compare::{CompareOptions, compare, compare_origin};
pub use error::Error;
pub use profile::counters::Samples;
pub use profile::probes::Pooling;
pub use profile::statics::{literal_mri, tensor_statics};
pub use profile::streamed::{
    Forecast, ProfilePlan, Unloaded, forecast_profile, plan_profile, profile_streamed,
};
pub use profile::{ProfileOptions, profile, profile_origin};
pub use subject::{Subject, model_ref};
pub use summary::{comparison_summary, profile_summary};
