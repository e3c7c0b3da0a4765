//! Expert correspondence (method 1.5): for siblings of one ancestor it must be the identity.

use crate::Error;
use darwin_checkpoint::{TensorPlan, TensorSource};
use darwin_core::stats::assignment;
use rayon::prelude::*;

/// Elements of an expert's weights that enter the similarity, taken evenly.
const SAMPLE: usize = 4096;
/// Values of an expert that are read at once.
const TILE: usize = 1 << 20;

/// Whether the best assignment of the mother's experts to the father's is the identity; `None` in a
/// dense layer.
pub(crate) fn aligned(
    father: &dyn TensorSource,
    mother: &dyn TensorSource,
    layer: usize,
) -> Result<Option<bool>, Error> {
    let features = (features(father, layer)?, features(mother, layer)?);
    let (Some(f), Some(m)) = features else { return Ok(None) };
    if f.len() != m.len() {
        return Ok(None);
    }
    let cost: Vec<Vec<f64>> =
        f.iter().map(|x| m.iter().map(|y| -similarity(x, y)).collect()).collect();
    let best = assignment(&cost);
    Ok(best.map(|columns| columns.into_iter().enumerate().all(|(i, j)| i == j)))
}

/// Of every expert, its router row and a sample of each of its tensors, each of norm 1.
type Features = Vec<Vec<Vec<f32>>>;

fn features(source: &dyn TensorSource, layer: usize) -> Result<Option<Features>, Error> {
    let names = ["gate.weight", "experts.gate_up_proj", "experts.down_proj"];
    let mut experts: Features = Vec::new();
    for name in names {
        let Some(id) = source.manifest().find(&format!("layers.{layer}.mlp.{name}")) else {
            return Ok(None);
        };
        let count = source.manifest().get(id).shape[0];
        experts.resize(count, Vec::new());
        let plan = source.prepare(id)?;
        let size = plan.rows / count.max(1) * plan.cols;
        let sample = |expert: usize| sample(source, &plan, expert * size, size);
        let found: Vec<Vec<f32>> =
            (0..count).into_par_iter().map(sample).collect::<Result<_, _>>()?;
        for (expert, own) in experts.iter_mut().zip(found) {
            expert.push(unit(own));
        }
    }
    Ok(Some(experts))
}

/// Elements of an expert that lie evenly among its `size`, from element `first` of the tensor on;
/// read in tiles.
fn sample(
    source: &dyn TensorSource,
    plan: &TensorPlan,
    first: usize,
    size: usize,
) -> Result<Vec<f32>, Error> {
    let (cols, step) = (plan.cols.max(1), size.div_ceil(SAMPLE).max(1));
    let (rows, mut sampled) = ((TILE / cols).max(1), Vec::new());
    let mut tile = Vec::new();
    for start in (first / cols..(first + size) / cols).step_by(rows) {
        let end = (start + rows).min((first + size) / cols);
        tile.resize((end - start) * cols, 0.0);
        source.read_tile(plan, start..end, &mut tile)?;
        let done = start * cols - first;
        sampled.extend(tile.iter().skip(done.next_multiple_of(step) - done).step_by(step));
    }
    Ok(sampled)
}

fn unit(mut v: Vec<f32>) -> Vec<f32> {
    let norm = crate::profile::tap::norm(&v).max(1e-30) as f32;
    v.iter_mut().for_each(|x| *x /= norm);
    v
}

/// Sum of cosines over router row and tensors.
fn similarity(a: &[Vec<f32>], b: &[Vec<f32>]) -> f64 {
    a.iter().zip(b).map(|(x, y)| crate::profile::tap::dot(x, y)).sum()
}
