//! Reading of quantised weights.

use super::Checkpoint;
use crate::Error;
use crate::mxfp4::Packed;
use crate::quantised::Scale;
use std::ops::Range;
use std::sync::{Arc, PoisonError};

/// Unpacked experts that are kept: one for each of a few threads.
const KEPT_EXPERTS: usize = 4;

impl Checkpoint {
    /// Multiplies rows of a stored tensor by their scales.
    pub(super) fn unscale(
        &self,
        scale: &Scale,
        rows: &Range<usize>,
        cols: usize,
        values: &mut [f32],
    ) -> Result<(), Error> {
        let span = scale.span(rows);
        let mut bytes = vec![0; (span.end - span.start) as usize];
        self.read_at(scale.shard, scale.bytes.start + span.start, &mut bytes)?;
        scale.apply(rows, cols, &bytes, values);
        Ok(())
    }

    /// Rows of packed experts. An expert lies the other way round in the file, so it is unpacked
    /// whole, and kept for the tiles that follow.
    pub(super) fn unpack(
        &self,
        stored: usize,
        packed: &Packed,
        rows: &Range<usize>,
        values: &mut [f32],
    ) -> Result<(), Error> {
        let cols = values.len() / rows.len().max(1);
        let mut row = rows.start;
        while row < rows.end {
            let (expert, first) = (row / packed.rows(), row % packed.rows());
            let count = (packed.rows() - first).min(rows.end - row);
            let bits = self.unpacked_expert(stored, packed, expert)?;
            let out = &mut values[(row - rows.start) * cols..][..count * cols];
            for (out, bits) in out.iter_mut().zip(&bits[first * cols..]) {
                *out = f32::from_bits(u32::from(*bits) << 16);
            }
            row += count;
        }
        Ok(())
    }

    fn unpacked_expert(
        &self,
        stored: usize,
        packed: &Packed,
        expert: usize,
    ) -> Result<Arc<[u16]>, Error> {
        let lock = || self.unpacked.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, found)) = lock().iter().find(|(key, _)| *key == (stored, expert)) {
            return Ok(Arc::clone(found));
        }
        let [mut blocks, mut scales] = packed.bytes().map(|length| vec![0; length]);
        self.read_stored(stored, (expert * blocks.len()) as u64, &mut blocks)?;
        let at = packed.scales.start + (expert * scales.len()) as u64;
        self.read_at(packed.shard, at, &mut scales)?;
        let bits: Arc<[u16]> = packed.unpack(&blocks, &scales).into();
        let mut kept = lock();
        if kept.len() >= KEPT_EXPERTS {
            kept.remove(0);
        }
        kept.push(((stored, expert), Arc::clone(&bits)));
        Ok(bits)
    }
}
