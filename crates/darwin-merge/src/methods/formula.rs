//! Methods that look at all inputs at once: what they need of a whole unit, and how a tile of the
//! output is computed from tiles of the inputs. Everything is computed in f64 and rounded once.

use super::axis::{Axis, add_columns, by_column, by_row, coefficients};
use super::span::{Span, add_products, products};
use super::sparsify::Edge;
use super::{fusion, ram, sce};
use crate::methods::kernels::combine;

/// One of the methods, with its parameters.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Formula {
    /// A linear combination by lengths and angles.
    Span { rule: Span, axis: Axis },
    /// Towards the other model where it is near: `t / |a - b|` of the way, at most all of it
    /// (mergekit 0.1.5, `nearswap.py`). Nearer than 1e-6 counts as 1e-6.
    NearSwap { t: f64 },
    /// Reinforced Agent Merging, with `r` and `alpha` for RAM+.
    Ram { epsilon: f64, plus: Option<[f64; 2]> },
    /// Select, calculate, erase.
    Sce { select: f64 },
    /// Arcee Fusion.
    Fusion,
}

/// Tiles of all inputs.
#[derive(Clone, Copy)]
pub(crate) struct Tile<'a> {
    /// One for each input; the base comes first where there is one.
    pub(crate) inputs: &'a [Vec<f32>],
    /// Whether the first is a base, from which differences are taken.
    pub(crate) anchored: bool,
    /// Elements of a row; tiles are whole rows.
    pub(crate) cols: usize,
    /// Flat index in the unit of the first element.
    pub(crate) first: u64,
}

impl<'a> Tile<'a> {
    pub(super) fn split(&self) -> (Option<&'a [f32]>, &'a [Vec<f32>]) {
        match self.inputs.split_first() {
            Some((base, models)) if self.anchored => (Some(&base[..]), models),
            _ => (None, self.inputs),
        }
    }

    fn base_and_models(&self) -> (&'a [f32], &'a [Vec<f32>]) {
        match self.inputs {
            [base, models @ ..] => (base, models),
            [] => (&[], &[]),
        }
    }

    pub(super) fn models(&self) -> Vec<&'a [f32]> {
        self.split().1.iter().map(Vec::as_slice).collect()
    }

    /// The kept elements of `sce`, from its statistics.
    fn kept(&self, numbers: &[f64]) -> sce::Kept {
        match numbers {
            [threshold, last, ..] => sce::Kept {
                threshold: *threshold as u32,
                ties: (*last as u64).saturating_sub(self.first) as usize,
            },
            _ => sce::Kept::ALL,
        }
    }
}

/// What a unit's statistics need next.
pub(crate) enum Next {
    /// So many sums over all its elements, with numbers that were found before.
    Sums { stage: u8, numbers: Vec<f64> },
    /// The scores of these ranks, from the largest.
    Select(Vec<u64>),
    /// Nothing: these are the results.
    Done(Vec<f64>),
}

impl Formula {
    /// Whether every column has sums of its own.
    pub(crate) fn by_column(&self) -> bool {
        matches!(self, Self::Span { axis: Axis::Columns(_), .. })
    }

    /// What a unit of `n` elements needs first; `None` where tiles are computed without.
    pub(crate) fn begin(&self, n: usize) -> Option<Next> {
        let sums = |stage| Some(Next::Sums { stage, numbers: Vec::new() });
        match self {
            Self::Span { axis: Axis::Rows, .. } | Self::NearSwap { .. } => None,
            Self::Span { .. } | Self::Ram { plus: Some(_), .. } => sums(0),
            Self::Ram { .. } => None,
            Self::Sce { select } if *select < 1.0 => sums(0),
            Self::Sce { .. } => sums(1),
            Self::Fusion => Some(Next::Select(fusion::quartiles(n).to_vec())),
        }
    }

    /// How many sums a pass has for `k` models.
    pub(crate) fn width(&self, stage: u8, k: usize) -> usize {
        match self {
            Self::Span { axis, .. } => products(k) * axis.vectors(),
            Self::Ram { .. } => 2 * k,
            Self::Sce { .. } if stage == 0 => 1,
            _ => k,
        }
    }

    /// Adds a tile to the sums of a pass.
    pub(crate) fn add(&self, stage: u8, numbers: &[f64], tile: Tile<'_>, sums: &mut [f64]) {
        let (base, models) = tile.base_and_models();
        match self {
            Self::Span { axis: Axis::Columns(count), .. } => add_columns(*count, tile, sums),
            Self::Span { .. } => add_products(&tile.models(), tile.split().0, sums),
            Self::Ram { epsilon, .. } => ram::add_counts(base, models, *epsilon, sums),
            Self::Sce { .. } if stage == 0 => {
                let varies = |at: &usize| sce::variance(*at, base, models) != 0.0;
                sums[0] += (0..base.len()).filter(varies).count() as f64;
            }
            Self::Sce { .. } => sce::add_energies(base, models, tile.kept(numbers), sums),
            Self::NearSwap { .. } | Self::Fusion => {}
        }
    }

    /// What follows a pass for `k` models.
    pub(crate) fn after(&self, stage: u8, numbers: Vec<f64>, sums: &[f64], k: usize) -> Next {
        match self {
            Self::Span { rule, .. } => Next::Done(coefficients(rule, sums, k)),
            Self::Ram { epsilon, plus } => {
                let plus = plus.unwrap_or([0.0, 0.0]);
                Next::Done(ram::factors(sums, *epsilon, plus))
            }
            Self::Sce { select } if stage == 0 => {
                Next::Select(vec![(sums[0] * select.max(0.0)) as u64])
            }
            Self::Sce { .. } => {
                let limits = if numbers.is_empty() { vec![0.0, u64::MAX as f64] } else { numbers };
                Next::Done(limits.into_iter().chain(sce::weights(sums)).collect())
            }
            Self::NearSwap { .. } | Self::Fusion => Next::Done(Vec::new()),
        }
    }

    /// The numbers whose ranks are selected; not negative.
    pub(crate) fn scores(&self, tile: Tile<'_>, out: &mut [f32]) {
        let (base, models) = tile.base_and_models();
        match (self, models) {
            (Self::Fusion, [other]) => fusion::scores(base, other, tile.cols, out),
            _ => (0..out.len()).for_each(|at| out[at] = sce::variance(at, base, models)),
        }
    }

    /// What follows a selection: thresholds with the flat index up to which ties count.
    pub(crate) fn selected(&self, edges: &[Edge]) -> Next {
        let scores: Vec<f32> = edges.iter().map(|(bits, _)| f32::from_bits(*bits)).collect();
        match (self, &scores[..], edges) {
            (Self::Fusion, &[lower, median, upper], _) => {
                Next::Done(vec![fusion::threshold([lower, median, upper])])
            }
            (_, _, [(threshold, last), ..]) => {
                Next::Sums { stage: 1, numbers: vec![f64::from(*threshold), *last as f64] }
            }
            _ => Next::Done(Vec::new()),
        }
    }

    /// Computes a tile of the output from the unit's `numbers`; `out` is not read.
    pub(crate) fn fill(&self, numbers: &[f64], tile: Tile<'_>, out: &mut [f32]) {
        let (base, models) = tile.base_and_models();
        match self {
            Self::Span { rule, axis: Axis::Rows } => by_row(rule, tile, out),
            Self::Span { axis: Axis::Columns(count), .. } => by_column(*count, numbers, tile, out),
            Self::Span { .. } => combine(&tile.models(), tile.split().0, numbers, out),
            Self::NearSwap { t } => {
                for (at, out) in out.iter_mut().enumerate() {
                    let (a, b) = (f64::from(base[at]), f64::from(models[0][at]));
                    let share = (t / (a - b).abs().max(1e-6)).clamp(0.0, 1.0);
                    *out = (share * b + (1.0 - share) * a) as f32;
                }
            }
            Self::Ram { epsilon, .. } => ram::fill(base, models, *epsilon, numbers, out),
            Self::Sce { .. } => {
                let weights = numbers.get(2..).unwrap_or_default();
                sce::fill(base, models, tile.kept(numbers), weights, out);
            }
            Self::Fusion => {
                fusion::scores(base, &models[0], tile.cols, out);
                fusion::fill(base, &models[0], numbers[0], out);
            }
        }
    }
}
