//! Interference: a component of a layer that is much stronger or weaker in the child than in both
//! parents (method 5).

use super::finding;
use super::observe::Observed;
use crate::estimate::{above, mean, ratio};
use crate::profile::counters::{IMPORTANCE, SampleRow, Sum};
use darwin_core::Part;
use darwin_core::files::{Estimate, Finding, Severity};
use darwin_core::stats::{holm, two_sided_p};
use std::collections::BTreeMap;

/// A component below this share of the layers' median importance is noise.
const NOISE: f64 = 0.05;
/// Standard errors beyond the nearer parent.
const STANDARD_ERRORS: f64 = 3.0;
/// Family-wise false alarms per clean child.
const FALSE_ALARMS: f64 = 0.01;
/// A head of the child this many times its stronger parent's is named.
const HEAD_FACTOR: f64 = 1.5;

/// Importance of every component of a layer: father, mother, child.
pub(super) fn importance(observed: &Observed, layer: usize) -> BTreeMap<Part, [Estimate; 3]> {
    IMPORTANCE
        .iter()
        .map(|(part, sum)| {
            let of = |rows: &Vec<SampleRow>| {
                let sums: Vec<f64> = rows.iter().map(|r| r.layers[layer].sum(*sum)).collect();
                let tokens: Vec<f64> = rows.iter().map(|r| f64::from(r.tokens)).collect();
                ratio(&sums, &tokens)
            };
            (*part, observed.rows.each_ref().map(of))
        })
        .collect()
}

/// A place and how the child differs there.
struct Suspect {
    layer: usize,
    part: Part,
    father: f64,
    mother: f64,
    child: f64,
    /// Paired difference to the nearer parent, in standard errors.
    z: f64,
    /// Whether it may be called interference at all: outside the parents' range and not noise.
    outside: bool,
}

pub(super) fn findings(observed: &Observed) -> Vec<Finding> {
    let mut suspects = Vec::new();
    for (part, sum) in IMPORTANCE {
        let per_layer: Vec<[f64; 3]> = (0..observed.num_layers())
            .map(|l| importance(observed, l)[&part].map(|e| e.value))
            .collect();
        let mut children: Vec<f64> = per_layer.iter().map(|[.., child]| *child).collect();
        children.sort_by(f64::total_cmp);
        let median = children.get(children.len() / 2).copied().unwrap_or(0.0);
        for (layer, [father, mother, child]) in per_layer.into_iter().enumerate() {
            let (low, high) = (father.min(mother) / 2.0, 2.0 * father.max(mother));
            // A component that vanished is interference, however small it is in the child.
            let size = child.max(father).max(mother);
            suspects.push(Suspect {
                layer,
                part,
                father,
                mother,
                child,
                z: paired_z(observed, layer, sum),
                outside: !(low..=high).contains(&child) && above(size, NOISE * median),
            });
        }
    }
    let p: Vec<f64> = suspects.iter().map(|s| two_sided_p(s.z)).collect();
    let adjusted = holm(&p);
    suspects
        .iter()
        .zip(adjusted)
        .filter(|(s, p)| {
            let certain = s.z.abs() >= STANDARD_ERRORS && *p < FALSE_ALARMS;
            s.outside && (certain || s.z.is_nan() || p.is_nan())
        })
        .map(|(s, _)| describe(observed, s))
        .collect()
}

/// The child's importance minus that of the nearer parent, sample by sample, over its standard
/// error.
fn paired_z(observed: &Observed, layer: usize, sum: Sum) -> f64 {
    let of = |i: usize, s: usize| {
        let row = &observed.rows[i][s];
        row.layers[layer].sum(sum) / f64::from(row.tokens.max(1))
    };
    let against = |parent: usize| {
        let differences: Vec<f64> =
            (0..observed.num_samples()).map(|s| of(2, s) - of(parent, s)).collect();
        mean(&differences)
    };
    let (f, m) = (against(0), against(1));
    let nearer = if f.value.abs() <= m.value.abs() { f } else { m };
    match (nearer.value == 0.0, nearer.se > 0.0) {
        (true, _) => 0.0,
        (false, true) => nearer.value / nearer.se,
        // The same difference in every sample.
        (false, false) => f64::INFINITY.copysign(nearer.value),
    }
}

fn describe(observed: &Observed, s: &Suspect) -> Finding {
    let factor = if s.child > s.father.max(s.mother) {
        s.child / s.father.max(s.mother).max(f64::MIN_POSITIVE)
    } else {
        s.child / s.father.min(s.mother).max(f64::MIN_POSITIVE)
    };
    let mut text = format!(
        "L{} interference: child importance {factor:.2}x parent in {} ({:.3} against {:.3} and {:.3})",
        s.layer, s.part, s.child, s.father, s.mother
    );
    let heads = heads(observed, s);
    if !heads.is_empty() {
        let list: Vec<String> = heads.iter().map(usize::to_string).collect();
        text.push_str(&format!(", weight conflict at attention heads {}", list.join(", ")));
    }
    let advice = "take this component of the layer from one parent (darwin: copy), or lower its t";
    Finding {
        layer: Some(s.layer),
        component: Some(s.part.name().to_owned()),
        size: Some(factor),
        ..finding(Severity::Fail, "interference", text, advice)
    }
}

/// Heads of a full-attention mixer that are far stronger in the child than in either parent.
fn heads(observed: &Observed, s: &Suspect) -> Vec<usize> {
    if s.part != Part::Mixer || !observed.full_attention[s.layer] {
        return Vec::new();
    }
    let of = |i: usize| -> Vec<f64> {
        let mut total: Vec<f64> = Vec::new();
        for row in &observed.rows[i] {
            let heads = &row.layers[s.layer].heads;
            total.resize(heads.len(), 0.0);
            total.iter_mut().zip(heads).for_each(|(t, h)| *t += h);
        }
        total
    };
    let (f, m, c) = (of(0), of(1), of(2));
    (0..c.len()).filter(|h| above(c[*h], HEAD_FACTOR * f[*h].max(m[*h]))).collect()
}
