//! The causal donor advantage (method 1.6).

use super::Section;
use crate::figure::{Curve, Group, Swatch, common_range, curves, figure, value_axis};
use crate::ink::{self, Ink};
use crate::run::Run;
use crate::words::estimate;
use darwin_core::Domain;
use darwin_core::files::{Comparison, Estimate, LayerComparison};
use serde::Serialize;
use std::collections::BTreeSet;

/// The section.
#[derive(Debug, Serialize)]
pub(crate) struct Advantages {
    pub(crate) groups: Vec<Group>,
    pub(crate) flags: Vec<String>,
    pub(crate) correlations: Vec<(String, String)>,
}

/// Makes the section.
pub(crate) fn advantage(run: &Run) -> Section<Advantages> {
    run.comparison.as_ref().map_err(Clone::clone).map(body).into()
}

fn body(comparison: &Comparison) -> Advantages {
    let groups = [total(comparison), by_domain(comparison)];
    let correlations = comparison.rank_correlations.iter();
    Advantages {
        groups: groups.into_iter().flatten().collect(),
        flags: comparison.flags.clone(),
        correlations: correlations
            .map(|(k, v)| (k.replace('_', " "), format!("{v:+.2}")))
            .collect(),
    }
}

/// A curve over the layers of a comparison.
fn over<'a>(
    comparison: &Comparison,
    name: &'a str,
    ink: Ink,
    of: impl Fn(&LayerComparison) -> Option<Estimate>,
) -> Curve<'a> {
    let found = comparison.layers.iter().filter_map(|l| Some((l.layer as f64, of(l)?)));
    let (x, y) = found.unzip();
    Curve { name, ink, x, y }
}

fn total(comparison: &Comparison) -> Option<Group> {
    let total = over(comparison, "mean of both", ink::CHILD, |l| Some(l.advantage.total));
    let into_father =
        over(comparison, "into the father", ink::FATHER, |l| Some(bare(l.advantage.into_father)));
    let into_mother =
        over(comparison, "into the mother", ink::MOTHER, |l| Some(bare(l.advantage.into_mother)));
    let strongest = comparison
        .layers
        .iter()
        .max_by(|a, b| a.advantage.total.value.abs().total_cmp(&b.advantage.total.value.abs()))?;
    let clear = comparison
        .layers
        .iter()
        .filter(|l| l.advantage.total.value.abs() > 2.0 * l.advantage.total.se);
    let label = format!(
        "Causal advantage of the mother by layer. Strongest in layer {}: {} nats per answer; \
         beyond two standard errors in {} of {} layers.",
        strongest.layer,
        estimate(strongest.advantage.total),
        clear.count(),
        comparison.layers.len()
    );
    let curves_drawn = [total, into_father, into_mother];
    let legend = curves_drawn.iter().map(|c| Swatch::line(c.name, c.ink)).collect();
    let plot = curves(comparison.layers.len(), value_axis("nats per answer"), &curves_drawn);
    Some(Group {
        title: "All domains, weighted by the goal".to_owned(),
        legend,
        columns: "one",
        figures: vec![figure("advantage", "", label, 300, plot)],
        ..Group::default()
    })
}

fn bare(e: Estimate) -> Estimate {
    Estimate { value: e.value, se: 0.0 }
}

fn by_domain(comparison: &Comparison) -> Option<Group> {
    let domains: BTreeSet<&Domain> =
        comparison.layers.iter().flat_map(|l| l.advantage.by_domain.keys()).collect();
    let drawn: Vec<Curve<'_>> = domains
        .iter()
        .map(|d| {
            over(comparison, d.as_str(), ink::CHILD, |l| l.advantage.by_domain.get(*d).copied())
        })
        .collect();
    let range = common_range(&drawn)?;
    let figures = drawn.into_iter().enumerate().map(|(i, curve)| {
        let strongest =
            curve.x.iter().zip(&curve.y).max_by(|a, b| a.1.value.abs().total_cmp(&b.1.value.abs()));
        let strongest =
            strongest.map(|(x, e)| format!(", strongest in layer {x}: {}", estimate(*e)));
        let label =
            format!("Advantage of the mother on {}{}.", curve.name, strongest.unwrap_or_default());
        let axis = value_axis("").range(range.clone());
        let title = curve.name.to_owned();
        figure(
            format!("advantage-{i}"),
            title,
            label,
            190,
            curves(comparison.layers.len(), axis, &[curve]),
        )
    });
    Some(Group {
        title: "By domain".to_owned(),
        text: "Nats per answer, the same scale in every panel.".to_owned(),
        columns: "three",
        figures: figures.collect(),
        ..Group::default()
    })
}
