//! Tiles of one output tensor from tiles of its inputs.

mod chunks;
mod each;
mod stepwise;
mod thinned;

use crate::masks::{Chance, MaskSource, Stream};
use crate::methods::formula::Tile;
use crate::methods::kernels;
use crate::methods::sparsify::{ABOVE_ALL, BELOW_ALL, Cut, Edge, Thin, thin};
use crate::methods::task_vectors::{MixScratch, Mixing, mix};
use crate::numerics::Rounding;
use crate::plan::{Line, Operation, TaskVector};
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

/// Where a run of elements of one unit begins.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    /// In its tensor.
    element: usize,
    /// In its unit.
    in_unit: u64,
}

impl Place {
    fn after(self, elements: usize) -> Self {
        Self { element: self.element + elements, in_unit: self.in_unit + elements as u64 }
    }

    /// An edge seen from here: how many of the first elements count as above at the magnitude.
    fn edge(self, (magnitude, last): Edge, elements: usize) -> (u32, usize) {
        (magnitude, last.saturating_sub(self.in_unit).min(elements as u64) as usize)
    }

    /// Keeps what lies between the edges of a cut.
    fn keep_band(self, cut: Cut, delta: &mut [f32]) {
        let [lower, upper] = cut.map(|edge| self.edge(edge, delta.len()));
        kernels::keep_band(delta, lower, upper);
    }
}

/// Working memory of a call, reused from tile to tile.
#[derive(Default)]
pub(crate) struct Scratch {
    pub(crate) base: Vec<f32>,
    pub(crate) vectors: Vec<Vec<f32>>,
    pub(crate) values: Vec<f32>,
    /// The inputs' own bytes, and what a chunk of them holds.
    stored: Vec<Vec<u8>>,
    chunk: Vec<Vec<f32>>,
    uniforms: Vec<f32>,
    words: Vec<u64>,
    chances: Vec<f32>,
    order: Vec<u32>,
    cursors: Vec<Cursor>,
    mix: MixScratch,
    /// What a run of a piece has of the other inputs.
    run: Vec<Vec<f32>>,
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
        for (unit, part) in self.parts(&rows) {
            let at = (part.start - rows.start) * self.cols..(part.end - rows.start) * self.cols;
            let (numbers, out) = (self.of_unit(statistics, unit), &mut out[at]);
            match self.line.rounding {
                Rounding::Once => self.compute(numbers, &part, out, scratch)?,
                Rounding::EachStep(_) => self.stepwise(numbers, &part, out, scratch)?,
            }
        }
        Ok(())
    }

    /// Rows cut into tiles of one unit each.
    fn parts(&self, rows: &Range<usize>) -> impl Iterator<Item = (usize, Range<usize>)> {
        let (mut start, last) = (rows.start, rows.end);
        let (step, in_unit) = (self.tile_rows(), self.rows_per_unit);
        std::iter::from_fn(move || {
            let unit = start.checked_div(in_unit).unwrap_or(0);
            let end = last.min(start + step).min((unit + 1) * in_unit);
            let part = start..end;
            start = end.max(start);
            (!part.is_empty()).then_some((unit, part))
        })
    }

    /// The numbers of a unit among those of a tensor.
    fn of_unit<'s>(&self, statistics: &'s [f64], unit: usize) -> &'s [f64] {
        let units = self.rows.checked_div(self.rows_per_unit).unwrap_or(1).max(1);
        let stride = statistics.len() / units;
        &statistics[unit * stride..(unit + 1) * stride]
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
        let mut others = std::mem::take(&mut scratch.vectors);
        others.resize_with(self.plans.len() - 1, Vec::new);
        for (i, values) in others.iter_mut().enumerate() {
            self.read_into(i + 1, rows, values)?;
        }
        self.combine(numbers, self.place(rows), out, &mut others, scratch);
        scratch.vectors = others;
        self.line.info.dtype.round(out);
        Ok(())
    }

    /// A run of the output, not rounded yet, from its inputs; `out` holds the first.
    fn combine(
        &self,
        numbers: &[f64],
        place: Place,
        out: &mut [f32],
        others: &mut [Vec<f32>],
        scratch: &mut Scratch,
    ) {
        if let Some(each) = &self.line.each {
            return self.combine_each(each, numbers, place, out, others, scratch);
        }
        match &self.line.operation {
            Operation::Copy(_) | Operation::Formula { .. } | Operation::Solved { .. } => {}
            Operation::Scale(_, factor) => kernels::scale(out, *factor),
            Operation::Linear { terms, convex, .. } => match terms[..] {
                [(_, a), (_, b)] => kernels::blend(out, &mut others[0], a, b, *convex),
                _ => {
                    kernels::scale(out, terms[0].1);
                    for ((_, weight), x) in terms[1..].iter().zip(others) {
                        kernels::add_scaled(out, x, *weight);
                    }
                }
            },
            Operation::Slerp { .. } => {
                let (a, b) = (numbers[0] as f32, numbers[1] as f32);
                kernels::blend(out, &mut others[0], a, b, numbers[2] != 0.0);
            }
            Operation::TaskVectors { vectors, consensus, normalize, lambda, .. } => {
                let mixing =
                    Mixing { consensus: *consensus, normalize: *normalize, lambda: *lambda };
                for (i, (vector, x)) in vectors.iter().zip(&mut *others).enumerate() {
                    let (cut, factor) = thinning(numbers, i);
                    let factor = (factor * vector.weight) as f32;
                    self.thinned(i, vector, cut, factor, place, out, x, scratch);
                }
                mix(out, others, vectors.iter().map(|v| v.weight), mixing, &mut scratch.mix);
            }
        }
    }

    /// Where rows of one unit begin.
    pub(crate) fn place(&self, rows: &Range<usize>) -> Place {
        let in_unit = rows.start.checked_rem(self.rows_per_unit).unwrap_or(0);
        Place { element: rows.start * self.cols, in_unit: (in_unit * self.cols) as u64 }
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
        Tile { inputs, anchored, cols: self.cols, first: self.place(rows).in_unit }
    }
}
