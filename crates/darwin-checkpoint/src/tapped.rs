//! A tensor source that somebody looks at while it is read.

use crate::{Error, Manifest, TensorId, TensorPlan, TensorSource};
use serde_json::Value;
use std::ops::Range;

/// Another source, whose every tile is shown to a closure on its way: the plan, the rows, and the
/// values or the error that reading them brought. Raw bytes pass unseen. `read_bytes` is not
/// forwarded: its rows would pass the closure by.
pub struct Tapped<'a, F> {
    source: &'a dyn TensorSource,
    tap: F,
}

impl<'a, F> Tapped<'a, F>
where
    F: Fn(&TensorPlan, Range<usize>, Result<&[f32], &Error>) + Send + Sync,
{
    /// Taps a source.
    pub fn new(source: &'a dyn TensorSource, tap: F) -> Self {
        Self { source, tap }
    }
}

impl<F> TensorSource for Tapped<'_, F>
where
    F: Fn(&TensorPlan, Range<usize>, Result<&[f32], &Error>) + Send + Sync,
{
    fn name(&self) -> &str {
        self.source.name()
    }

    fn manifest(&self) -> &Manifest {
        self.source.manifest()
    }

    fn config(&self) -> &Value {
        self.source.config()
    }

    fn prepare(&self, id: TensorId) -> Result<TensorPlan, Error> {
        self.source.prepare(id)
    }

    fn read_tile(
        &self,
        plan: &TensorPlan,
        rows: Range<usize>,
        out: &mut [f32],
    ) -> Result<(), Error> {
        let read = self.source.read_tile(plan, rows.clone(), out);
        (self.tap)(plan, rows, read.as_ref().map(|()| &*out));
        read
    }

    fn read_raw(&self, id: TensorId, rows: Range<usize>, out: &mut Vec<u8>) -> Result<bool, Error> {
        self.source.read_raw(id, rows, out)
    }
}
