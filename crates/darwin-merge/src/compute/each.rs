//! Tensors whose experts have shares of their own: the same arithmetic, run by run.

use super::{Place, Scratch, Work, thinning};
use crate::methods::kernels;
use crate::methods::task_vectors::{Mixing, mix};
use crate::plan::{Each, Operation};
use std::ops::Range;

impl Work<'_> {
    /// Elements of the output, not rounded yet, from its inputs; `out` holds the first.
    pub(super) fn combine_each(
        &self,
        each: &Each,
        numbers: &[f64],
        place: Place,
        out: &mut [f32],
        others: &mut [Vec<f32>],
        scratch: &mut Scratch,
    ) {
        for (run, at) in each.runs(place.element, out.len()) {
            match each.copied(run) {
                Some(0) => continue,
                Some(n) => {
                    out[at.clone()].copy_from_slice(&others[n - 1][at]);
                    continue;
                }
                None => {}
            }
            match &self.line.operation {
                Operation::Linear { convex, .. } => {
                    let t = each.share(run);
                    let (a, b) = ((1.0 - t) as f32, t as f32);
                    kernels::blend(&mut out[at.clone()], &mut others[0][at], a, b, *convex);
                }
                Operation::Slerp { .. } => {
                    // For each run where the unit is the tensor, else for the unit's own.
                    let of_run = numbers.get(3 * run..3 * run + 3);
                    let numbers =
                        if numbers.len() == 3 { numbers } else { of_run.unwrap_or(numbers) };
                    let (a, b) = (numbers[0] as f32, numbers[1] as f32);
                    let linear = numbers[2] != 0.0;
                    kernels::blend(&mut out[at.clone()], &mut others[0][at], a, b, linear);
                }
                Operation::TaskVectors { .. } => {
                    self.vectors_of_run(each, run, numbers, place, at, out, others, scratch);
                }
                Operation::Copy(_)
                | Operation::Scale(..)
                | Operation::Formula { .. }
                | Operation::Solved { .. } => {}
            }
        }
    }

    #[expect(clippy::too_many_arguments, reason = "one row of the table of operations")]
    fn vectors_of_run(
        &self,
        each: &Each,
        run: usize,
        numbers: &[f64],
        place: Place,
        at: Range<usize>,
        out: &mut [f32],
        others: &mut [Vec<f32>],
        scratch: &mut Scratch,
    ) {
        if at.len() == out.len() {
            return self.vectors(each, run, numbers, place, out, others, scratch);
        }
        // A piece with several runs: each from copies of its own elements.
        let mut own = std::mem::take(&mut scratch.run);
        own.resize_with(others.len(), Vec::new);
        for (own, x) in own.iter_mut().zip(&*others) {
            own.clear();
            own.extend_from_slice(&x[at.clone()]);
        }
        let place = place.after(at.start);
        self.vectors(each, run, numbers, place, &mut out[at], &mut own, scratch);
        scratch.run = own;
    }

    #[expect(clippy::too_many_arguments, reason = "one row of the table of operations")]
    fn vectors(
        &self,
        each: &Each,
        run: usize,
        numbers: &[f64],
        place: Place,
        out: &mut [f32],
        others: &mut [Vec<f32>],
        scratch: &mut Scratch,
    ) {
        let Operation::TaskVectors { vectors, consensus, normalize, lambda, .. } =
            &self.line.operation
        else {
            return;
        };
        let mixing = Mixing { consensus: *consensus, normalize: *normalize, lambda: *lambda };
        for (i, (vector, x)) in vectors.iter().zip(&mut *others).enumerate() {
            let (cut, factor) = thinning(numbers, i);
            let factor = (factor * each.weight(run, i)) as f32;
            self.thinned(i, vector, cut, factor, place, out, x, scratch);
        }
        let weights = (0..vectors.len()).map(|i| each.weight(run, i));
        mix(out, others, weights, mixing, &mut scratch.mix);
    }
}
