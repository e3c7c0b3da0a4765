//! Task vectors, thinned, and what is known of them.

use super::{Place, Scratch, Work};
use crate::masks::{Bits, Stream, WORD, uniforms};
use crate::methods::kernels::{self, LANES};
use crate::methods::rank::chances;
use crate::methods::sparsify::{Cut, Thin};
use crate::plan::TaskVector;
use crate::twister::Cursor;
use darwin_core::keyed::Key;

impl Work<'_> {
    /// One task vector, thinned, times `factor`; `out` holds the model's values. `cut` is the
    /// edges between which magnitudes stay.
    #[expect(clippy::too_many_arguments, reason = "one row of the table of sparsifiers")]
    pub(crate) fn thinned(
        &self,
        i: usize,
        vector: &TaskVector,
        cut: Cut,
        factor: f32,
        place: Place,
        base: &[f32],
        out: &mut [f32],
        scratch: &mut Scratch,
    ) {
        match self.thin(vector) {
            Thin::All => kernels::delta(out, base, factor),
            Thin::Nothing => out.fill(0.0),
            Thin::Random => {
                if let Some((_, mask)) = self.mask(i) {
                    scratch.words.resize(out.len() / WORD, 0);
                    if mask.get(place.element, &mut scratch.words) {
                        return kernels::masked_delta(out, base, &scratch.words, factor);
                    }
                }
                let numbers = self.draw(i, vector, place, out.len(), scratch);
                let density = vector.density as f32;
                kernels::random_delta(out, base, numbers, density, factor);
            }
            Thin::Magnitude => {
                let (threshold, ties) = place.edge(cut[0], out.len());
                kernels::trimmed_delta(out, base, threshold, ties, factor);
            }
            Thin::Outliers => {
                kernels::delta(out, base, 1.0);
                place.keep_band(cut, out);
                kernels::scale(out, factor);
            }
            Thin::Ranked => {
                let mut chance = std::mem::take(&mut scratch.chances);
                self.chances(vector, base, out, &mut scratch.order, &mut chance);
                let numbers = self.draw(i, vector, place, out.len(), scratch);
                kernels::ranked_delta(out, base, numbers, &chance, factor);
                scratch.chances = chance;
            }
        }
    }

    /// Adds a piece to the L1 norms of vector `i` before and after thinning; `x` holds the model's
    /// values, and is lost.
    #[expect(clippy::too_many_arguments, reason = "one row of the table of sparsifiers")]
    pub(crate) fn norms(
        &self,
        i: usize,
        vector: &TaskVector,
        cut: Cut,
        place: Place,
        base: &[f32],
        x: &mut [f32],
        sums: &mut [[f64; LANES]; 2],
        scratch: &mut Scratch,
    ) {
        if let (Thin::Random, Some((key, mask))) = (self.thin(vector), self.mask(i)) {
            scratch.words.resize(x.len() / WORD, 0);
            key.below(place.element as u64, vector.density as f32, &mut scratch.words);
            mask.set(place.element, &scratch.words);
            return kernels::masked_norms(x, base, &scratch.words, sums);
        }
        let [before, after] = sums;
        kernels::l1_delta(x, base, before);
        self.thinned(i, vector, cut, 1.0, place, base, x, scratch);
        kernels::l1(x, after);
    }

    /// A vector's key and what is kept of its mask.
    fn mask(&self, i: usize) -> Option<(&Key, &Bits)> {
        self.streams[i].mask().filter(|_| self.masks.is_none())
    }

    /// The numbers of a vector's elements.
    pub(super) fn draw<'s>(
        &'s self,
        i: usize,
        vector: &TaskVector,
        place: Place,
        elements: usize,
        scratch: &'s mut Scratch,
    ) -> &'s [f32] {
        if let (None, Stream::Drawn(numbers)) = (self.masks, &self.streams[i]) {
            return &numbers[place.element..place.element + elements];
        }
        let Scratch { uniforms: out, cursors, .. } = scratch;
        out.resize(elements, 0.0);
        cursors.resize_with(self.streams.len(), Cursor::default);
        let model = self.sources[vector.input.source].model.as_str();
        let handed = self.masks.map(|m| (m, self.line.info.name.as_str(), model));
        uniforms(handed, &self.streams[i], &mut cursors[i], place.element as u64, out);
        out
    }

    /// Each element's chance of staying, row by row; `x` holds the model's values.
    fn chances(
        &self,
        vector: &TaskVector,
        base: &[f32],
        x: &[f32],
        order: &mut Vec<u32>,
        out: &mut Vec<f32>,
    ) {
        out.resize(x.len(), 0.0);
        let mut delta = vec![0.0; self.cols];
        let rows = x.chunks_exact(self.cols).zip(base.chunks_exact(self.cols));
        for ((x, base), out) in rows.zip(out.chunks_exact_mut(self.cols)) {
            delta.copy_from_slice(x);
            kernels::delta(&mut delta, base, 1.0);
            chances(&delta, vector.density, vector.margin, order, out);
        }
    }
}
