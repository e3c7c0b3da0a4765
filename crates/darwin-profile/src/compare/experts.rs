//! Expert correspondence (method 1.5): for siblings of one ancestor it must be the identity.

use crate::{Error, Subject};
use darwin_checkpoint::{TensorSource, read_tensor};
use darwin_core::stats::assignment;

/// Elements of an expert's weights that enter the similarity, taken evenly.
const SAMPLE: usize = 4096;

/// Whether the best assignment of the mother's experts to the father's is the identity; `None` in a
/// dense layer.
pub(crate) fn aligned(
    father: &Subject<'_>,
    mother: &Subject<'_>,
    layer: usize,
) -> Result<Option<bool>, Error> {
    let features = (features(father.source, layer)?, features(mother.source, layer)?);
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
        let values = read_tensor(source, id)?;
        let size = values.len() / count.max(1);
        for (expert, own) in experts.iter_mut().zip(values.chunks(size.max(1))) {
            let step = size.div_ceil(SAMPLE).max(1);
            expert.push(unit(own.iter().step_by(step).copied().collect()));
        }
    }
    Ok(Some(experts))
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
