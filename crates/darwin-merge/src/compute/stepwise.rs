//! The same tiles as mergekit computes them: every step rounded to the working dtype
//! (mergekit 0.1.5, `merge_methods/`).

use super::{Place, Scratch, Work, thinning};
use crate::methods::kernels;
use crate::methods::sparsify::{Cut, Thin};
use crate::methods::task_vectors::{Mixing, mix_stepwise};
use crate::numerics::Rounding;
use crate::plan::{Input, Operation, TaskVector};
use darwin_checkpoint::Error;
use std::ops::Range;

impl Work<'_> {
    /// Rows of the output, rounded after each step, then to the dtype written.
    pub(super) fn stepwise(
        &self,
        numbers: &[f64],
        rows: &Range<usize>,
        out: &mut [f32],
        scratch: &mut Scratch,
    ) -> Result<(), Error> {
        let rounding = self.line.rounding;
        self.read(0, rows, out)?;
        match &self.line.operation {
            // The planner refuses formulas in these numerics.
            Operation::Copy(_) | Operation::Formula { .. } | Operation::Solved { .. } => {}
            Operation::Scale(_, factor) => kernels::scale(out, *factor),
            Operation::Linear { terms, divisor, .. } => {
                self.linear_stepwise(terms, *divisor, rows, out, scratch)?;
            }
            Operation::Slerp { .. } => {
                self.read_into(1, rows, &mut scratch.base)?;
                let (a, b) = (numbers[0] as f32, numbers[1] as f32);
                kernels::blend(out, &mut scratch.base, a, b, false);
            }
            Operation::TaskVectors { vectors, consensus, normalize, lambda, .. } => {
                let mixing =
                    Mixing { consensus: *consensus, normalize: *normalize, lambda: *lambda };
                self.vectors_stepwise(numbers, vectors, rows, out, scratch)?;
                let weights: Vec<f32> = vectors.iter().map(|v| self.weight(v)).collect();
                mix_stepwise(out, &scratch.vectors, &weights, mixing, rounding, &mut scratch.mix);
            }
        }
        rounding.round(out);
        self.line.info.dtype.round(out);
        Ok(())
    }

    /// `R_D(sum w x / sum w)`: f32 throughout, multiplied and added in one (mergekit 0.1.5, `linear.py`).
    fn linear_stepwise(
        &self,
        terms: &[(Input, f32)],
        divisor: Option<f32>,
        rows: &Range<usize>,
        out: &mut [f32],
        scratch: &mut Scratch,
    ) -> Result<(), Error> {
        out.fill(0.0);
        for (n, (_, weight)) in terms.iter().enumerate() {
            self.read_into(n, rows, &mut scratch.base)?;
            kernels::add_scaled_fused(out, &scratch.base, *weight);
        }
        if let Some(divisor) = divisor {
            kernels::divide_by(out, divisor);
        }
        Ok(())
    }

    /// `R_D(w)` (mergekit 0.1.5, `generalized_task_arithmetic.py`).
    fn weight(&self, vector: &TaskVector) -> f32 {
        self.line.rounding.number(vector.weight as f32)
    }

    /// `v_i = R_D(R_D(thinned delta * R(a / b)) * R_D(w_i))`, into `scratch.vectors`.
    fn vectors_stepwise(
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
            let factor = factor as f32;
            let mut out = std::mem::take(&mut scratch.vectors[i]);
            self.read_into(i + 1, rows, &mut out)?;
            self.delta(&mut out, base);
            self.keep(i, vector, cut, self.place(rows), &mut out, scratch);
            if factor != 1.0 {
                kernels::scale(&mut out, factor);
                self.line.rounding.round(&mut out);
            }
            kernels::scale(&mut out, self.weight(vector));
            self.line.rounding.round(&mut out);
            scratch.vectors[i] = out;
        }
        Ok(())
    }

    /// `x = R_D(x - base)`.
    pub(crate) fn delta(&self, x: &mut [f32], base: &[f32]) {
        kernels::delta(x, base, 1.0);
        self.line.rounding.round(x);
    }

    /// `delta * mask` (mergekit 0.1.5, `sparsify.py`).
    pub(crate) fn keep(
        &self,
        i: usize,
        vector: &TaskVector,
        cut: Cut,
        place: Place,
        delta: &mut [f32],
        scratch: &mut Scratch,
    ) {
        match self.thin(vector) {
            Thin::All => {}
            Thin::Nothing => delta.fill(0.0),
            Thin::Random => {
                let density = self.work_rounding(vector).number(vector.density as f32);
                let numbers = self.draw(i, vector, place, delta.len(), scratch);
                kernels::keep_random(delta, numbers, density);
            }
            Thin::Magnitude => {
                let (threshold, ties) = place.edge(cut[0], delta.len());
                kernels::keep_largest(delta, threshold, ties);
            }
            Thin::Outliers => place.keep_band(cut, delta),
            // The planner refuses it in these numerics.
            Thin::Ranked => {}
        }
    }

    /// The rounding of a sparsifier's own numbers: densities, norms and their ratio.
    pub(crate) fn work_rounding(&self, vector: &TaskVector) -> Rounding {
        match self.thin(vector) {
            Thin::Random => self.line.rounding.of_chance(),
            _ => self.line.rounding,
        }
    }
}
