//! Tiles of one output tensor from tiles of its inputs.

mod stepwise;

use crate::masks::{Chance, MaskSource, Stream, uniforms};
use crate::methods::formula::Tile;
use crate::methods::kernels;
use crate::methods::rank::chances;
use crate::methods::sparsify::{ABOVE_ALL, BELOW_ALL, Cut, Edge, Thin, thin};
use crate::methods::task_vectors::{MixScratch, Mixing, mix};
use crate::numerics::Rounding;
use crate::plan::{Input, Line, Operation, TaskVector};
use crate::sources::Source;
use crate::twister::Cursor;
use darwin_checkpoint::{Error, TensorPlan, Unit};
use std::ops::Range;

/// Elements that are worked on at once: small enough for the second-level cache.
const TILE: usize = 1 << 15;

/// Numbers that a vector has in the statistics of a unit: the two edges of what stays (a magnitude
/// and a flat index each), the factor.
pub(crate) const PER_VECTOR: usize = 5;

/// The cut and the factor of vector `i`, from the statistics of a unit.
fn thinning(numbers: &[f64], i: usize) -> (Cut, f64) {
    match numbers.get(i * PER_VECTOR..(i + 1) * PER_VECTOR) {
        Some(&[lower, last, upper, last_outlier, factor]) => {
            ([(lower as u32, last as u64), (upper as u32, last_outlier as u64)], factor)
        }
        _ => ([BELOW_ALL, ABOVE_ALL], 1.0),
    }
}

/// One output tensor bound to its sources: what tiles and statistics are computed from.
pub(crate) struct Work<'a> {
    pub(crate) line: &'a Line,
    pub(crate) sources: &'a [Source],
    pub(crate) masks: Option<&'a dyn MaskSource>,
    pub(crate) cols: usize,
    pub(crate) rows: usize,
    pub(crate) rows_per_unit: usize,
    plans: Vec<(usize, TensorPlan)>,
    streams: Vec<Stream<'a>>,
}

/// Working memory of a call, reused from tile to tile.
#[derive(Default)]
pub(crate) struct Scratch {
    pub(crate) base: Vec<f32>,
    pub(crate) vectors: Vec<Vec<f32>>,
    pub(crate) values: Vec<f32>,
    uniforms: Vec<f32>,
    chances: Vec<f32>,
    order: Vec<u32>,
    cursors: Vec<Cursor>,
    mix: MixScratch,
}

impl<'a> Work<'a> {
    pub(crate) fn new(
        line: &'a Line,
        sources: &'a [Source],
        masks: Option<&'a dyn MaskSource>,
        chance: &'a Chance,
    ) -> Result<Self, Error> {
        let info = &line.info;
        let rows_per_unit = match (line.unit, info.experts()) {
            (Unit::Expert, Some(experts)) if experts > 0 => info.rows() / experts,
            _ => info.rows(),
        };
        let mut plans = Vec::new();
        for input in line.operation.inputs() {
            plans.push((input.source, sources[input.source].tensors.prepare(input.id)?));
        }
        let streams = match &line.operation {
            Operation::TaskVectors { vectors, .. } => {
                vectors.iter().map(|v| chance.stream(info, v)).collect()
            }
            _ => Vec::new(),
        };
        let (rows, cols) = (info.rows(), info.cols());
        Ok(Self { line, sources, masks, cols, rows, rows_per_unit, plans, streams })
    }

    /// Rows of a tile.
    pub(crate) fn tile_rows(&self) -> usize {
        (TILE / self.cols.max(1)).max(1)
    }

    /// Reads rows of the `n`-th input, rounded to the recipe's `dtype`.
    pub(crate) fn read(&self, n: usize, rows: &Range<usize>, out: &mut [f32]) -> Result<(), Error> {
        let (source, plan) = &self.plans[n];
        self.sources[*source].tensors.read_tile(plan, rows.clone(), out)?;
        if let Some(dtype) = self.line.load {
            dtype.round(out);
        }
        Ok(())
    }

    pub(crate) fn read_into(
        &self,
        n: usize,
        rows: &Range<usize>,
        out: &mut Vec<f32>,
    ) -> Result<(), Error> {
        out.resize(rows.len() * self.cols, 0.0);
        self.read(n, rows, out)
    }

    /// How a vector is thinned.
    pub(crate) fn thin(&self, vector: &TaskVector) -> Thin {
        match &self.line.operation {
            Operation::TaskVectors { sparsifier, .. } => {
                thin(*sparsifier, vector.density, self.masks.is_some())
            }
            _ => Thin::All,
        }
    }

    /// Fills `out` with rows of the output, rounded to its dtype. `statistics` has `stride`
    /// numbers a unit.
    pub(crate) fn tile(
        &self,
        statistics: &[f64],
        rows: Range<usize>,
        out: &mut [f32],
        scratch: &mut Scratch,
    ) -> Result<(), Error> {
        let units = self.rows.checked_div(self.rows_per_unit).unwrap_or(1).max(1);
        let stride = statistics.len() / units;
        let mut start = rows.start;
        while start < rows.end {
            let unit = start.checked_div(self.rows_per_unit).unwrap_or(0);
            let end = rows.end.min(start + self.tile_rows()).min((unit + 1) * self.rows_per_unit);
            let part = (start - rows.start) * self.cols..(end - rows.start) * self.cols;
            let numbers = &statistics[unit * stride..(unit + 1) * stride];
            let (rows, out) = (start..end, &mut out[part]);
            match self.line.rounding {
                Rounding::Once => self.compute(numbers, &rows, out, scratch)?,
                Rounding::EachStep(_) => self.stepwise(numbers, &rows, out, scratch)?,
            }
            start = end;
        }
        Ok(())
    }

    fn compute(
        &self,
        numbers: &[f64],
        rows: &Range<usize>,
        out: &mut [f32],
        scratch: &mut Scratch,
    ) -> Result<(), Error> {
        if let Operation::Formula { inputs, formula, anchored } = &self.line.operation {
            self.read_all(inputs.len(), rows, scratch)?;
            formula.fill(numbers, self.of(*anchored, inputs.len(), rows, scratch), out);
            self.line.info.dtype.round(out);
            return Ok(());
        }
        self.read(0, rows, out)?;
        match &self.line.operation {
            Operation::Copy(_) | Operation::Formula { .. } => {}
            Operation::Scale(_, factor) => kernels::scale(out, *factor),
            Operation::Linear { terms, convex, .. } => {
                self.linear(terms, *convex, rows, out, scratch)?;
            }
            Operation::Slerp { .. } => {
                self.read_into(1, rows, &mut scratch.base)?;
                let (a, b) = (numbers[0] as f32, numbers[1] as f32);
                kernels::blend(out, &scratch.base, a, b, numbers[2] != 0.0);
            }
            Operation::TaskVectors { vectors, consensus, normalize, lambda, .. } => {
                let mixing =
                    Mixing { consensus: *consensus, normalize: *normalize, lambda: *lambda };
                self.vectors(numbers, vectors, rows, out, scratch)?;
                let weights: Vec<f64> = vectors.iter().map(|v| v.weight).collect();
                mix(out, &scratch.vectors, &weights, mixing, &mut scratch.mix);
            }
        }
        self.line.info.dtype.round(out);
        Ok(())
    }

    fn linear(
        &self,
        terms: &[(Input, f32)],
        convex: bool,
        rows: &Range<usize>,
        out: &mut [f32],
        scratch: &mut Scratch,
    ) -> Result<(), Error> {
        if let [(_, a), (_, b)] = terms {
            self.read_into(1, rows, &mut scratch.base)?;
            kernels::blend(out, &scratch.base, *a, *b, convex);
            return Ok(());
        }
        kernels::scale(out, terms[0].1);
        for (n, (_, weight)) in terms.iter().enumerate().skip(1) {
            self.read_into(n, rows, &mut scratch.base)?;
            kernels::add_scaled(out, &scratch.base, *weight);
        }
        Ok(())
    }

    /// Thinned and weighted task vectors of some rows, into `scratch.vectors`.
    fn vectors(
        &self,
        numbers: &[f64],
        vectors: &[TaskVector],
        rows: &Range<usize>,
        base: &[f32],
        scratch: &mut Scratch,
    ) -> Result<(), Error> {
        scratch.vectors.resize_with(vectors.len(), Vec::new);
        for (i, vector) in vectors.iter().enumerate() {
            let (cut, factor) = thinning(numbers, i);
            let factor = (factor * vector.weight) as f32;
            let mut out = std::mem::take(&mut scratch.vectors[i]);
            self.read_into(i + 1, rows, &mut out)?;
            self.thinned(i, vector, cut, factor, rows, base, &mut out, scratch);
            scratch.vectors[i] = out;
        }
        Ok(())
    }

    /// The numbers of a vector's elements.
    fn draw<'s>(
        &'s self,
        i: usize,
        vector: &TaskVector,
        rows: &Range<usize>,
        scratch: &'s mut Scratch,
    ) -> &'s [f32] {
        if let (None, Stream::Drawn(numbers)) = (self.masks, &self.streams[i]) {
            return &numbers[rows.start * self.cols..rows.end * self.cols];
        }
        let Scratch { uniforms: out, cursors, .. } = scratch;
        out.resize(rows.len() * self.cols, 0.0);
        cursors.resize_with(self.streams.len(), Cursor::default);
        let model = self.sources[vector.input.source].model.as_str();
        let handed = self.masks.map(|m| (m, self.line.info.name.as_str(), model));
        let first = (rows.start * self.cols) as u64;
        uniforms(handed, &self.streams[i], &mut cursors[i], first, out);
        out
    }

    /// An edge seen from a tile: how many of its first elements count as above at the magnitude.
    fn edge(&self, (magnitude, last): Edge, rows: &Range<usize>, elements: usize) -> (u32, usize) {
        (magnitude, last.saturating_sub(self.first(rows)).min(elements as u64) as usize)
    }

    /// The flat index in its unit of a tile's first element.
    pub(crate) fn first(&self, rows: &Range<usize>) -> u64 {
        rows.start.checked_rem(self.rows_per_unit).map_or(0, |row| (row * self.cols) as u64)
    }

    /// One task vector, thinned, times `factor`; `out` holds the model's values. `cut` is the
    /// edges between which magnitudes stay.
    #[expect(clippy::too_many_arguments, reason = "one row of the table of sparsifiers")]
    pub(crate) fn thinned(
        &self,
        i: usize,
        vector: &TaskVector,
        cut: Cut,
        factor: f32,
        rows: &Range<usize>,
        base: &[f32],
        out: &mut [f32],
        scratch: &mut Scratch,
    ) {
        match self.thin(vector) {
            Thin::All => kernels::delta(out, base, factor),
            Thin::Nothing => out.fill(0.0),
            Thin::Random => {
                let (numbers, density) =
                    (self.draw(i, vector, rows, scratch), vector.density as f32);
                kernels::random_delta(out, base, numbers, density, factor);
            }
            Thin::Magnitude => {
                let (threshold, ties) = self.edge(cut[0], rows, out.len());
                kernels::trimmed_delta(out, base, threshold, ties, factor);
            }
            Thin::Outliers => {
                kernels::delta(out, base, 1.0);
                self.keep_band(cut, rows, out);
                kernels::scale(out, factor);
            }
            Thin::Ranked => {
                let mut chance = std::mem::take(&mut scratch.chances);
                self.chances(vector, base, out, &mut scratch.order, &mut chance);
                let numbers = self.draw(i, vector, rows, scratch);
                kernels::ranked_delta(out, base, numbers, &chance, factor);
                scratch.chances = chance;
            }
        }
    }
}

impl Work<'_> {
    /// Reads rows of all `k` inputs into `scratch.vectors`.
    pub(crate) fn read_all(
        &self,
        k: usize,
        rows: &Range<usize>,
        scratch: &mut Scratch,
    ) -> Result<(), Error> {
        scratch.vectors.resize_with(k.max(scratch.vectors.len()), Vec::new);
        for (n, values) in scratch.vectors.iter_mut().take(k).enumerate() {
            self.read_into(n, rows, values)?;
        }
        Ok(())
    }

    /// What [`Self::read_all`] read, for a formula.
    pub(crate) fn of<'s>(
        &self,
        anchored: bool,
        k: usize,
        rows: &Range<usize>,
        scratch: &'s Scratch,
    ) -> Tile<'s> {
        let inputs = &scratch.vectors[..k];
        Tile { inputs, anchored, cols: self.cols, first: self.first(rows) }
    }

    /// Keeps what lies between the edges of a cut.
    fn keep_band(&self, cut: Cut, rows: &Range<usize>, delta: &mut [f32]) {
        let [lower, upper] = cut.map(|edge| self.edge(edge, rows, delta.len()));
        kernels::keep_band(delta, lower, upper);
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
