//! The causal donor advantage (method 1.6) and the prior that follows from it (method 2).

use super::Section;
use crate::figure::{Curve, Group, Swatch, common_range, curves, figure, value_axis};
use crate::ink::{self, Ink};
use crate::run::Run;
use crate::words::{estimate, four_digits};
use darwin_core::files::{Comparison, Estimate, LayerComparison};
use darwin_core::{Domain, Extent, Part};
use serde::Serialize;
use std::collections::BTreeSet;

/// What a prior may speak of, each with its ink.
const EXTENTS: [(Extent, Ink); 5] = [
    (Extent::Layer, ink::CHILD),
    (Extent::Part(Part::Mixer), ink::COMPONENTS[0]),
    (Extent::Part(Part::Routed), ink::COMPONENTS[1]),
    (Extent::Part(Part::Shared), ink::COMPONENTS[2]),
    (Extent::Part(Part::Router), ink::GREY),
];

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
    let groups = [total(comparison), by_domain(comparison), prior(comparison)];
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

/// r per component with two standard deviations of its logit as the band.
fn prior(comparison: &Comparison) -> Option<Group> {
    let mut plot = plotly::Plot::new();
    let mut legend = Vec::new();
    let mut words = Vec::new();
    for (extent, ink) in EXTENTS {
        let line: Vec<(f64, f64, f64)> = comparison
            .layers
            .iter()
            .filter_map(|l| {
                let r = *l.r_mri.get(&extent)?;
                Some((l.layer as f64, r, l.r_sd.get(&extent).copied().unwrap_or(0.0)))
            })
            .collect();
        if line.is_empty() {
            continue;
        }
        let x: Vec<f64> = line.iter().map(|(x, ..)| *x).collect();
        let edge = |sign: f64| line.iter().map(|(_, r, sd)| moved(*r, sign * 2.0 * sd)).collect();
        crate::figure::band(&mut plot, &x, edge(-1.0), edge(1.0), ink, 0.12);
        let y = line.iter().map(|(_, r, _)| bare(Estimate { value: *r, se: 0.0 })).collect();
        Curve { name: extent.name(), ink, x, y }.draw(&mut plot);
        legend.push(Swatch::line(extent.name(), ink));
        words.push(extent.name());
    }
    plot.set_layout(
        crate::figure::layout(
            crate::figure::layer_axis(comparison.layers.len()),
            value_axis("share r").range(vec![0.0, 1.0]),
        )
        .hover_mode(plotly::layout::HoverMode::XUnified),
    );
    let label = format!("Prior share of the mother by layer for {}.", words.join(", "));
    (!legend.is_empty()).then(|| Group {
        title: "The prior that follows".to_owned(),
        text: "Share of the mother that the search starts from, with two standard deviations of \
               its logit: 0.5 says that the profile knows nothing."
            .to_owned(),
        legend,
        columns: "one",
        figures: vec![figure("prior", "", label, 260, plot)],
        ..Group::default()
    })
}

/// r moved by so much in logit space.
fn moved(r: f64, by: f64) -> f64 {
    let r = r.clamp(1e-6, 1.0 - 1e-6);
    four_digits(1.0 / (1.0 + (-((r / (1.0 - r)).ln() + by)).exp()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moving_a_share_in_logit_space() {
        assert_eq!(moved(0.5, 0.0), 0.5);
        assert!((moved(0.5, 1.0) - (1.0 - moved(0.5, -1.0))).abs() < 1e-3);
    }
}
