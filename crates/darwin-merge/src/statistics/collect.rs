//! What the passes over a unit count and add up.

use super::near::{Guess, List};
use super::{Partial, Pass, Search, State};
use crate::compute::{Scratch, Work};
use crate::methods::formula::Formula;
use crate::methods::kernels::{LANES, dots, sum};
use crate::methods::sparsify::{
    ABOVE_ALL, BELOW_ALL, BUCKETS, Cut, Edge, Thin, band, bucket, high, kept, low,
};
use crate::plan::{Operation, TaskVector};
use darwin_checkpoint::Error;
use std::ops::Range;

/// Elements of a block.
const BLOCK: usize = 1 << 18;

/// Blocks of a unit whose columns have sums of their own.
const COLUMN_BLOCKS: usize = 8;

/// One tensor's units, blocks and passes.
pub(super) struct Collect<'a> {
    pub(super) work: &'a Work<'a>,
    pub(super) vectors: &'a [TaskVector],
}

impl Collect<'_> {
    fn block_rows(&self) -> usize {
        let rows = (BLOCK / self.work.cols.max(1)).max(1);
        match &self.work.line.operation {
            // Each block has sums of its own for all columns: few and large ones.
            Operation::Formula { formula, .. } if formula.by_column() => {
                rows.max(self.work.rows_per_unit.div_ceil(COLUMN_BLOCKS))
            }
            _ => rows,
        }
    }

    /// How many blocks a pass over a unit has.
    pub(super) fn blocks(&self, pass: Option<&Pass>) -> usize {
        if self.in_order(pass) {
            return 1;
        }
        if let Some(Pass::Sample(_)) = pass {
            return self.sample_blocks();
        }
        self.work.rows_per_unit.div_ceil(self.block_rows()).max(1)
    }

    fn units(&self) -> usize {
        self.work.rows.checked_div(self.work.rows_per_unit).unwrap_or(0)
    }

    /// Elements of a unit.
    pub(super) fn elements(&self) -> usize {
        self.work.rows_per_unit * self.work.cols
    }

    fn rescales(&self) -> bool {
        matches!(self.work.line.operation, Operation::TaskVectors { rescale: true, .. })
            && self.vectors.iter().any(|vector| self.work.thin(vector).in_part())
    }

    /// The magnitudes at the edges of what stays of each task vector.
    fn searches(&self) -> Vec<Search> {
        let n = self.elements();
        let of_vector = |(of, vector): (usize, &TaskVector)| {
            let wanted = match self.work.thin(vector) {
                Thin::Magnitude => vec![kept(vector.density, n)],
                Thin::Outliers => band(vector.density, vector.margin, n).to_vec(),
                _ => Vec::new(),
            };
            wanted.into_iter().map(move |wanted| Search { of, wanted, bits: 0 })
        };
        self.vectors.iter().enumerate().flat_map(of_vector).collect()
    }

    /// Starts the first pass over the current unit; false where there is nothing to find.
    pub(super) fn begin(&self, state: &mut State) -> bool {
        if state.unit >= self.units() || self.work.cols == 0 {
            return false;
        }
        let searches = self.searches();
        let first = match &self.work.line.operation {
            Operation::Slerp { .. } => Some(Pass::Dots),
            Operation::Formula { formula, .. } => {
                formula.begin(self.elements()).and_then(|next| self.follow(state, next))
            }
            _ if !searches.is_empty() => Some(self.select(searches)),
            _ if self.rescales() => Some(Pass::Norms(self.cuts(&[], &[]))),
            _ => None,
        };
        let found = first.is_some();
        if found {
            state.start(first);
        }
        found
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
        let mut lists = Vec::new();
        let (sums, buckets) = match pass {
            Pass::Sample(searches) => return self.sample(searches, unit, block, scratch),
            Pass::Near(guesses) => {
                lists.resize_with(guesses.len(), List::default);
                (0, 0)
            }
            Pass::High(searches) | Pass::Low(searches) => (0, searches.len()),
            Pass::Ties(searches) => (searches.len(), 0),
            Pass::Dots => (1, 0),
            Pass::Norms(_) => (self.vectors.len(), 0),
            Pass::Formula { stage, .. } => (self.width(*stage), 0),
        };
        let mut sums = vec![[0.0; 3]; sums];
        // no `vec!` of `vec!`, which makes one even where none is wanted
        let mut counts: Vec<_> = (0..buckets).map(|_| vec![0_u32; BUCKETS]).collect();
        let mut start = rows.start;
        while start < rows.end {
            let tile = start..(start + self.work.tile_rows()).min(rows.end);
            self.tile(pass, &tile, scratch, &mut sums, &mut counts, &mut lists)?;
            start = tile.end;
        }
        Ok(match pass {
            Pass::Near(_) => Partial::Lists(lists),
            _ if buckets > 0 => Partial::Counts(counts),
            _ => Partial::Sums(sums),
        })
    }

    fn tile(
        &self,
        pass: &Pass,
        rows: &Range<usize>,
        scratch: &mut Scratch,
        sums: &mut [[f64; 3]],
        counts: &mut [Vec<u32>],
        lists: &mut [List],
    ) -> Result<(), Error> {
        match pass {
            Pass::Formula { stage, numbers } => {
                self.formula_sums(*stage, numbers, rows, scratch, sums)
            }
            Pass::High(searches) | Pass::Low(searches) | Pass::Ties(searches) => {
                self.magnitudes(searches, rows, scratch, |i, x| {
                    count(pass, i, &searches[i], x, sums, counts);
                })
            }
            Pass::Near(guesses) => {
                let searches: Vec<Search> = guesses.iter().map(Guess::search).collect();
                self.magnitudes(&searches, rows, scratch, |i, x| lists[i].add(&guesses[i], x))
            }
            Pass::Sample(_) => Ok(()),
            Pass::Dots => {
                let mut lanes = [[0.0; LANES]; 3];
                self.work.pieces(&[0, 1], rows, scratch, |_, values, _| {
                    dots(&values[0], &values[1], &mut lanes);
                })?;
                add(&mut sums[0], lanes.map(sum));
                Ok(())
            }
            Pass::Norms(cuts) => self.norms(cuts, rows, scratch, sums),
        }
    }

    /// Shows `f` the numbers whose magnitudes each search looks at, a task vector or a formula's
    /// scores, piece after piece in order.
    pub(super) fn magnitudes(
        &self,
        searches: &[Search],
        rows: &Range<usize>,
        scratch: &mut Scratch,
        mut f: impl FnMut(usize, &[f32]),
    ) -> Result<(), Error> {
        if let Operation::Formula { .. } = self.work.line.operation {
            let mut x = std::mem::take(&mut scratch.values);
            self.scores(rows, scratch, &mut x)?;
            (0..searches.len()).for_each(|i| f(i, &x));
            scratch.values = x;
            return Ok(());
        }
        let mut first = 0;
        for same in searches.chunk_by(|a, b| a.of == b.of) {
            self.work.pieces(&[0, same[0].of + 1], rows, scratch, |_, values, _| {
                let [base, x] = values else { return };
                self.work.delta(x, base);
                (first..first + same.len()).for_each(|i| f(i, x));
            })?;
            first += same.len();
        }
        Ok(())
    }

    fn norms(
        &self,
        cuts: &[Cut],
        rows: &Range<usize>,
        scratch: &mut Scratch,
        sums: &mut [[f64; 3]],
    ) -> Result<(), Error> {
        let thinned = |i: &usize| self.work.thin(&self.vectors[*i]).in_part();
        let of: Vec<usize> = (0..self.vectors.len()).filter(thinned).collect();
        let inputs: Vec<usize> = std::iter::once(0).chain(of.iter().map(|i| i + 1)).collect();
        let mut lanes = vec![[[0.0; LANES]; 2]; of.len()];
        let add_up = |place, values: &mut [Vec<f32>], scratch: &mut Scratch| {
            let Some((base, vectors)) = values.split_first_mut() else { return };
            for ((i, x), sums) in of.iter().zip(vectors).zip(&mut lanes) {
                self.work.norms(*i, &self.vectors[*i], cuts[*i], place, base, x, sums, scratch);
            }
        };
        self.work.pieces(&inputs, rows, scratch, add_up)?;
        for (i, lanes) in of.into_iter().zip(lanes) {
            let [before, after] = lanes.map(sum);
            add(&mut sums[i], [before, after, 0.0]);
        }
        Ok(())
    }

    /// Ends a pass over all blocks: the next pass, or the unit's results and the next unit.
    pub(super) fn end(&self, state: &mut State) -> Result<(), Error> {
        let pass = state.pass.take().unwrap_or(Pass::Dots);
        let count = |i: usize| state.counts.get(i).map_or(&[][..], Vec::as_slice);
        let narrowed = |searches: Vec<Search>| {
            let each = searches.into_iter().enumerate().map(|(i, search)| {
                let (found, wanted) = bucket(count(i), search.wanted);
                Search { wanted, bits: search.bits << 15 | found as u32, ..search }
            });
            each.collect::<Vec<Search>>()
        };
        let next = match pass {
            Pass::Dots => {
                let t = match &self.work.line.operation {
                    Operation::Slerp { t, .. } => *t,
                    _ => 0.0,
                };
                let own = [t];
                let shares = match &self.work.line.each {
                    None => &own[..],
                    Some(each) if self.units() == 1 => each.shares(),
                    Some(each) => std::slice::from_ref(&each.shares()[state.unit]),
                };
                for t in shares {
                    let ([a, b], linear) = self.arc(state.total(0), *t);
                    state.results.extend([a, b, f64::from(u8::from(linear))]);
                }
                None
            }
            Pass::Sample(searches) => Some(self.guess(state, searches)),
            Pass::Near(guesses) => match self.found(state, &guesses) {
                Some(searches) => self.selected(state, &searches)?,
                None => Some(Pass::High(guesses.iter().map(Guess::search).collect())),
            },
            Pass::High(searches) => Some(Pass::Low(narrowed(searches))),
            Pass::Low(searches) => match &self.work.line.operation {
                Operation::Formula { formula: formula @ Formula::Fusion, .. } => {
                    // Ties do not matter: what equals the threshold is taken.
                    let found: Vec<Edge> =
                        narrowed(searches).iter().map(|search| (search.bits, 0)).collect();
                    self.follow(state, formula.selected(&found))
                }
                _ => Some(Pass::Ties(narrowed(searches))),
            },
            Pass::Ties(searches) => self.selected(state, &searches)?,
            Pass::Norms(cuts) => {
                let totals: Vec<[f64; 3]> =
                    (0..self.vectors.len()).map(|i| state.total(i)).collect();
                for (i, (cut, [before, after, _])) in cuts.into_iter().zip(totals).enumerate() {
                    state.results.extend(numbers(cut, self.factor(i, before, after)));
                }
                None
            }
            Pass::Formula { stage, numbers } => self.formula_end(state, stage, numbers),
        };
        if next.is_none() {
            state.unit += 1;
        }
        state.start(next);
        Ok(())
    }

    /// The pass that follows searches, their ties being counted block by block.
    fn selected(&self, state: &mut State, searches: &[Search]) -> Result<Option<Pass>, Error> {
        let mut edges = Vec::new();
        for (i, search) in searches.iter().enumerate() {
            edges.push((search.bits, self.last_tie(state, i, search)?));
        }
        Ok(match &self.work.line.operation {
            Operation::Formula { formula, .. } => self.follow(state, formula.selected(&edges)),
            _ => self.after_cuts(state, self.cuts(searches, &edges)),
        })
    }

    /// The edges of each task vector.
    fn cuts(&self, searches: &[Search], edges: &[Edge]) -> Vec<Cut> {
        let of_vector = |vector: usize| {
            let found = searches.iter().zip(edges).filter(|(search, _)| search.of == vector);
            let mut found = found.map(|(_, edge)| *edge);
            [found.next().unwrap_or(BELOW_ALL), found.next().unwrap_or(ABOVE_ALL)]
        };
        (0..self.vectors.len()).map(of_vector).collect()
    }

    fn after_cuts(&self, state: &mut State, cuts: Vec<Cut>) -> Option<Pass> {
        if self.rescales() {
            return Some(Pass::Norms(cuts));
        }
        state.results.extend(cuts.into_iter().flat_map(|cut| numbers(cut, 1.0)));
        None
    }

    /// One more than the flat index in the unit of the `wanted`-th tie of search `i`.
    fn last_tie(&self, state: &State, i: usize, search: &Search) -> Result<u64, Error> {
        let mut left = search.wanted;
        if left == 0 {
            return Ok(0);
        }
        for (block, sums) in state.sums.iter().enumerate() {
            let ties = sums[i][0] as u64;
            if left > ties {
                left -= ties;
                continue;
            }
            let rows = self.unit_rows(state.unit, block);
            let (mut seen, mut at) = (0, 0);
            self.magnitudes(&[*search], &rows, &mut Scratch::default(), |_, x| {
                let ties = x.iter().zip(seen..).filter(|(v, _)| {
                    let tie = left > 0 && v.to_bits() & 0x7fff_ffff == search.bits;
                    left -= u64::from(tie);
                    tie
                });
                at = ties.last().map_or(at, |(_, at)| at);
                seen += x.len();
            })?;
            let start = (rows.start - state.unit * self.work.rows_per_unit) * self.work.cols;
            return Ok((start + at + 1) as u64);
        }
        Ok(u64::MAX)
    }
}

/// A vector's numbers in the statistics.
fn numbers([lower, upper]: Cut, factor: f64) -> [f64; crate::compute::PER_VECTOR] {
    [f64::from(lower.0), lower.1 as f64, f64::from(upper.0), upper.1 as f64, factor]
}

/// Counts a tile's magnitudes for search `i`.
fn count(
    pass: &Pass,
    i: usize,
    search: &Search,
    x: &[f32],
    sums: &mut [[f64; 3]],
    counts: &mut [Vec<u32>],
) {
    match pass {
        Pass::High(_) => x.iter().for_each(|v| counts[i][high(*v)] += 1),
        Pass::Low(_) => {
            let inside = x.iter().filter(|v| high(**v) == search.bits as usize);
            inside.for_each(|v| counts[i][low(*v)] += 1);
        }
        _ => {
            let ties = x.iter().filter(|v| v.to_bits() & 0x7fff_ffff == search.bits).count();
            sums[i][0] += ties as f64;
        }
    }
}

fn add(total: &mut [f64; 3], more: [f64; 3]) {
    for (total, more) in total.iter_mut().zip(more) {
        *total += more;
    }
}
