//! The passes of methods that look at all inputs at once.

use super::collect::Collect;
use super::{Pass, Search, State};
use crate::compute::Scratch;
use crate::methods::formula::{Formula, Next};
use crate::plan::Operation;
use darwin_checkpoint::Error;
use std::ops::Range;

/// A formula with its inputs.
struct Bound<'a> {
    formula: &'a Formula,
    anchored: bool,
    /// How many inputs there are.
    inputs: usize,
    /// How many of them are not the base.
    models: usize,
}

impl Collect<'_> {
    fn bound(&self) -> Option<Bound<'_>> {
        match &self.work.line.operation {
            Operation::Formula { inputs, formula, anchored } => {
                let models = inputs.len() - usize::from(*anchored);
                Some(Bound { formula, anchored: *anchored, inputs: inputs.len(), models })
            }
            _ => None,
        }
    }

    /// How many sums a pass has.
    pub(super) fn width(&self, stage: u8) -> usize {
        self.bound().map_or(0, |bound| bound.formula.width(stage, bound.models))
    }

    /// Adds a tile to a formula's sums.
    pub(super) fn formula_sums(
        &self,
        stage: u8,
        numbers: &[f64],
        rows: &Range<usize>,
        scratch: &mut Scratch,
        sums: &mut [[f64; 3]],
    ) -> Result<(), Error> {
        let Some(bound) = self.bound() else { return Ok(()) };
        self.work.read_all(bound.inputs, rows, scratch)?;
        let tile = self.work.of(bound.anchored, bound.inputs, rows, scratch);
        let mut own = vec![0.0; sums.len()];
        bound.formula.add(stage, numbers, tile, &mut own);
        sums.iter_mut().zip(own).for_each(|(sum, own)| sum[0] += own);
        Ok(())
    }

    /// A tile's scores.
    pub(super) fn scores(
        &self,
        rows: &Range<usize>,
        scratch: &mut Scratch,
        out: &mut Vec<f32>,
    ) -> Result<(), Error> {
        let Some(bound) = self.bound() else { return Ok(()) };
        self.work.read_all(bound.inputs, rows, scratch)?;
        out.resize(rows.len() * self.work.cols, 0.0);
        let tile = self.work.of(bound.anchored, bound.inputs, rows, scratch);
        bound.formula.scores(tile, out);
        Ok(())
    }

    /// Ends a formula's pass.
    pub(super) fn formula_end(
        &self,
        state: &mut State,
        stage: u8,
        numbers: Vec<f64>,
    ) -> Option<Pass> {
        let bound = self.bound()?;
        let sums: Vec<f64> = (0..self.width(stage)).map(|i| state.total(i)[0]).collect();
        let next = bound.formula.after(stage, numbers, &sums, bound.models);
        self.follow(state, next)
    }

    /// The pass that a formula wants next; `None` after its results were noted.
    pub(super) fn follow(&self, state: &mut State, next: Next) -> Option<Pass> {
        match next {
            Next::Sums { stage, numbers } => Some(Pass::Formula { stage, numbers }),
            Next::Select(ranks) => {
                let search = |wanted| Search { of: 0, wanted, bits: 0 };
                Some(self.select(ranks.into_iter().map(search).collect()))
            }
            Next::Done(results) => {
                state.results.extend(results);
                None
            }
        }
    }
}
