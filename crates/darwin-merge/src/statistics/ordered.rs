//! What mergekit's numerics want of a unit: sums in torch's order, each number rounded
//! (mergekit 0.1.5, `merge_methods/`, `sparsify.py`).

use super::collect::Collect;
use super::{Partial, Pass};
use crate::compute::Scratch;
use crate::methods::slerp::{self, coefficients, coefficients_f32};
use crate::methods::sparsify::{Cut, rescale};
use crate::methods::torch_sum::{NormOfParts, SumOfParts, TorchSum};
use crate::numerics::Rounding;
use darwin_checkpoint::{Dtype, Error};

impl Collect<'_> {
    /// Whether a pass takes a whole unit in order, by one thread.
    pub(super) fn in_order(&self, pass: Option<&Pass>) -> bool {
        let whole = matches!(pass, Some(Pass::Norms(_) | Pass::Dots));
        self.work.line.rounding != Rounding::Once && whole
    }

    /// L1 norms before and after thinning, each rounded; the cosine for slerp.
    pub(super) fn ordered(
        &self,
        pass: &Pass,
        unit: usize,
        scratch: &mut Scratch,
    ) -> Result<Partial, Error> {
        let mut sums = vec![[0.0; 3]; self.vectors.len().max(1)];
        let Pass::Norms(cuts) = pass else {
            sums[0][2] = f64::from(self.cosine(unit)?);
            return Ok(Partial::Sums(sums));
        };
        for (i, cut) in cuts.iter().enumerate() {
            if self.work.thin(&self.vectors[i]).in_part() {
                let [before, after] = self.norms_of(i, *cut, unit, scratch)?;
                sums[i] = [f64::from(before), f64::from(after), 0.0];
            }
        }
        Ok(Partial::Sums(sums))
    }

    fn norms_of(
        &self,
        i: usize,
        cut: Cut,
        unit: usize,
        scratch: &mut Scratch,
    ) -> Result<[f32; 2], Error> {
        let work = self.work;
        let rounding = work.work_rounding(&self.vectors[i]);
        let dtype = match rounding {
            Rounding::Once => Dtype::F32,
            Rounding::EachStep(dtype) => dtype,
        };
        let n = work.rows_per_unit * work.cols;
        let mut sums = [TorchSum::new(dtype, n), TorchSum::new(dtype, n)];
        let first = unit * work.rows_per_unit;
        let (mut base, mut x) = (Vec::new(), Vec::new());
        let mut start = first;
        while start < first + work.rows_per_unit {
            let rows = start..(start + work.tile_rows()).min(first + work.rows_per_unit);
            base.resize(rows.len() * work.cols, 0.0);
            x.resize(rows.len() * work.cols, 0.0);
            work.read(0, &rows, &mut base)?;
            work.read(i + 1, &rows, &mut x)?;
            work.delta(&mut x, &base);
            x.iter_mut().for_each(|v| *v = v.abs());
            sums[0].push(&x);
            work.keep(i, &self.vectors[i], cut, work.place(&rows), &mut x, scratch);
            sums[1].push(&x);
            start = rows.end;
        }
        Ok(sums.map(|sum| rounding.number(sum.finish())))
    }

    /// The cosine of the angle between two units: f32 norms of parts of 1 Mi elements, unit
    /// vectors, the sum of their products (mergekit 0.1.5, `slerp.py`).
    fn cosine(&self, unit: usize) -> Result<f32, Error> {
        const PART: usize = 1 << 20;
        let work = self.work;
        let first = unit * work.rows_per_unit;
        let end = first + work.rows_per_unit;
        let tiles = || {
            (first..end).step_by(work.tile_rows()).map(|at| at..(at + work.tile_rows()).min(end))
        };
        let mut tile = [Vec::new(), Vec::new()];
        let mut norms = [NormOfParts::new(PART), NormOfParts::new(PART)];
        for rows in tiles() {
            for (n, (values, norm)) in tile.iter_mut().zip(&mut norms).enumerate() {
                work.read_into(n, &rows, values)?;
                norm.push(values);
            }
        }
        let [a, b] = norms.map(|norm| slerp::unit(norm.finish()));
        let mut dot = SumOfParts::new(PART, work.rows_per_unit * work.cols);
        for rows in tiles() {
            let [x, y] = &mut tile;
            work.read_into(0, &rows, x)?;
            work.read_into(1, &rows, y)?;
            x.iter_mut().zip(&*y).for_each(|(x, y)| *x = (*x / a) * (*y / b));
            dot.push(x);
        }
        Ok(dot.finish())
    }

    /// `before / after`, rounded where norms are.
    pub(super) fn factor(&self, i: usize, before: f64, after: f64) -> f64 {
        match self.work.work_rounding(&self.vectors[i]) {
            Rounding::Once => rescale(before, after),
            rounding => f64::from(rounding.number(rescale(before, after) as f32)),
        }
    }

    /// The coefficients of slerp from `[a.a, b.b, a.b]`, or from the cosine in the last place.
    pub(super) fn arc(&self, dots: [f64; 3], t: f64) -> ([f64; 2], bool) {
        match self.work.line.rounding {
            Rounding::Once => coefficients(dots, t),
            Rounding::EachStep(_) => coefficients_f32(dots[2] as f32, t),
        }
    }
}
