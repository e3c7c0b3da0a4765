//! Static statistics of a layer's weights and the published layer score (method 1.4).

use crate::Error;
use darwin_checkpoint::{Tapped, TensorId, TensorInfo, TensorPlan, TensorSource};
use darwin_core::files::Profile;
use rayon::prelude::*;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

const BINS: usize = 256;
/// The histogram spans so many standard deviations each way.
const SPAN: f64 = 4.0;
/// Values read at once.
const TILE: usize = 1 << 20;
/// Values that differ in the lower half of their bits alone are counted together: those that are
/// bfloat16 numbers each for itself.
const CODES: usize = 1 << 16;

/// Bytes of counts while weights are read: of each thread, and of tensors that are not whole.
pub(crate) fn counting_bytes() -> usize {
    (rayon::current_num_threads() + 4) * 3 * 8 * CODES
}

/// Values by their upper halves, in integers: exact, whatever the order and the tiles in which they
/// come.
#[derive(Default)]
struct Counts {
    values: Vec<u64>,
    /// Sums of the lower halves, and of their squares; empty while all are 0.
    lower: Vec<[u64; 2]>,
}

impl Counts {
    fn add(&mut self, values: &[f32]) {
        self.values.resize(CODES, 0);
        for v in values {
            let (code, lower) = ((v.to_bits() >> 16) as usize, u64::from(v.to_bits() & 0xffff));
            self.values[code] += 1;
            if lower > 0 {
                if self.lower.is_empty() {
                    self.lower.resize(CODES, [0; 2]);
                }
                self.lower[code][0] += lower;
                self.lower[code][1] += lower * lower;
            }
        }
    }

    fn merge(&mut self, other: &Self) {
        self.values.resize(CODES, 0);
        self.values.iter_mut().zip(&other.values).for_each(|(a, b)| *a += b);
        if !other.lower.is_empty() {
            self.lower.resize(CODES, [0; 2]);
        }
        for (a, b) in self.lower.iter_mut().zip(&other.lower) {
            a.iter_mut().zip(b).for_each(|(a, b)| *a += b);
        }
    }

    /// Calls `f` with how many values have the same upper half, what these values begin with, what
    /// one in the lower half adds, and the sums of the lower halves and of their squares.
    fn each(&self, mut f: impl FnMut(f64, f64, f64, [f64; 2])) {
        for (code, n) in self.values.iter().enumerate().filter(|(_, n)| **n > 0) {
            let value = |lower: u32| f64::from(f32::from_bits((code as u32) << 16 | lower));
            let lower = self.lower.get(code).map_or([0.0; 2], |l| l.map(|v| v as f64));
            f(*n as f64, value(0), value(1) - value(0), lower);
        }
    }

    /// (entropy of the histogram in bits, sd, L2 / sqrt(n))
    fn statistics(&self) -> [f64; 3] {
        let (mut sum, mut squares, mut n) = (0.0, 0.0, 0.0);
        self.each(|count, base, step, [lower, lower_squares]| {
            n += count;
            sum += count * base + lower * step;
            squares +=
                count * base * base + 2.0 * base * lower * step + lower_squares * step * step;
        });
        let mean: f64 = sum / n;
        let sd = (squares / n - mean * mean).max(0.0).sqrt();
        let mut bins = [0.0; BINS];
        self.each(|count, base, step, [lower, _]| {
            let value = base + lower / count * step;
            let place = (value - mean) / sd.max(f64::MIN_POSITIVE);
            let bin = (place + SPAN) / (2.0 * SPAN) * BINS as f64;
            bins[bin.clamp(0.0, (BINS - 1) as f64) as usize] += count;
        });
        [darwin_core::stats::entropy_bits(&bins), sd, (squares / n).sqrt()]
    }
}

/// What was seen of a tensor.
#[derive(Default)]
struct Seen {
    rows: usize,
    counts: Counts,
    statistics: Option<[f64; 3]>,
}

/// Statistics of a source's weights, gathered while others read it, so that nothing is read twice.
pub(crate) struct Statics<'a> {
    source: &'a dyn TensorSource,
    seen: Vec<Mutex<Seen>>,
}

impl<'a> Statics<'a> {
    pub(crate) fn new(source: &'a dyn TensorSource) -> Self {
        let seen = source.manifest().tensors().iter().map(|_| Mutex::default()).collect();
        Self { source, seen }
    }

    /// The source, to be read by whoever needs it.
    pub(crate) fn source(&self) -> impl TensorSource {
        Tapped::new(self.source, |plan, rows, read| {
            if let Ok(values) = read {
                self.look(plan, &rows, values);
            }
        })
    }

    /// The statistics, averaged over the tensors of each of so many layers. What nobody has read
    /// yet is read.
    pub(crate) fn finish(self, layers: usize) -> Result<Vec<[f64; 3]>, Error> {
        let manifest = self.source.manifest();
        let mut sums = vec![([0.0; 3], 0.0_f64); layers];
        let inside = manifest.ids().filter_map(|id| {
            let info = manifest.get(id);
            let layer = info.layer?.0;
            (layer < layers && counts(info)).then_some((layer, id))
        });
        let inside: Vec<(usize, TensorId)> = inside.collect();
        let found: Vec<[f64; 3]> =
            inside.par_iter().map(|(_, id)| self.of_tensor(*id)).collect::<Result<_, _>>()?;
        for ((layer, _), values) in inside.iter().zip(found) {
            let (sum, n) = &mut sums[*layer];
            sum.iter_mut().zip(values).for_each(|(s, v)| *s += v);
            *n += 1.0;
        }
        Ok(sums.into_iter().map(|(sum, n)| sum.map(|s| s / n.max(1.0))).collect())
    }

    fn of_tensor(&self, id: TensorId) -> Result<[f64; 3], Error> {
        if let Some(known) = self.seen(id).statistics {
            return Ok(known);
        }
        let plan = self.source.prepare(id)?;
        let step = (TILE / plan.cols.max(1)).max(1);
        let mut buffer = vec![0.0; step.min(plan.rows) * plan.cols];
        let mut counts = Counts::default();
        for first in (0..plan.rows).step_by(step) {
            let rows = first..(first + step).min(plan.rows);
            let out = &mut buffer[..rows.len() * plan.cols];
            self.source.read_tile(&plan, rows, out)?;
            counts.add(out);
        }
        Ok(counts.statistics())
    }

    fn look(&self, plan: &TensorPlan, rows: &Range<usize>, values: &[f32]) {
        let info = self.source.manifest().get(plan.id);
        if info.layer.is_none() || !counts(info) || self.seen(plan.id).statistics.is_some() {
            return;
        }
        // Several threads read one tensor: they count for themselves what is worth it.
        let mut own = Counts::default();
        if values.len() >= CODES {
            own.add(values);
        }
        let mut seen = self.seen(plan.id);
        match own.values.is_empty() {
            true => seen.counts.add(values),
            false => seen.counts.merge(&own),
        }
        seen.rows += rows.len();
        if seen.rows == plan.rows {
            seen.statistics = Some(std::mem::take(&mut seen.counts).statistics());
        }
    }

    fn seen(&self, id: TensorId) -> MutexGuard<'_, Seen> {
        // Whoever panicked while it held the lock has ended the pass as well.
        self.seen[id.index()].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Entropy of the histogram in bits, standard deviation and L2 norm of some of a source's tensors,
/// in the order of `ids` (method 2).
///
/// # Errors
/// Whatever reading brings.
pub fn tensor_statics(source: &dyn TensorSource, ids: &[TensorId]) -> Result<Vec<[f64; 3]>, Error> {
    let statics = Statics::new(source);
    let of = |id: &TensorId| {
        let [entropy, sd, root_mean_square] = statics.of_tensor(*id)?;
        let elements = source.manifest().get(*id).elements() as f64;
        Ok([entropy, sd, root_mean_square * elements.sqrt()])
    };
    ids.par_iter().map(of).collect()
}

/// Whether a tensor of a layer enters its statistics.
fn counts(info: &TensorInfo) -> bool {
    info.dtype.is_mergeable() && info.elements() > 1
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Counted in tiles of any size and order: bit for bit the same, and what the formulas say.
    #[test]
    fn counts_are_exact_whatever_the_tiles() {
        let values: Vec<f32> = (0..200_000_i32)
            .map(|i| ((i.wrapping_mul(7919) % 2003) as f32 - 900.0) * 0.000_37)
            .collect();
        let mut whole = Counts::default();
        whole.add(&values);
        let mut parts = Counts::default();
        for tile in values.rchunks(70_001) {
            let mut own = Counts::default();
            own.add(tile);
            parts.merge(&own);
        }
        assert_eq!(whole.statistics(), parts.statistics());
        let n = values.len() as f64;
        let mean = values.iter().map(|v| f64::from(*v)).sum::<f64>() / n;
        let squares = values.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / n;
        let [entropy, sd, rms] = whole.statistics();
        assert!((rms - squares.sqrt()).abs() < 1e-12 * rms);
        assert!((sd - (squares - mean * mean).sqrt()).abs() < 1e-12 * sd);
        assert!((6.0..7.0).contains(&entropy), "{entropy}");
    }
}
