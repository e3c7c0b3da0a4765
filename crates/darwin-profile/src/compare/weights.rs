//! Weight differences per component (method 1.5).

use crate::{Error, Subject};
use darwin_checkpoint::{Role, TensorInfo, TensorSource, read_tensor};
use darwin_core::files::ComponentDelta;
use nalgebra::{DMatrix, SVD};
use rayon::prelude::*;
use std::collections::BTreeMap;

/// Rows and columns of a matrix that enter its singular values, taken evenly.
const RANK_SIZE: usize = 192;
/// Experts of a fused tensor that enter its effective rank, taken evenly.
const RANK_EXPERTS: usize = 4;

/// QR steps per singular value at most; two or three are usual.
const SVD_STEPS: usize = 100;

/// What one tensor adds to its component.
#[derive(Clone, Copy, Debug, Default)]
struct Part {
    delta: f64,
    father: f64,
    equal_signs: u64,
    elements: u64,
    rank_sum: f64,
    ranks: u64,
}

impl Part {
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

/// Differences by component for every layer.
pub(crate) fn deltas(
    father: &Subject<'_>,
    mother: &Subject<'_>,
    layers: usize,
) -> Result<Vec<BTreeMap<String, ComponentDelta>>, Error> {
    let inside: Vec<(usize, &'static str, &TensorInfo)> = father
        .source
        .manifest()
        .tensors()
        .iter()
        .filter_map(|info| Some((info.layer?.0, component_of(info)?, info)))
        .filter(|(layer, _, info)| *layer < layers && info.dtype.is_mergeable())
        .collect();
    let parts: Vec<Part> = inside
        .par_iter()
        .map(|(_, _, info)| part(father.source, mother.source, info))
        .collect::<Result<_, _>>()?;
    let mut sums: Vec<BTreeMap<String, Part>> = vec![BTreeMap::new(); layers];
    for ((layer, component, _), part) in inside.iter().zip(parts) {
        sums[*layer].entry((*component).to_owned()).or_default().add(part);
    }
    let finished = |layer: BTreeMap<String, Part>| {
        layer.into_iter().map(|(name, part)| (name, part.delta())).collect()
    };
    Ok(sums.into_iter().map(finished).collect())
}

/// Norms belong to the component that they feed (method 3.1).
fn component_of(info: &TensorInfo) -> Option<&'static str> {
    match info.role {
        Role::Norm if info.name.ends_with("input_layernorm.weight") => Some("mixer"),
        Role::Norm => Some("routed"),
        role => role.component().map(darwin_core::Component::name),
    }
}

fn part(
    father: &dyn TensorSource,
    mother: &dyn TensorSource,
    info: &TensorInfo,
) -> Result<Part, Error> {
    let find = |source: &dyn TensorSource| source.manifest().find(&info.name);
    let (Some(f), Some(m)) = (find(father), find(mother)) else { return Ok(Part::default()) };
    if mother.manifest().get(m).shape != info.shape {
        return Ok(Part::default());
    }
    let (f, m) = (read_tensor(father, f)?, read_tensor(mother, m)?);
    let mut part = Part { elements: f.len() as u64, ..Part::default() };
    for (f, m) in f.iter().zip(&m) {
        let (x, y) = (f64::from(*f), f64::from(*m));
        part.delta += (y - x).powi(2);
        part.father += x * x;
        part.equal_signs += u64::from((*f > 0.0) == (*m > 0.0) && (*f < 0.0) == (*m < 0.0));
    }
    for rank in ranks(&f, &m, info) {
        part.rank_sum += rank;
        part.ranks += 1;
    }
    Ok(part)
}

/// Effective ranks of the delta's matrices: of some experts of a fused tensor, else of the tensor.
fn ranks(father: &[f32], mother: &[f32], info: &TensorInfo) -> Vec<f64> {
    let cols = info.cols();
    let experts = info.experts().unwrap_or(1);
    let rows = info.rows() / experts;
    if rows < 2 || cols < 2 {
        return Vec::new();
    }
    let size = rows * cols;
    evenly(experts, RANK_EXPERTS)
        .into_iter()
        .map(|j| {
            let span = j * size..(j + 1) * size;
            effective_rank(&father[span.clone()], &mother[span], rows, cols)
        })
        .collect()
}

/// exp(entropy of the normalised singular values) of mother - father; 0 for equal matrices (Roy and
/// Vetterli, EUSIPCO 2007).
fn effective_rank(father: &[f32], mother: &[f32], rows: usize, cols: usize) -> f64 {
    let (r, c) = (evenly(rows, RANK_SIZE), evenly(cols, RANK_SIZE));
    let delta = DMatrix::<f64>::from_fn(r.len(), c.len(), |i, j| {
        let at = r[i] * cols + c[j];
        f64::from(mother[at]) - f64::from(father[at])
    });
    let most_steps = SVD_STEPS * r.len().min(c.len());
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
        let zero = vec![0.0; 20];
        let outer: Vec<f32> = (0..20).map(|i| ((i / 5 + 1) * (i % 5 + 1)) as f32).collect();
        assert!((effective_rank(&zero, &outer, 4, 5) - 1.0).abs() < 1e-6);
        assert_eq!(effective_rank(&outer, &outer, 4, 5), 0.0);
        let identity: Vec<f32> = (0..16).map(|i| f32::from(u8::from(i / 4 == i % 4))).collect();
        assert!((effective_rank(&zero[..16], &identity, 4, 4) - 4.0).abs() < 1e-6);
    }
}
