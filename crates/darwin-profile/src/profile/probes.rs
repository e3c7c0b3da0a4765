//! Probes: prompt sets against a generic set (method 1.4). Raw prompts, no chat template, no BOS.

use crate::broken::Broken;
use crate::profile::counters::{PROBE_LIMIT, Samples};
use crate::sample::Sample;
use darwin_core::files::ProbeDistance;
use darwin_core::hash::sha256_hex;
use darwin_core::keyed::{Key, Rng};
use darwin_core::stats::quantile;
use darwin_engine::{Batch, Record, Sequence, Site, Tap};
use std::collections::BTreeMap;

/// Domains whose questions make a probe.
const PROBE_DOMAINS: [&str; 6] = ["reasoning", "code", "logic", "math", "knowledge", "language"];
/// Random halves of the generic set behind the null band.
const SPLITS: usize = 200;
/// A dimension whose sd is below this share of the median sd is left out.
const SD_FLOOR: f64 = 1e-6;

/// Which hidden state stands for a prompt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pooling {
    /// The last content token's.
    #[default]
    Last,
    /// The mean over tokens.
    Mean,
}

/// One prompt's states in all layers.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ProbeRow {
    pub(crate) set: String,
    pub(crate) id: String,
    /// (layers, hidden): the stream after the layer.
    pub(crate) hidden: Vec<f32>,
    /// (layers, hidden): what the layer added.
    pub(crate) update: Vec<f32>,
}

/// At most [`PROBE_LIMIT`] rows of every set, by hash, without duplicates: the same for shards as
/// for the whole.
pub(crate) fn kept(mut rows: Vec<ProbeRow>) -> Vec<ProbeRow> {
    rows.sort_by(|a, b| (&a.set, &a.id).cmp(&(&b.set, &b.id)));
    rows.dedup_by(|a, b| a.set == b.set && a.id == b.id);
    let mut taken: BTreeMap<String, usize> = BTreeMap::new();
    rows.retain(|row| {
        let count = taken.entry(row.set.clone()).or_insert(0);
        *count += 1;
        *count <= PROBE_LIMIT
    });
    rows
}

/// The first value of the prompts' states that is not finite.
pub(crate) fn broken(rows: &[ProbeRow], hidden: usize) -> Option<Broken> {
    rows.iter().find_map(|row| {
        let values = row.hidden.iter().chain(&row.update);
        let (at, value) = values.enumerate().find(|(_, v)| !v.is_finite())?;
        let layer = Some(at % row.hidden.len() / hidden);
        let what = format!("state of a prompt of {}", row.set);
        Some(Broken::of(layer, "residual stream", &what, f64::from(*value), &row.id))
    })
}

/// (set, hash, ids)
pub(crate) type Prompt = (String, String, Vec<u32>);

/// Everything to run: the samples' bare questions.
pub(crate) fn prompts(samples: &[Sample]) -> Vec<Prompt> {
    let questions = samples.iter().map(|s| (s.domain.as_str().to_owned(), s.question.clone()));
    let mut all: Vec<Prompt> = questions
        .filter(|(_, ids)| !ids.is_empty())
        .map(|(set, ids)| (set, sha256_hex(format!("{ids:?}").as_bytes()), ids))
        .collect();
    all.sort();
    all.dedup();
    let mut taken: BTreeMap<String, usize> = BTreeMap::new();
    all.retain(|(set, ..)| {
        let count = taken.entry(set.clone()).or_insert(0);
        *count += 1;
        *count <= PROBE_LIMIT
    });
    all
}

/// Runs of consecutive prompts with at most so many tokens (at least one prompt each).
pub(crate) fn batches(prompts: &[Prompt], tokens: usize) -> Vec<&[Prompt]> {
    let (mut all, mut rest) = (Vec::new(), prompts);
    while !rest.is_empty() {
        let mut size = 0;
        let fits = rest.iter().take_while(|(_, _, ids)| {
            size += ids.len();
            size <= tokens
        });
        let (now, later) = rest.split_at(fits.count().max(1));
        rest = later;
        all.push(now);
    }
    all
}

/// The engine's batch.
pub(crate) fn batch_of(prompts: &[Prompt]) -> Batch {
    Batch::new(prompts.iter().map(|(_, _, ids)| Sequence::new(ids.clone())).collect())
}

/// Keeps pooled states of each sequence: (layers, hidden) after the layer, and of its update.
pub(crate) struct ProbeTap {
    states: Vec<(Vec<f32>, Vec<f32>)>,
    /// Sequence and weight of every token that counts.
    weights: Vec<Option<(usize, f32)>>,
    hidden: usize,
}

impl ProbeTap {
    pub(crate) fn new(batch: &Batch, layers: usize, hidden: usize, pooling: Pooling) -> Self {
        let empty = || vec![0.0; layers * hidden];
        let mut weights = vec![None; batch.tokens()];
        for (i, span) in batch.offsets().windows(2).enumerate() {
            match pooling {
                Pooling::Last => weights[span[1] - 1] = Some((i, 1.0)),
                Pooling::Mean => {
                    weights[span[0]..span[1]].fill(Some((i, 1.0 / (span[1] - span[0]) as f32)));
                }
            }
        }
        let states = batch.sequences().iter().map(|_| (empty(), empty())).collect();
        Self { states, weights, hidden }
    }

    /// What was kept of each prompt of its batch.
    pub(crate) fn rows(self, prompts: &[Prompt]) -> impl Iterator<Item = ProbeRow> {
        prompts.iter().zip(self.states).map(|((set, id, _), (hidden, update))| ProbeRow {
            set: set.clone(),
            id: id.clone(),
            hidden,
            update,
        })
    }
}

impl Tap for ProbeTap {
    fn wants(&self, site: Site, _: usize) -> bool {
        matches!(site, Site::ResidIn | Site::ResidOut)
    }

    fn record(&mut self, r: &Record<'_>) {
        let place = r.layer * self.hidden..(r.layer + 1) * self.hidden;
        for (i, values) in r.values.chunks(self.hidden).enumerate() {
            let Some((sequence, weight)) = self.weights[r.first_token + i] else { continue };
            let (hidden, update) = &mut self.states[sequence];
            if r.site == Site::ResidIn {
                update[place.clone()].iter_mut().zip(values).for_each(|(u, v)| *u -= weight * v);
            } else {
                update[place.clone()].iter_mut().zip(values).for_each(|(u, v)| *u += weight * v);
                hidden[place.clone()].iter_mut().zip(values).for_each(|(h, v)| *h += weight * v);
            }
        }
    }
}

/// Distances of every probe in every layer.
pub(crate) fn distances(samples: &Samples) -> Vec<BTreeMap<String, ProbeDistance>> {
    let width = samples.setting.hidden_size;
    let generic = generic_rows(&samples.probes);
    let probes = probe_rows(&samples.probes);
    if generic.len() < 4 {
        return vec![BTreeMap::new(); samples.setting.layer_kinds.len()];
    }
    (0..samples.setting.layer_kinds.len())
        .map(|layer| {
            let span = layer * width..(layer + 1) * width;
            let stream = Generic::new(take(&generic, |r| &r.hidden[span.clone()]));
            let added = Generic::new(take(&generic, |r| &r.update[span.clone()]));
            let null_band = stream.null_band(layer);
            let distance = |rows: &[&ProbeRow]| {
                let centre = mean(&take(rows, |r| &r.hidden[span.clone()]));
                let update = mean(&take(rows, |r| &r.update[span.clone()]));
                ProbeDistance {
                    literal: 1.0 - cosine(&centre, &stream.mean),
                    robust: stream.distance(&centre, &stream.mean),
                    null_band,
                    update_robust: added.distance(&update, &added.mean),
                    dimensions_dropped: stream.dropped,
                }
            };
            probes.iter().map(|(name, rows)| (name.clone(), distance(rows))).collect()
        })
        .collect()
}

/// All domains pooled evenly: equally many prompts of each.
fn generic_rows(rows: &[ProbeRow]) -> Vec<&ProbeRow> {
    let mut sets: BTreeMap<&str, Vec<&ProbeRow>> = BTreeMap::new();
    for row in rows {
        sets.entry(&row.set).or_default().push(row);
    }
    let even = sets.values().map(Vec::len).min().unwrap_or(0);
    sets.into_values().flat_map(|set| set.into_iter().take(even)).collect()
}

/// The probes by their printed names.
fn probe_rows(rows: &[ProbeRow]) -> BTreeMap<String, Vec<&ProbeRow>> {
    let mut probes: BTreeMap<String, Vec<&ProbeRow>> = BTreeMap::new();
    for row in rows {
        if PROBE_DOMAINS.contains(&row.set.as_str()) {
            probes.entry(row.set.to_uppercase()).or_default().push(row);
        }
    }
    probes
}

fn take<'r>(rows: &[&'r ProbeRow], part: impl Fn(&'r ProbeRow) -> &'r [f32]) -> Vec<&'r [f32]> {
    rows.iter().map(|row| part(row)).collect()
}

/// The generic set in one layer.
struct Generic<'r> {
    rows: Vec<&'r [f32]>,
    mean: Vec<f64>,
    /// sd per dimension; 0 where the dimension is left out.
    sd: Vec<f64>,
    dropped: usize,
}

impl<'r> Generic<'r> {
    fn new(rows: Vec<&'r [f32]>) -> Self {
        let mean = mean(&rows);
        let mut sd: Vec<f64> = (0..mean.len())
            .map(|i| {
                let squares: f64 = rows.iter().map(|r| (f64::from(r[i]) - mean[i]).powi(2)).sum();
                (squares / (rows.len() - 1) as f64).sqrt()
            })
            .collect();
        let floor = SD_FLOOR * quantile(&sd, 0.5).unwrap_or(0.0);
        sd.iter_mut().filter(|s| **s <= floor).for_each(|s| *s = 0.0);
        let dropped = sd.iter().filter(|s| **s == 0.0).count();
        Self { rows, mean, sd, dropped }
    }

    /// sqrt(mean over dimensions of ((a - b) / sd)^2).
    fn distance(&self, a: &[f64], b: &[f64]) -> f64 {
        let parts = a.iter().zip(b).zip(&self.sd).filter(|(_, sd)| **sd > 0.0);
        let sum: f64 = parts.map(|((a, b), sd)| ((a - b) / sd).powi(2)).sum();
        let kept = (self.sd.len() - self.dropped).max(1);
        (sum / kept as f64).sqrt()
    }

    /// 5 and 95 % quantiles of the distance between random halves.
    fn null_band(&self, layer: usize) -> [f64; 2] {
        let mut rng = Rng::new(Key::new(0, &["probe halves", &layer.to_string()]), 0);
        let mut order = self.rows.clone();
        let half = order.len() / 2;
        let found: Vec<f64> = (0..SPLITS)
            .map(|_| {
                rng.shuffle(&mut order);
                self.distance(&mean(&order[..half]), &mean(&order[half..]))
            })
            .collect();
        [0.05, 0.95].map(|q| quantile(&found, q).unwrap_or(0.0))
    }
}

fn mean(rows: &[&[f32]]) -> Vec<f64> {
    let mut sum = vec![0.0; rows.first().map_or(0, |r| r.len())];
    for row in rows {
        sum.iter_mut().zip(*row).for_each(|(s, v)| *s += f64::from(*v));
    }
    sum.iter_mut().for_each(|s| *s /= rows.len() as f64);
    sum
}

fn cosine(a: &[f64], b: &[f64]) -> f64 {
    let dot = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt().max(1e-300)
}
