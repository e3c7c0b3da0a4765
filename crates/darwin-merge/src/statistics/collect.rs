//! What the passes over a unit count and add up.

use super::{Cut, Partial, Pass, State};
use crate::compute::{PER_VECTOR, Scratch, Work};
use crate::methods::kernels::{dots, l1, l1_delta};
use crate::methods::sparsify::{BUCKETS, Thin, bucket, high, kept, low};
use crate::plan::{Operation, TaskVector};
use darwin_checkpoint::Error;
use std::ops::Range;

/// Elements of a block.
const BLOCK: usize = 1 << 18;

/// One tensor's units, blocks and passes.
pub(super) struct Collect<'a> {
    pub(super) work: &'a Work<'a>,
    pub(super) vectors: &'a [TaskVector],
}

impl Collect<'_> {
    fn block_rows(&self) -> usize {
        (BLOCK / self.work.cols.max(1)).max(1)
    }

    /// How many blocks a pass over a unit has.
    pub(super) fn blocks(&self, pass: Option<&Pass>) -> usize {
        if self.in_order(pass) {
            return 1;
        }
        self.work.rows_per_unit.div_ceil(self.block_rows()).max(1)
    }

    fn units(&self) -> usize {
        self.work.rows.checked_div(self.work.rows_per_unit).unwrap_or(0)
    }

    fn any(&self, thin: Thin) -> bool {
        self.vectors.iter().any(|vector| self.work.thin(vector) == thin)
    }

    fn rescales(&self) -> bool {
        matches!(self.work.line.operation, Operation::TaskVectors { rescale: true, .. })
            && (self.any(Thin::Random) || self.any(Thin::Magnitude))
    }

    /// Starts the first pass over the current unit; false where there is nothing to find.
    pub(super) fn begin(&self, state: &mut State) -> bool {
        if state.unit >= self.units() || self.work.cols == 0 {
            return false;
        }
        let first = match &self.work.line.operation {
            Operation::Slerp { .. } => Pass::Dots,
            _ if self.any(Thin::Magnitude) => Pass::High,
            _ if self.rescales() => Pass::Norms(vec![(0, 0); self.vectors.len()]),
            _ => return false,
        };
        state.start(Some(first));
        true
    }

    pub(super) fn unit_rows(&self, unit: usize, block: usize) -> Range<usize> {
        let start = unit * self.work.rows_per_unit;
        let first = start + block * self.block_rows();
        first..(first + self.block_rows()).min(start + self.work.rows_per_unit)
    }

    /// What one block of a unit gives in a pass.
    pub(super) fn block(
        &self,
        pass: &Pass,
        unit: usize,
        block: usize,
        scratch: &mut Scratch,
    ) -> Result<Partial, Error> {
        if self.in_order(Some(pass)) {
            return self.ordered(pass, unit, scratch);
        }
        let rows = self.unit_rows(unit, block);
        let k = self.vectors.len().max(1);
        let mut sums = vec![[0.0; 3]; k];
        let buckets = match pass {
            Pass::High | Pass::Low(_) => BUCKETS,
            _ => 0,
        };
        let mut counts = vec![vec![0_u32; buckets]; if buckets > 0 { k } else { 0 }];
        let mut start = rows.start;
        while start < rows.end {
            let tile = start..(start + self.work.tile_rows()).min(rows.end);
            self.tile(pass, &tile, scratch, &mut sums, &mut counts)?;
            start = tile.end;
        }
        Ok(if buckets > 0 { Partial::Counts(counts) } else { Partial::Sums(sums) })
    }

    fn tile(
        &self,
        pass: &Pass,
        rows: &Range<usize>,
        scratch: &mut Scratch,
        sums: &mut [[f64; 3]],
        counts: &mut [Vec<u32>],
    ) -> Result<(), Error> {
        let n = rows.len() * self.work.cols;
        let mut base = std::mem::take(&mut scratch.base);
        base.resize(n, 0.0);
        self.work.read(0, rows, &mut base)?;
        scratch.vectors.resize_with(1, Vec::new);
        let mut x = std::mem::take(&mut scratch.vectors[0]);
        x.resize(n, 0.0);
        if let Pass::Dots = pass {
            self.work.read(1, rows, &mut x)?;
            add(&mut sums[0], dots(&base, &x));
        }
        for (i, vector) in self.vectors.iter().enumerate() {
            let thin = self.work.thin(vector);
            let wanted = match pass {
                Pass::Norms(_) => thin == Thin::Magnitude || thin == Thin::Random,
                _ => thin == Thin::Magnitude,
            };
            if wanted {
                self.work.read(i + 1, rows, &mut x)?;
                self.vector(pass, i, rows, &base, &mut x, scratch, sums, counts);
            }
        }
        scratch.base = base;
        scratch.vectors[0] = x;
        Ok(())
    }

    #[expect(clippy::too_many_arguments, reason = "a step of `tile`")]
    fn vector(
        &self,
        pass: &Pass,
        i: usize,
        rows: &Range<usize>,
        base: &[f32],
        x: &mut [f32],
        scratch: &mut Scratch,
        sums: &mut [[f64; 3]],
        counts: &mut [Vec<u32>],
    ) {
        match pass {
            Pass::Dots => {}
            Pass::High => {
                self.work.delta(x, base);
                x.iter().for_each(|v| counts[i][high(*v)] += 1);
            }
            Pass::Low(buckets) => {
                self.work.delta(x, base);
                let inside = x.iter().filter(|v| high(**v) == buckets[i].0);
                inside.for_each(|v| counts[i][low(*v)] += 1);
            }
            Pass::Ties(cuts) => {
                self.work.delta(x, base);
                let ties = x.iter().filter(|v| v.to_bits() & 0x7fff_ffff == cuts[i].0).count();
                sums[i][0] += ties as f64;
            }
            Pass::Norms(cuts) => {
                let whole = l1_delta(x, base);
                self.work.thinned(i, &self.vectors[i], cuts[i], 1.0, rows, base, x, scratch);
                add(&mut sums[i], [whole, l1(x), 0.0]);
            }
        }
    }

    /// Ends a pass over all blocks: the next pass, or the unit's results and the next unit.
    pub(super) fn end(&self, state: &mut State) -> Result<(), Error> {
        let n = self.work.rows_per_unit * self.work.cols;
        let pass = state.pass.take().unwrap_or(Pass::Dots);
        let count = |i: usize| state.counts.get(i).map_or(&[][..], Vec::as_slice);
        let next = match pass {
            Pass::Dots => {
                let t = match &self.work.line.operation {
                    Operation::Slerp { t, .. } => *t,
                    _ => 0.0,
                };
                let ([a, b], linear) = self.arc(state.total(0), t);
                state.results.extend([a, b, f64::from(u8::from(linear))]);
                None
            }
            Pass::High => {
                let wanted = self.vectors.iter().map(|v| kept(v.density, n)).enumerate();
                Some(Pass::Low(wanted.map(|(i, wanted)| bucket(count(i), wanted)).collect()))
            }
            Pass::Low(buckets) => {
                let cuts = buckets.iter().enumerate().map(|(i, (top, wanted))| {
                    let (bottom, wanted) = bucket(count(i), *wanted);
                    ((top << 15 | bottom) as u32, wanted)
                });
                Some(Pass::Ties(cuts.collect()))
            }
            Pass::Ties(cuts) => {
                let mut found = Vec::new();
                for (i, (threshold, wanted)) in cuts.into_iter().enumerate() {
                    found.push((threshold, self.last_tie(state, i, threshold, wanted)?));
                }
                self.norms(state, found)
            }
            Pass::Norms(cuts) => {
                let totals: Vec<[f64; 3]> =
                    (0..self.vectors.len()).map(|i| state.total(i)).collect();
                for (i, ((threshold, ties), [before, after, _])) in
                    cuts.into_iter().zip(totals).enumerate()
                {
                    let factor = self.factor(i, before, after);
                    state.results.extend([f64::from(threshold), ties as f64, factor]);
                }
                None
            }
        };
        if next.is_none() {
            state.unit += 1;
        }
        state.start(next);
        Ok(())
    }

    fn norms(&self, state: &mut State, cuts: Vec<Cut>) -> Option<Pass> {
        if self.rescales() {
            return Some(Pass::Norms(cuts));
        }
        for (threshold, ties) in cuts {
            let numbers: [f64; PER_VECTOR] = [f64::from(threshold), ties as f64, 1.0];
            state.results.extend(numbers);
        }
        None
    }

    /// One more than the flat index in the unit of the `wanted`-th tie.
    fn last_tie(&self, state: &State, i: usize, threshold: u32, wanted: u64) -> Result<u64, Error> {
        if self.work.thin(&self.vectors[i]) != Thin::Magnitude {
            return Ok(0);
        }
        let mut left = wanted;
        for (block, sums) in state.sums.iter().enumerate() {
            let ties = sums[i][0] as u64;
            if left > ties {
                left -= ties;
                continue;
            }
            let rows = self.unit_rows(state.unit, block);
            let n = rows.len() * self.work.cols;
            let (mut base, mut x) = (vec![0.0; n], vec![0.0; n]);
            self.work.read(0, &rows, &mut base)?;
            self.work.read(i + 1, &rows, &mut x)?;
            self.work.delta(&mut x, &base);
            let ties = x
                .iter()
                .enumerate()
                .filter(|(_, v)| v.to_bits() & 0x7fff_ffff == threshold)
                .map(|(at, _)| at);
            let at = ties.take(left as usize).last().unwrap_or(0);
            let start = (rows.start - state.unit * self.work.rows_per_unit) * self.work.cols;
            return Ok((start + at + 1) as u64);
        }
        Ok(u64::MAX)
    }
}

fn add(total: &mut [f64; 3], more: [f64; 3]) {
    for (total, more) in total.iter_mut().zip(more) {
        *total += more;
    }
}
