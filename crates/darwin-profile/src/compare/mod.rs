//! Parent against parent (method 1.5, 1.6).

mod advantage;
mod experts;
mod flags;
mod goal;
mod ranks;
mod routers;
pub(crate) mod streamed;
mod variants;
mod weights;

use crate::broken::called;
use crate::estimate::mean;
use crate::pass::{Meter, stop_if};
use crate::sample::{Sample, samples_fingerprint, samples_of};
use crate::subject::same_shape;
use crate::{Error, Subject};
use advantage::{ComponentSwaps, Passes, Swaps};
use darwin_checkpoint::TensorSource;
use darwin_core::files::{
    CalibrationRef, Comparison, ComponentDelta, Estimate, LayerComparison, ModelRef, Origin,
    Profile, SCHEMA,
};
use darwin_core::{Cancel, Domain, Fingerprint, Part, Progress};
use darwin_engine::{LayerSource, Room};
use darwin_eval::Encoded;
use goal::Goal;
use std::collections::BTreeMap;

/// How to compare.
#[derive(Clone, Debug)]
pub struct CompareOptions {
    /// The user's goal: weight per domain. Empty: all domains alike. A domain that is not named
    /// has weight 0.
    pub weights: BTreeMap<Domain, f64>,
    /// Domains whose loss is flagged layer by layer.
    pub protected: Vec<Domain>,
    /// Whether components are swapped too, in layers with |A| > 2 se.
    pub components: bool,
    /// Tokens run at once.
    pub batch_tokens: usize,
    /// At most so many samples per domain, by hash.
    pub per_domain: Option<usize>,
    /// Likewise for the swaps of components, which cost most.
    pub per_domain_components: Option<usize>,
}

impl Default for CompareOptions {
    fn default() -> Self {
        Self {
            weights: BTreeMap::new(),
            protected: Vec::new(),
            components: true,
            batch_tokens: 4096,
            per_domain: Some(48),
            per_domain_components: Some(8),
        }
    }
}

/// Bytes of hidden states of loaded parents that go through the layers together.
const STATES: u64 = 1 << 28;

/// A parent, loaded or not.
#[derive(Clone, Copy)]
pub(crate) struct Parent<'a> {
    pub(crate) model: &'a dyn LayerSource,
    pub(crate) source: &'a dyn TensorSource,
    pub(crate) reference: &'a ModelRef,
}

impl<'a> From<&Subject<'a>> for Parent<'a> {
    fn from(subject: &Subject<'a>) -> Self {
        Self { model: subject.model, source: subject.source, reference: subject.reference }
    }
}

/// What is kept in memory meanwhile.
#[derive(Clone, Debug)]
pub(crate) struct Kept {
    pub(crate) room: Room,
    /// Bytes of hidden states of a sweep.
    pub(crate) states: u64,
    pub(crate) batch_tokens: usize,
}

/// Compares two parents on calibration items. Costs, in forward tokens, the two parents' own passes
/// and L + 1 more for the layers; for components the two again and at most 4 (L - l) / L per
/// direction for each layer l that is beyond 2 se.
///
/// # Errors
/// [`Error::Mismatch`] for parents of different shapes; [`Error::NoSamples`]; whatever engine and
/// weights bring; [`Error::Cancelled`].
pub fn compare(
    father: &Subject<'_>,
    mother: &Subject<'_>,
    profiles: [&Profile; 2],
    encoded: &Encoded,
    options: &CompareOptions,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<Comparison, Error> {
    let batch_tokens = options.batch_tokens;
    let kept = Kept { room: Room::default(), states: STATES, batch_tokens };
    run([father.into(), mother.into()], profiles, encoded, options, &kept, progress, cancel)
}

/// Compares parents of any kind.
pub(crate) fn run(
    parents: [Parent<'_>; 2],
    profiles: [&Profile; 2],
    encoded: &Encoded,
    options: &CompareOptions,
    kept: &Kept,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<Comparison, Error> {
    let models = parents.map(|p| p.model);
    let [father, mother] = parents;
    let named = parents.map(|p| (p.model.config(), p.reference));
    same_shape(named[0], named[1])?;
    let samples = samples_of(encoded, options.per_domain);
    if samples.is_empty() {
        return Err(Error::NoSamples);
    }
    let layers = father.model.config().num_hidden_layers;
    let all = |samples: &[Sample]| {
        samples.iter().map(|s| s.ids.len() as u64).sum::<u64>() * layers as u64
    };
    progress.start("compare the parents", all(&samples), "layer tokens");
    let Kept { room, states, batch_tokens } = kept;
    let (states, batch_tokens) = (*states, *batch_tokens);
    let names =
        &[called("father", &father.reference.name), called("mother", &mother.reference.name)];
    let passes =
        Passes { models, names, samples: &samples, batch_tokens, room, states, progress, cancel };
    let mut meter = Meter::default();
    let goal = Goal::new(&samples, &options.weights);
    let swaps = passes.swap_layers(&mut meter)?;
    let advantages: Vec<_> =
        swaps.layers.iter().map(|[a, b]| goal.advantage(a, b, BTreeMap::new())).collect();
    progress.finish();
    let beyond = |l: &usize| advantages[*l].total.value.abs() > 2.0 * advantages[*l].total.se;
    let chosen: Vec<usize> = (0..layers).filter(|l| options.components && beyond(l)).collect();
    let fewer = samples_of(encoded, options.per_domain_components.or(options.per_domain));
    let passes = Passes { samples: &fewer, ..passes };
    let total = all(&fewer) * chosen.len().min(1) as u64;
    progress.start("compare components", total, "layer tokens");
    let swapped = passes.swap_components(&chosen, &mut meter)?;
    progress.finish();
    let components = Components { swaps: swapped, goal: Goal::new(&fewer, &options.weights) };
    let deltas = weights::deltas(father.source, mother.source, layers)?;
    let mut compared = Vec::with_capacity(layers);
    for (layer, delta) in deltas.into_iter().enumerate() {
        stop_if(cancel)?;
        let aligned = experts::aligned(father.source, mother.source, layer)?;
        compared.push(one_layer(layer, delta, aligned, &swaps, &components, &goal, profiles));
    }
    let mut comparison = Comparison {
        schema: SCHEMA,
        father: father.reference.clone(),
        mother: mother.reference.clone(),
        origin: compare_origin([father.reference, mother.reference], encoded, options),
        calibration: calibration(&samples, encoded),
        weights: goal.weights().clone(),
        father_nll: goal.by_domain(&swaps.nll[0]),
        mother_nll: goal.by_domain(&swaps.nll[1]),
        layers: compared,
        rank_correlations: BTreeMap::new(),
        flags: Vec::new(),
        forward_tokens: meter.forward_tokens(layers),
    };
    comparison.rank_correlations = ranks::correlations(&comparison, profiles);
    comparison.flags = flags::flags(&comparison, profiles, &options.protected);
    Ok(comparison)
}

/// The origin that a comparison will have, without comparing anything.
#[must_use]
pub fn compare_origin(
    parents: [&ModelRef; 2],
    encoded: &Encoded,
    options: &CompareOptions,
) -> Origin {
    let items = items_of(&samples_of(encoded, options.per_domain), encoded);
    let [father, mother] = parents.map(|parent| &parent.fingerprint);
    // How many tokens run at once decides no number.
    let decisive = CompareOptions { batch_tokens: 0, ..options.clone() };
    let options = Fingerprint::of("compare options", [("options", format!("{decisive:?}"))]);
    Origin::now(
        [("father", father), ("mother", mother)],
        [(encoded.split().name(), &items)],
        options,
    )
}

fn items_of(samples: &[Sample], encoded: &Encoded) -> Fingerprint {
    samples_fingerprint(encoded.split(), samples.iter().map(|s| s.id.as_str()))
}

fn calibration(samples: &[Sample], encoded: &Encoded) -> CalibrationRef {
    let mut domains = BTreeMap::new();
    for sample in samples {
        *domains.entry(sample.domain.clone()).or_insert(0) += 1;
    }
    CalibrationRef {
        items_sha256: items_of(samples, encoded).into(),
        split: encoded.split(),
        samples: samples.len(),
        tokens: samples.iter().map(|s| s.ids.len() as u64).sum(),
        domains,
    }
}

/// Swaps of components, with the goal over the samples that they were measured on.
struct Components {
    swaps: ComponentSwaps,
    goal: Goal,
}

fn one_layer(
    layer: usize,
    deltas: BTreeMap<Part, ComponentDelta>,
    experts_aligned: Option<bool>,
    swaps: &Swaps,
    components: &Components,
    goal: &Goal,
    profiles: [&Profile; 2],
) -> LayerComparison {
    let parts = components
        .swaps
        .iter()
        .filter(|((l, _), _)| *l == layer)
        .map(|((_, c), [a, b])| (*c, components.goal.total(&half_sums(a, b))))
        .collect();
    let [jaccard, router_kl] = swaps.routers.layer(layer);
    let [a, b] = &swaps.layers[layer];
    let loads = profiles.map(|p| p.layers.get(layer).and_then(|l| l.experts.as_ref()));
    let dead = loads.map(|l| l.filter(|l| l.undecidable.is_none()).map(|l| &l.dead));
    let only = |here: usize| {
        let (mine, other) = dead[here].zip(dead[1 - here])?;
        let count = mine.iter().filter(|j| !other.contains(j)).count();
        Some(count as f64 / profiles[here].num_experts.max(1) as f64)
    };
    LayerComparison {
        layer,
        deltas,
        experts_aligned,
        jaccard: experts_aligned.map(|_| jaccard),
        router_kl: experts_aligned.map(|_| router_kl),
        load_tv: loads[0].zip(loads[1]).map(|(f, m)| total_variation(&f.tokens, &m.tokens)),
        dead_in_mother_only: only(1),
        dead_in_father_only: only(0),
        advantage: goal.advantage(a, b, parts),
    }
}

/// (A + B) / 2 per sample.
fn half_sums(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| f64::midpoint(*a, *b)).collect()
}

/// Half the sum of the differences of the experts' shares.
fn total_variation(a: &[u64], b: &[u64]) -> f64 {
    let totals = [a, b].map(|x| x.iter().sum::<u64>().max(1) as f64);
    let pairs = a.iter().zip(b);
    pairs.map(|(x, y)| (*x as f64 / totals[0] - *y as f64 / totals[1]).abs()).sum::<f64>() / 2.0
}

impl Goal {
    /// Means of per-sample values by domain.
    fn by_domain(&self, values: &[f64]) -> BTreeMap<Domain, Estimate> {
        self.groups(values).into_iter().map(|(d, v)| (d.clone(), mean(&v))).collect()
    }
}
