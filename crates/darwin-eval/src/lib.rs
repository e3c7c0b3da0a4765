//! Items, prompts, scorers and evaluators.
//!
//! An [`ItemSet`] is one split's items; [`Encoded`] is the same, tokenised once. An [`Evaluator`]
//! takes a batch of candidates (any tensor sources) and returns results item by item: [`Likelihood`]
//! is the cheap proxy, [`ExactMatch`] the real benchmark, both a [`Scorer`] of loaded models. [`by_domain`] and
//! [`model_scores`] aggregate; [`score_items`] reads the lines of `darwin score`.
//!
//! Every reasoning item exists in two prompt formats, direct and opened with `<think>`; an item's
//! *main* format is think where it has it, and that one is the domain's score (method 6, "format is
//! not skill").

mod aggregate;
mod encoded;
mod error;
mod evaluator;
mod exact_match;
mod item;
mod item_line;
mod likelihood;
pub mod score_items;

pub use aggregate::{Wants, by_domain, correct, estimate, model_scores};
pub use encoded::{Encoded, EncodedItem, Prompted};
pub use error::Error;
pub use evaluator::{Candidate, Evaluation, Evaluator, ItemResult, Kind, Scorer};
pub use exact_match::ExactMatch;
pub use item::{Format, Item, ItemSet};
pub use likelihood::Likelihood;
