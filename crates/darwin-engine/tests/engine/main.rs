//! The engine's tests against golden numbers, of taps and interventions, of bad input, and of
//! text.

mod errors;
mod fixture;
mod golden;
mod sharing;
mod taps;
mod text;
