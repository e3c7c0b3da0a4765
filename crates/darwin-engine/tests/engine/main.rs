//! The engine's tests against golden numbers, of taps and interventions, of bad input, and of
//! text.

#![expect(clippy::unwrap_used, reason = "tests may fail and say so")]

mod candidates;
mod derivative;
mod errors;
mod far;
mod finite;
mod fixture;
mod generation;
mod golden;
mod hostile_text;
mod mtp;
mod padded;
mod prefixes;
mod sharing;
mod streamed;
mod taps;
mod templates;
mod text;
