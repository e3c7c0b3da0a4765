//! Phase 3: the child's health against both parents (method 5), whoever made the child.

mod accounting;
mod experts;
mod function;
mod generation;
mod interference;
mod observe;
mod summary;
mod weights;

pub use accounting::preflight;
pub use summary::health_summary;
pub use weights::{Loaded, Weights};

use crate::broken::Broken;
use crate::profile::counters::IMPORTANCE;
use crate::sample::{Sample, samples_of};
use crate::subject::same_shape;
use crate::{Error, Subject};
use darwin_core::files::{Estimate, Finding, Health, LayerHealth, SCHEMA, Severity, Verdict};
use darwin_core::{Cancel, Progress};
use darwin_engine::Text;
use darwin_eval::Encoded;
use observe::{Observed, observe};
use std::collections::BTreeMap;

/// A child and its parents.
#[derive(Clone, Copy)]
pub struct Family<'a> {
    /// The child.
    pub child: Subject<'a>,
    /// The father: structural parent.
    pub father: Subject<'a>,
    /// The mother.
    pub mother: Subject<'a>,
    /// What the weights of child, father and mother showed when they were read.
    pub weights: [&'a Weights; 3],
}

/// How to check.
#[derive(Clone, Copy, Debug)]
pub struct CheckOptions {
    /// At most so many samples per domain, by hash.
    pub per_domain: Option<usize>,
    /// Prompts that all three models continue; 0 skips the generation checks.
    pub generate: usize,
    /// Longest continuation, tokens.
    pub max_new_tokens: usize,
}

impl Default for CheckOptions {
    fn default() -> Self {
        Self { per_domain: None, generate: 32, max_new_tokens: 96 }
    }
}

/// Checks a loaded child: interference, function loss, dead experts, accounting, finite weights and
/// values, norm drift, generation. The worst finding is the verdict. A child that computes NaN or
/// infinities fails, and nothing that would take a forward pass is said of it.
///
/// # Errors
/// [`Error::Mismatch`] where the three are not of one shape; [`Error::NoSamples`];
/// [`Error::NotFinite`] where a parent computes NaN or infinities; whatever engine and weights bring;
/// [`Error::Cancelled`].
pub fn check<'a>(
    family: &Family<'a>,
    encoded: &Encoded,
    text: &Text,
    options: &CheckOptions,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<Health, Error> {
    let named = |s: &Subject<'a>| (s.model.config(), s.reference);
    same_shape(named(&family.father), named(&family.child))?;
    same_shape(named(&family.father), named(&family.mother))?;
    let samples: Vec<Sample> = samples_of(encoded, options.per_domain);
    if samples.is_empty() {
        return Err(Error::NoSamples);
    }
    let observed = observe(family, &samples, progress, cancel)?;
    let mut findings = accounting::account(family.child.source, family.father.source);
    findings.extend(family.weights[0].findings(family.child.source.manifest()));
    findings.extend(accounting::norm_drift(family));
    let unknown = [Estimate { value: f64::NAN, se: f64::NAN }; 2];
    let mut health = Health {
        schema: SCHEMA,
        father: family.father.reference.clone(),
        mother: family.mother.reference.clone(),
        child: family.child.reference.clone(),
        verdict: Verdict::Fail,
        findings: Vec::new(),
        checks: checks_of_weights(),
        layers: Vec::new(),
        nll: BTreeMap::new(),
        kl: unknown,
        same_top: unknown,
    };
    match observed {
        Err(broken) => {
            let stopped = "stopped at the child's first value that is not finite".to_owned();
            health.checks.insert(NOT_FINITE.to_owned(), stopped);
            findings.push(not_finite(&broken));
        }
        Ok(observed) => {
            findings.extend(interference::findings(&observed));
            findings.extend(function::findings(&observed));
            let dead = experts::dead(&observed);
            findings.extend(experts::findings(family, &dead)?);
            if options.generate > 0 {
                findings.extend(generation::findings(family, encoded, text, options, cancel)?);
            }
            health.checks.extend(checks(&observed, options));
            health.layers = layers(&observed, &dead);
            health.nll = function::nll(&observed);
            (health.kl, health.same_top) = (observed.kl(), observed.same_top());
            findings.extend(measured(&health).as_ref().map(not_finite));
        }
    }
    findings.sort_by(|a, b| b.severity.cmp(&a.severity).then(a.layer.cmp(&b.layer)));
    health.verdict = verdict(&findings);
    health.findings = findings;
    Ok(health)
}

/// The check that all values are finite.
const NOT_FINITE: &str = "not_finite";

/// The finding of a child that computes NaN or infinities.
fn not_finite(broken: &Broken) -> Finding {
    Finding {
        layer: broken.layer,
        component: Some(broken.component.to_owned()),
        ..finding(
            Severity::Fail,
            NOT_FINITE,
            format!("the child computes values that are not finite: {}", broken.text),
            "its weights are too large for float32: lower lambda and the weights of the recipe",
        )
    }
}

/// The first number of the tables that is not finite.
fn measured(health: &Health) -> Option<Broken> {
    let broken = |layer: Option<usize>, component: &'static str, what: &str, values: &[f64]| {
        let value = values.iter().find(|v| !v.is_finite())?;
        let place = layer.map_or(String::new(), |layer| format!("layer {layer}, "));
        let text = format!("{place}{component}: the {what} is {value}");
        Some(Broken { layer, component, text })
    };
    let both = |estimates: &[Estimate]| -> Vec<f64> {
        estimates.iter().flat_map(|e| [e.value, e.se]).collect()
    };
    let of_layer = |l: &LayerHealth| {
        let at = Some(l.layer);
        let importance = IMPORTANCE.iter().find_map(|(part, _)| {
            broken(at, part.name(), "importance", &both(l.importance.get(part)?))
        });
        let jaccard = l.router_jaccard.unwrap_or_default();
        importance
            .or_else(|| broken(at, "router", "Jaccard index", &jaccard))
            .or_else(|| broken(at, "routed", "load", &l.relative_load))
            .or_else(|| broken(at, "residual stream", "distance", &[l.off_segment]))
    };
    let nll = || health.nll.values().find_map(|e| broken(None, "head", "loss", &both(e)));
    let layers = health.layers.iter().find_map(of_layer);
    layers
        .or_else(nll)
        .or_else(|| broken(None, "head", "KL", &both(&health.kl)))
        .or_else(|| broken(None, "head", "share of top tokens", &both(&health.same_top)))
}

fn verdict(findings: &[Finding]) -> Verdict {
    match findings.iter().map(|f| f.severity).max() {
        Some(Severity::Fail) => Verdict::Fail,
        Some(Severity::Warn) => Verdict::Warn,
        _ => Verdict::Pass,
    }
}

fn layers(observed: &Observed, dead: &[Option<[Vec<usize>; 3]>]) -> Vec<LayerHealth> {
    (0..observed.num_layers())
        .map(|layer| LayerHealth {
            layer,
            importance: interference::importance(observed, layer),
            router_jaccard: observed.jaccard(layer),
            off_segment: observed.off_segment(layer),
            dead: dead[layer].clone(),
            relative_load: experts::relative_load(observed, layer),
        })
        .collect()
}

fn checks_of_weights() -> BTreeMap<String, String> {
    [
        ("accounting", "every tensor of the father, names, shapes and dtypes"),
        ("nan", "every weight"),
        ("norm_drift", "the norm of every matrix"),
    ]
    .map(|(name, text)| (name.to_owned(), text.to_owned()))
    .into()
}

fn checks(observed: &Observed, options: &CheckOptions) -> BTreeMap<String, String> {
    let n = observed.num_samples();
    let looked = format!("{n} samples, {} tokens", observed.tokens());
    let mut checks: BTreeMap<String, String> = [
        (NOT_FINITE, format!("{looked}; the stream after every block, router logits, logits")),
        ("interference", format!("{looked}; Holm over layers and components at 1 %")),
        ("function_loss", format!("{looked}; nats per answer, paired, 3 standard errors")),
        ("dead_experts", format!("{looked}; upper 95 % bound of the load below 0.01")),
    ]
    .map(|(name, text)| (name.to_owned(), text))
    .into();
    if options.generate > 0 {
        let text = format!("up to {} continuations of each model", options.generate);
        checks.insert("generation".to_owned(), text);
    }
    checks
}

/// A finding without layer, component, domain or size.
fn finding(severity: Severity, check: &str, text: String, advice: &str) -> Finding {
    Finding {
        severity,
        check: check.to_owned(),
        layer: None,
        component: None,
        domain: None,
        size: None,
        text,
        advice: advice.to_owned(),
    }
}
