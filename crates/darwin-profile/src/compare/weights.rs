//! Weight differences per component (method 1.5).

use crate::Error;
use darwin_checkpoint::{TensorInfo, TensorSource};
use darwin_core::Part;
use darwin_core::files::ComponentDelta;
use nalgebra::{DMatrix, SVD};
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::ops::Range;

/// Rows and columns of a matrix that enter its singular values, taken evenly.
const RANK_SIZE: usize = 192;
/// Experts of a fused tensor that enter its effective rank, taken evenly.
const RANK_EXPERTS: usize = 4;

/// Values of a tensor that are read at once.
const TILE: usize = 1 << 20;

/// QR steps per singular value at most; two or three are usual.
const SVD_STEPS: usize = 100;

/// What one tensor adds to its component.
#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    delta: f64,
    father: f64,
    equal_signs: u64,
    elements: u64,
    rank_sum: f64,
    ranks: u64,
}

impl Sums {
    fn add(&mut self, other: Self) {
        self.delta += other.delta;
        self.father += other.father;
        self.equal_signs += other.equal_signs;
        self.elements += other.elements;
        self.rank_sum += other.rank_sum;
        self.ranks += other.ranks;
    }

    fn delta(self) -> ComponentDelta {
        ComponentDelta {
            relative: (self.delta / self.father.max(f64::MIN_POSITIVE)).sqrt(),
            effective_rank: self.rank_sum / self.ranks.max(1) as f64,
            sign_agreement: self.equal_signs as f64 / self.elements.max(1) as f64,
        }
    }
}

/// Differences by component for every layer; tensors are read in tiles.
pub(crate) fn deltas(
    father: &dyn TensorSource,
    mother: &dyn TensorSource,
    layers: usize,
) -> Result<Vec<BTreeMap<Part, ComponentDelta>>, Error> {
    let inside: Vec<(usize, Part, &TensorInfo)> = father
        .manifest()
        .tensors()
        .iter()
        .filter_map(|info| Some((info.layer?.0, info.part()?, info)))
        .filter(|(layer, _, info)| *layer < layers && info.dtype.is_mergeable())
        .collect();
    let parts: Vec<Sums> = inside
        .par_iter()
        .map(|(_, _, info)| part(father, mother, info))
        .collect::<Result<_, _>>()?;
    let mut sums: Vec<BTreeMap<Part, Sums>> = vec![BTreeMap::new(); layers];
    for ((layer, component, _), part) in inside.iter().zip(parts) {
        sums[*layer].entry(*component).or_default().add(part);
    }
    let finished = |layer: BTreeMap<Part, Sums>| {
        layer.into_iter().map(|(name, part)| (name, part.delta())).collect()
    };
    Ok(sums.into_iter().map(finished).collect())
}

fn part(
    father: &dyn TensorSource,
    mother: &dyn TensorSource,
    info: &TensorInfo,
) -> Result<Sums, Error> {
    let find = |source: &dyn TensorSource| source.manifest().find(&info.name);
    let (Some(f), Some(m)) = (find(father), find(mother)) else { return Ok(Sums::default()) };
    if mother.manifest().get(m).shape != info.shape {
        return Ok(Sums::default());
    }
    let plans = (father.prepare(f)?, mother.prepare(m)?);
    let (all, cols) = (plans.0.rows, plans.0.cols);
    let step = (TILE / cols.max(1)).max(1);
    let mut part = Sums { elements: info.elements() as u64, ..Sums::default() };
    let mut sampled = Sampled::of(info);
    let mut tiles = [Vec::new(), Vec::new()];
    for first in (0..all).step_by(step) {
        let rows = first..all.min(first + step);
        tiles.iter_mut().for_each(|tile| tile.resize(rows.len() * cols, 0.0));
        let [f, m] = &mut tiles;
        father.read_tile(&plans.0, rows.clone(), f)?;
        mother.read_tile(&plans.1, rows.clone(), m)?;
        for (f, m) in f.iter().zip(&*m) {
            let (x, y) = (f64::from(*f), f64::from(*m));
            part.delta += (y - x).powi(2);
            part.father += x * x;
            part.equal_signs += u64::from((*f > 0.0) == (*m > 0.0) && (*f < 0.0) == (*m < 0.0));
        }
        sampled.take(rows, f, m);
    }
    for rank in sampled.ranks() {
        part.rank_sum += rank;
        part.ranks += 1;
    }
    Ok(part)
}

/// What enters the effective ranks of the delta's matrices (of some experts of a fused tensor, else
/// of the tensor): rows and columns that lie evenly.
struct Sampled {
    cols: usize,
    /// In each matrix.
    rows: Vec<usize>,
    columns: Vec<usize>,
    /// The first row of each matrix.
    matrices: Vec<usize>,
    /// (matrices, rows, columns) of mother - father
    deltas: Vec<f64>,
}

impl Sampled {
    fn of(info: &TensorInfo) -> Self {
        let (experts, cols) = (info.experts().unwrap_or(1), info.cols());
        let rows = info.rows() / experts;
        let chosen = if rows < 2 || cols < 2 { 0 } else { RANK_EXPERTS };
        Self {
            cols,
            rows: evenly(rows, RANK_SIZE),
            columns: evenly(cols, RANK_SIZE),
            matrices: evenly(experts, chosen).into_iter().map(|j| j * rows).collect(),
            deltas: Vec::new(),
        }
    }

    /// Takes what is wanted of the next rows.
    fn take(&mut self, rows: Range<usize>, father: &[f32], mother: &[f32]) {
        for first in &self.matrices {
            for row in self.rows.iter().map(|row| first + row).filter(|row| rows.contains(row)) {
                let at = (row - rows.start) * self.cols;
                let delta = |c: &usize| f64::from(mother[at + c]) - f64::from(father[at + c]);
                self.deltas.extend(self.columns.iter().map(delta));
            }
        }
    }

    fn ranks(&self) -> impl Iterator<Item = f64> + '_ {
        let (rows, columns) = (self.rows.len(), self.columns.len());
        let matrices = self.deltas.chunks_exact((rows * columns).max(1));
        matrices.map(move |values| effective_rank(DMatrix::from_row_slice(rows, columns, values)))
    }
}

/// exp(entropy of the normalised singular values) of mother - father; 0 for equal matrices (Roy and
/// Vetterli, EUSIPCO 2007).
fn effective_rank(delta: DMatrix<f64>) -> f64 {
    let most_steps = SVD_STEPS * delta.nrows().min(delta.ncols());
    let Some(svd) = SVD::try_new(delta, false, false, f64::EPSILON, most_steps) else { return 0.0 };
    let values = svd.singular_values;
    let total: f64 = values.iter().sum();
    if total.is_nan() || total <= 0.0 {
        return 0.0;
    }
    let shares = values.iter().map(|s| s / total).filter(|p| *p > 0.0);
    shares.map(|p| -p * p.ln()).sum::<f64>().exp()
}

/// At most `most` indices below `n`, evenly spread.
fn evenly(n: usize, most: usize) -> Vec<usize> {
    let count = n.min(most);
    (0..count).map(|i| i * n / count).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rank_one_delta_has_rank_one() {
        let outer = DMatrix::from_fn(4, 5, |i, j| ((i + 1) * (j + 1)) as f64);
        assert!((effective_rank(outer) - 1.0).abs() < 1e-6);
        assert_eq!(effective_rank(DMatrix::zeros(4, 5)), 0.0);
        assert!((effective_rank(DMatrix::identity(4, 4)) - 4.0).abs() < 1e-6);
    }
}
