//! A rank's magnitude in one pass: a sample says where about it lies; the pass counts what is
//! larger and lists what lies near. Where the sample misled, the counting passes find it. What is
//! found is exact either way.

use super::collect::Collect;
use super::{Partial, Pass, Search, State};
use crate::compute::Scratch;
use darwin_checkpoint::Error;
use darwin_core::vectorised;

/// A unit with fewer elements is not worth a sample.
const LEAST: usize = 1 << 14;
/// Of so many elements one goes into the sample.
const SPARSE: usize = 64;
/// Elements of a sample, at least and at most.
const SAMPLE: [usize; 2] = [1 << 12, 1 << 19];
/// Elements of a run of rows that is sampled, where rows are shorter.
const RUN: usize = 256;
/// Blocks of the pass over a sample, so that threads share it.
const SAMPLE_BLOCKS: usize = 16;
/// How many standard errors around the sample's magnitude count as near.
const REACH: f64 = 4.0;
/// Bytes that the lists of a unit may take.
const LISTED: f64 = 33_554_432.0;
/// All bits of a magnitude.
const MAGNITUDE: u32 = 0x7fff_ffff;

/// Runs of rows, spread over a unit.
struct Runs {
    count: usize,
    rows: usize,
}

/// Where about a magnitude lies.
#[derive(Clone, Copy, Debug)]
pub(super) struct Guess {
    search: Search,
    /// The bits between which magnitudes are listed, ends included.
    near: [u32; 2],
    /// The sample's own, which is counted: where numbers are coarse, many have it.
    likely: u32,
}

impl Guess {
    /// What is looked for.
    pub(super) fn search(&self) -> Search {
        self.search
    }
}

/// What a block has for one search.
#[derive(Debug, Default)]
pub(super) struct List {
    /// Magnitudes beyond the near ones.
    above: u64,
    likely: u64,
    /// The bits of the near ones but the likely one; in the sample, of all.
    near: Vec<u32>,
}

impl Collect<'_> {
    /// The first pass of some searches.
    pub(super) fn select(&self, searches: Vec<Search>) -> Pass {
        match self.runs() {
            Some(_) => Pass::Sample(searches),
            None => Pass::High(searches),
        }
    }

    fn runs(&self) -> Option<Runs> {
        let elements = self.elements();
        let wanted = (elements / SPARSE).clamp(SAMPLE[0], SAMPLE[1]);
        let rows = RUN.div_ceil(self.work.cols.max(1));
        let count = (wanted / (rows * self.work.cols.max(1))).max(32);
        let fits = elements >= LEAST && count * rows * 2 <= self.work.rows_per_unit;
        fits.then_some(Runs { count, rows })
    }

    pub(super) fn sample_blocks(&self) -> usize {
        self.runs().map_or(1, |runs| runs.count.min(SAMPLE_BLOCKS))
    }

    /// A block's part of the sample.
    pub(super) fn sample(
        &self,
        searches: &[Search],
        unit: usize,
        block: usize,
        scratch: &mut Scratch,
    ) -> Result<Partial, Error> {
        let mut lists: Vec<List> = searches.iter().map(|_| List::default()).collect();
        let Some(runs) = self.runs() else { return Ok(Partial::Lists(lists)) };
        let (blocks, last) = (self.sample_blocks(), self.work.rows_per_unit - runs.rows);
        for run in block * runs.count / blocks..(block + 1) * runs.count / blocks {
            let start = unit * self.work.rows_per_unit + run * last / (runs.count - 1);
            self.magnitudes(searches, &(start..start + runs.rows), scratch, |i, x| {
                lists[i].near.extend(x.iter().map(|v| v.to_bits() & MAGNITUDE));
            })?;
        }
        Ok(Partial::Lists(lists))
    }

    /// The pass that follows a sample.
    pub(super) fn guess(&self, state: &mut State, searches: Vec<Search>) -> Pass {
        let run = self.runs().map_or(1, |runs| runs.rows * self.work.cols);
        let lists = std::mem::take(&mut state.lists);
        let one = |(i, search): (usize, &Search)| {
            let sample = lists.iter().flat_map(|block| &block[i].near).copied().collect();
            guess(*search, sample, run, self.elements())
        };
        match searches.iter().enumerate().map(one).collect() {
            Some(guesses) => Pass::Near(guesses),
            None => Pass::High(searches),
        }
    }

    /// The magnitudes of a pass over all that is near, with how many of their ties are wanted and,
    /// block by block, there; `None` where one of them is not near.
    pub(super) fn found(&self, state: &mut State, guesses: &[Guess]) -> Option<Vec<Search>> {
        let lists = std::mem::take(&mut state.lists);
        let one = |(i, guess): (usize, &Guess)| settle(guess, lists.iter().map(|block| &block[i]));
        let found: Option<Vec<Search>> = guesses.iter().enumerate().map(one).collect();
        let found = found?;
        let ties = |block: &Vec<List>| {
            let each = found.iter().zip(guesses).zip(block);
            each.map(|((search, guess), list)| [list.ties(search.bits, guess) as f64, 0.0, 0.0])
                .collect()
        };
        state.sums = lists.iter().map(ties).collect();
        Some(found)
    }
}

/// Where about a sample, run after run, has the magnitude of a search among `n` elements; `None`
/// where too much lies near it.
fn guess(search: Search, mut sample: Vec<u32>, run: usize, n: usize) -> Option<Guess> {
    if search.wanted == 0 || sample.is_empty() {
        return Some(Guess { search, near: [MAGNITUDE; 2], likely: MAGNITUDE });
    }
    let size = sample.len() as f64;
    let rank = (1.0 - search.wanted as f64 / n as f64) * size;
    let rank = (rank as usize).min(sample.len() - 1);
    let mut sorted = sample.clone();
    let likely = *sorted.select_nth_unstable(rank).1;
    // Elements of a row are alike, so the error is that of a mean over runs.
    let share =
        |run: &[u32]| run.iter().filter(|v| **v >= likely).count() as f64 / run.len() as f64;
    let shares: Vec<f64> = sample.chunks(run).map(share).collect();
    let runs = shares.len() as f64;
    let mean = shares.iter().sum::<f64>() / runs;
    let spread: f64 = shares.iter().map(|share| (share - mean).powi(2)).sum();
    let error = (spread / (runs * (runs - 1.0).max(1.0))).sqrt();
    let reach = (REACH * error * size) as usize + 2;
    let at = |rank: usize, sorted: &mut [u32]| *sorted.select_nth_unstable(rank).1;
    let lower = if rank < reach { 0 } else { at(rank - reach, &mut sorted) };
    let beyond = rank + reach >= sample.len();
    let upper = if beyond { MAGNITUDE } else { at(rank + reach, &mut sorted) };
    sample.retain(|v| (lower..=upper).contains(v) && *v != likely);
    let listed = sample.len() as f64 / size * n as f64 * size_of::<u32>() as f64;
    (listed <= LISTED).then_some(Guess { search, near: [lower, upper], likely })
}

/// The magnitude of a search's rank, and how many of its ties are wanted.
fn settle<'a>(guess: &Guess, blocks: impl Iterator<Item = &'a List> + Clone) -> Option<Search> {
    let found = |bits, wanted| Some(Search { bits, wanted, ..guess.search });
    if guess.search.wanted == 0 {
        return found(MAGNITUDE, 0);
    }
    let above: u64 = blocks.clone().map(|list| list.above).sum();
    let likely: u64 = blocks.clone().map(|list| list.likely).sum();
    let mut near: Vec<u32> = blocks.flat_map(|list| &list.near).copied().collect();
    let mut left = guess.search.wanted.checked_sub(above).filter(|left| *left > 0)?;
    let larger = near.iter().filter(|v| **v > guess.likely).count() as u64;
    if left > larger {
        if left <= larger + likely {
            return found(guess.likely, left - larger);
        }
        left -= likely;
    }
    let at = usize::try_from(left - 1).ok().filter(|at| *at < near.len())?;
    let bits = *near.select_nth_unstable_by(at, |a, b| b.cmp(a)).1;
    let larger = near.iter().filter(|v| **v > bits).count() as u64;
    found(bits, left - larger)
}

impl List {
    /// How many have a magnitude that was found near.
    fn ties(&self, bits: u32, guess: &Guess) -> u64 {
        if bits == guess.likely {
            return self.likely;
        }
        self.near.iter().filter(|v| **v == bits).count() as u64
    }

    /// Sorts out some numbers.
    pub(super) fn add(&mut self, guess: &Guess, x: &[f32]) {
        let [lower, upper] = guess.near;
        let counts = sort_out(x, lower, upper, guess.likely, &mut self.near);
        self.above += counts[0];
        self.likely += counts[1];
    }
}

/// Numbers that are looked at together.
const GROUP: usize = 32;

vectorised! {
    /// How many magnitudes lie above, and how many are the likely one; `near` gets what lies
    /// between the edges but for that.
    fn sort_out(x: &[f32], lower: u32, upper: u32, likely: u32, near: &mut Vec<u32>) -> [u64; 2] {
        let (mut above, mut equal) = ([0_u32; GROUP], [0_u32; GROUP]);
        let (groups, rest) = x.as_chunks::<GROUP>();
        // As signed numbers, for which AVX2 has comparisons.
        let (low, high, same) = (lower as i32, upper as i32, likely as i32);
        for group in groups {
            let mut inside = [0_u32; GROUP];
            for i in 0..GROUP {
                let bits = (group[i].to_bits() & MAGNITUDE) as i32;
                above[i] += u32::from(bits > high);
                equal[i] += u32::from(bits == same);
                inside[i] = u32::from((bits >= low) & (bits <= high) & (bits != same));
            }
            if inside.iter().fold(0, |any, inside| any | inside) != 0 {
                let listed = group.iter().zip(inside).filter(|(_, inside)| *inside != 0);
                near.extend(listed.map(|(v, _)| v.to_bits() & MAGNITUDE));
            }
        }
        let sum = |lanes: [u32; GROUP]| lanes.into_iter().map(u64::from).sum::<u64>();
        let mut counts = [sum(above), sum(equal)];
        for bits in rest.iter().map(|v| v.to_bits() & MAGNITUDE) {
            counts[0] += u64::from(bits > upper);
            counts[1] += u64::from(bits == likely);
            if (lower..=upper).contains(&bits) && bits != likely {
                near.push(bits);
            }
        }
        counts
    }
}
