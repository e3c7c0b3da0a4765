//! Static statistics of a layer's weights and the published layer score (method 1.4).

use crate::Error;
use darwin_checkpoint::{TensorId, TensorSource};
use darwin_core::files::Profile;
use rayon::prelude::*;

const BINS: usize = 256;
/// The histogram spans so many standard deviations each way.
const SPAN: f64 = 4.0;
/// Values read at once.
const TILE: usize = 1 << 20;

/// (entropy of the weights' histogram in bits, sd, L2 / sqrt(n)), averaged over the tensors of
/// every layer.
pub(crate) fn statics(source: &dyn TensorSource, layers: usize) -> Result<Vec<[f64; 3]>, Error> {
    let manifest = source.manifest();
    let mut sums = vec![([0.0; 3], 0.0_f64); layers];
    let inside: Vec<(usize, TensorId)> = manifest
        .ids()
        .filter_map(|id| {
            let info = manifest.get(id);
            let layer = info.layer?.0;
            (layer < layers && info.dtype.is_mergeable() && info.elements() > 1)
                .then_some((layer, id))
        })
        .collect();
    let found: Vec<[f64; 3]> =
        inside.par_iter().map(|(_, id)| of_tensor(source, *id)).collect::<Result<_, _>>()?;
    for ((layer, _), values) in inside.iter().zip(found) {
        let (sum, n) = &mut sums[*layer];
        sum.iter_mut().zip(values).for_each(|(s, v)| *s += v);
        *n += 1.0;
    }
    Ok(sums.into_iter().map(|(sum, n)| sum.map(|s| s / n.max(1.0))).collect())
}

fn of_tensor(source: &dyn TensorSource, id: TensorId) -> Result<[f64; 3], Error> {
    let (mut sum, mut squares, mut n) = (0.0, 0.0, 0.0);
    tiles(source, id, |values| {
        for v in values {
            let v = f64::from(*v);
            sum += v;
            squares += v * v;
        }
        n += values.len() as f64;
    })?;
    let mean: f64 = sum / n;
    let sd = (squares / n - mean * mean).max(0.0).sqrt();
    let mut bins = [0_u64; BINS];
    tiles(source, id, |values| {
        for v in values {
            let place = (f64::from(*v) - mean) / sd.max(f64::MIN_POSITIVE);
            let bin = (place + SPAN) / (2.0 * SPAN) * BINS as f64;
            bins[bin.clamp(0.0, (BINS - 1) as f64) as usize] += 1;
        }
    })?;
    let counts: Vec<f64> = bins.iter().map(|b| *b as f64).collect();
    Ok([darwin_core::stats::entropy_bits(&counts), sd, (squares / n).sqrt()])
}

/// Reads a tensor in tiles of rows.
fn tiles(
    source: &dyn TensorSource,
    id: TensorId,
    mut visit: impl FnMut(&[f32]),
) -> Result<(), Error> {
    let plan = source.prepare(id)?;
    let step = (TILE / plan.cols.max(1)).max(1);
    let mut buffer = vec![0.0; step.min(plan.rows) * plan.cols];
    for first in (0..plan.rows).step_by(step) {
        let rows = first..(first + step).min(plan.rows);
        let out = &mut buffer[..rows.len() * plan.cols];
        source.read_tile(&plan, rows, out)?;
        visit(out);
    }
    Ok(())
}

/// The published layer score, MRI = a Static + (1 - a) Probe: each part min-max scaled over the
/// layers, Probe being the mean literal distance over the probes. For siblings of one ancestor it
/// is nearly equal (method 1.4).
#[must_use]
pub fn literal_mri(profile: &Profile, a: f64) -> Vec<f64> {
    let part = |value: &dyn Fn(usize) -> f64| {
        scaled(&(0..profile.layers.len()).map(value).collect::<Vec<_>>())
    };
    let stats: Vec<Vec<f64>> =
        (0..3).map(|i| part(&|l| profile.layers[l].static_stats[i])).collect();
    let probe = part(&|l| {
        let probes = &profile.layers[l].probes;
        probes.values().map(|p| p.literal).sum::<f64>() / probes.len().max(1) as f64
    });
    (0..probe.len())
        .map(|l| a * stats.iter().map(|s| s[l]).sum::<f64>() / 3.0 + (1.0 - a) * probe[l])
        .collect()
}

/// Scaled to 0..=1; 0.5 everywhere where all are equal.
fn scaled(values: &[f64]) -> Vec<f64> {
    let low = values.iter().copied().fold(f64::INFINITY, f64::min);
    let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    values.iter().map(|v| if high > low { (v - low) / (high - low) } else { 0.5 }).collect()
}
