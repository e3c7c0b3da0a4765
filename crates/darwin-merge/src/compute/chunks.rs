//! From stored bytes to stored bytes, in chunks whose numbers stay in a core's first-level cache.

use super::{Place, Scratch, Work};
use crate::methods::Sparsifier;
use crate::numerics::Rounding;
use crate::plan::Operation;
use darwin_checkpoint::Error;
use std::ops::Range;

/// Elements of a chunk; a multiple of the lanes of every sum.
const CHUNK: usize = 1 << 11;

impl Work<'_> {
    /// Fills `out` with the bytes of [`Work::tile`]; false where only that can tell.
    pub(crate) fn bytes(
        &self,
        statistics: &[f64],
        rows: Range<usize>,
        out: &mut [u8],
        scratch: &mut Scratch,
    ) -> Result<bool, Error> {
        if self.line.rounding != Rounding::Once || self.needs_rows() {
            return Ok(false);
        }
        let dtype = self.line.info.dtype;
        let inputs: Vec<usize> = (0..self.plans.len()).collect();
        let row_bytes = self.cols * dtype.size();
        let mut finite = true;
        for (unit, part) in self.parts(&rows) {
            let at = (part.start - rows.start) * row_bytes..(part.end - rows.start) * row_bytes;
            let (numbers, out) = (self.of_unit(statistics, unit), &mut out[at]);
            if !self.stored(&inputs, &part, scratch)? {
                return Ok(false);
            }
            let mut chunks = out.chunks_mut(CHUNK * dtype.size());
            let fill = |place, values: &mut [Vec<f32>], scratch: &mut Scratch| {
                let Some((first, others)) = values.split_first_mut() else { return };
                self.combine(numbers, place, first, others, scratch);
                if let Some(out) = chunks.next() {
                    finite &= dtype.encode(first, out);
                }
            };
            if !self.chunks(&inputs, &part, scratch, fill) {
                return Ok(false);
            }
        }
        Ok(finite)
    }

    /// Whether a tile cannot be cut anywhere.
    fn needs_rows(&self) -> bool {
        matches!(
            self.line.operation,
            Operation::Formula { .. }
                | Operation::TaskVectors { sparsifier: Sparsifier::Ranked, .. }
        )
    }

    /// Shows `f` the values of some inputs, piece after piece in order: chunks of them, or all rows
    /// at once where that cannot be. Pieces but the last are multiples of eight.
    pub(crate) fn pieces(
        &self,
        inputs: &[usize],
        rows: &Range<usize>,
        scratch: &mut Scratch,
        mut f: impl FnMut(Place, &mut [Vec<f32>], &mut Scratch),
    ) -> Result<(), Error> {
        // What is not finite is found after `f` has seen it; then there is an error below.
        if !self.needs_rows()
            && self.stored(inputs, rows, scratch)?
            && self.chunks(inputs, rows, scratch, &mut f)
        {
            return Ok(());
        }
        let mut values = std::mem::take(&mut scratch.vectors);
        values.resize_with(inputs.len().max(values.len()), Vec::new);
        for (n, values) in inputs.iter().zip(&mut values) {
            self.read_into(*n, rows, values)?;
        }
        f(self.place(rows), &mut values[..inputs.len()], scratch);
        scratch.vectors = values;
        Ok(())
    }

    /// Reads the stored bytes of some inputs; false where one has none of its own.
    fn stored(
        &self,
        inputs: &[usize],
        rows: &Range<usize>,
        scratch: &mut Scratch,
    ) -> Result<bool, Error> {
        let stored = &mut scratch.stored;
        stored.resize_with(stored.len().max(inputs.len()), Vec::new);
        let mut whole = true;
        for (bytes, n) in stored.iter_mut().zip(inputs) {
            let (source, plan) = &self.plans[*n];
            bytes.resize(rows.len() * self.cols * plan.dtype.size(), 0);
            let source = &self.sources[*source].tensors;
            whole = whole && source.read_bytes(plan, rows.clone(), bytes)?;
        }
        Ok(whole)
    }

    /// Shows `f` the values of stored inputs, a chunk after the other, in order; false where one is
    /// not finite.
    fn chunks(
        &self,
        inputs: &[usize],
        rows: &Range<usize>,
        scratch: &mut Scratch,
        mut f: impl FnMut(Place, &mut [Vec<f32>], &mut Scratch),
    ) -> bool {
        let elements = rows.len() * self.cols;
        let stored = std::mem::take(&mut scratch.stored);
        let mut values = std::mem::take(&mut scratch.chunk);
        values.resize_with(values.len().max(inputs.len()), Vec::new);
        let mut place = self.place(rows);
        let mut finite = true;
        for start in (0..elements).step_by(CHUNK) {
            let chunk = start..elements.min(start + CHUNK);
            for (i, n) in inputs.iter().enumerate() {
                let dtype = self.plans[*n].1.dtype;
                values[i].resize(chunk.len(), 0.0);
                let at = chunk.start * dtype.size()..chunk.end * dtype.size();
                finite &= dtype.decode(&stored[i][at], &mut values[i]);
                if let Some(load) = self.line.load.filter(|load| *load != dtype) {
                    load.round(&mut values[i]);
                }
            }
            if !finite {
                break;
            }
            f(place, &mut values[..inputs.len()], scratch);
            place = place.after(chunk.len());
        }
        (scratch.stored, scratch.chunk) = (stored, values);
        finite
    }
}
