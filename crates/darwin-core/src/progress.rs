//! Progress and cancellation as values that libraries are handed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Where long work tells how far it is. Libraries call it; only the binary prints.
pub trait Progress: Send + Sync {
    /// A named phase of `total` steps in `unit` begins (0 = unknown).
    fn start(&self, phase: &str, total: u64, unit: &str);
    /// `n` more steps of the current phase are done.
    fn advance(&self, n: u64);
    /// A short word beside the bar (best value so far).
    fn note(&self, text: &str);
    /// The current phase ends.
    fn finish(&self);
}

/// Progress that goes nowhere.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoProgress;

impl Progress for NoProgress {
    fn start(&self, _: &str, _: u64, _: &str) {}
    fn advance(&self, _: u64) {}
    fn note(&self, _: &str) {}
    fn finish(&self) {}
}

/// A flag that asks long work to stop at its next safe point.
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Asks for the stop.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether a stop was asked for.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
