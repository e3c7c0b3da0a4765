//! Derivatives of the goal by the mother's share (method 1.6), and what became of them (method 2).

use super::Section;
use crate::figure::{Curve, Group, Swatch, common_range, curves, figure, value_axis};
use crate::ink::{self, Ink};
use crate::run::Run;
use crate::words::{estimate, grouped};
use darwin_core::files::{DiagnosisFile, Estimate, PartSlope};
use darwin_core::{Domain, Part};
use serde::Serialize;

/// The parts of a layer, each with its ink.
const PARTS: [(Part, Ink); 4] = [
    (Part::Mixer, ink::COMPONENTS[0]),
    (Part::Routed, ink::COMPONENTS[1]),
    (Part::Shared, ink::COMPONENTS[2]),
    (Part::Router, ink::GREY),
];

/// The section.
#[derive(Debug, Serialize)]
pub(crate) struct Derivatives {
    pub(crate) words: Vec<String>,
    pub(crate) groups: Vec<Group>,
    /// Domains of the table below.
    pub(crate) domains: Vec<String>,
    pub(crate) outside: Vec<Row>,
    pub(crate) experts: Vec<ExpertRow>,
}

/// Embedding, norm or head.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) part: String,
    pub(crate) goal: String,
    pub(crate) domains: Vec<String>,
    pub(crate) share: String,
}

/// An expert that carries a skill, or harms one.
#[derive(Debug, Serialize)]
pub(crate) struct ExpertRow {
    pub(crate) expert: String,
    pub(crate) goal: String,
    pub(crate) better: &'static str,
    pub(crate) share: String,
}

/// Makes the section.
pub(crate) fn diagnosis(run: &Run) -> Section<Derivatives> {
    match &run.diagnosis {
        Ok(file) => Section { missing: Vec::new(), body: Some(body(file)) },
        Err(why) => Section {
            missing: vec![format!("{why} It is there where an arm measures derivatives.")],
            body: None,
        },
    }
}

fn body(file: &DiagnosisFile) -> Derivatives {
    let domains: Vec<&Domain> = file.n.keys().collect();
    let outside = file.parts.iter().filter(|part| part.layer.is_none()).map(|part| Row {
        part: part.part.name().to_owned(),
        goal: estimate(part.goal),
        domains: domains.iter().map(|d| of_domain(part, d).map_or("-".into(), estimate)).collect(),
        share: part.shares.map_or("-".to_owned(), |[_, mean, _]| format!("{mean:.2}")),
    });
    let experts = file.experts.iter().map(|e| ExpertRow {
        expert: format!("layer {}, expert {}", e.layer.0, e.expert.0),
        goal: estimate(e.goal),
        better: if e.goal.value > 0.0 { "mother" } else { "father" },
        share: e.share.map_or("-".to_owned(), |share| format!("{share:.2}")),
    });
    let groups = [goal(file), by_domain(file, &domains), shares(file)];
    Derivatives {
        words: words(file),
        groups: groups.into_iter().flatten().collect(),
        outside: outside.collect(),
        experts: experts.collect(),
        domains: domains.iter().map(|d| d.to_string()).collect(),
    }
}

fn of_domain(part: &PartSlope, domain: &Domain) -> Option<Estimate> {
    part.domains.get(domain).copied()
}

fn words(file: &DiagnosisFile) -> Vec<String> {
    let least = file.n.values().min().copied().unwrap_or(0);
    let mut words = vec![format!(
        "Measured at the line's best point, t = {:.2}, on at least {least} items of each domain, for {} forward \
         tokens. Between two disjoint halves of the items the derivatives of all shares correlate by {:.2}.",
        file.t,
        grouped(file.forward_tokens),
        file.repeatability
    )];
    if let Some(rho) = file.swaps_correlation {
        words.push(format!(
            "The swaps of whole layers below rank the layers with a correlation of {rho:.2} to this; they drive \
             nothing."
        ));
    }
    if let Some(child) = file.child {
        let along = child.along.map_or_else(String::new, |along| {
            format!("the derivatives along the ascent say {along:+.3}; ")
        });
        words.push(format!(
            "What would change: {along}the quadratic model at the line's best point says that the shares {} \
             gain {:+.3} over that point; measured were {:+.3} (mean probability of the reference answer).",
            whose(file),
            child.predicted,
            child.measured
        ));
    }
    words
}

fn layers(file: &DiagnosisFile) -> usize {
    file.parts.iter().filter_map(|part| part.layer).map(|layer| layer.0 + 1).max().unwrap_or(0)
}

/// A curve for each part over the layers.
fn drawn<'a>(file: &DiagnosisFile, of: impl Fn(&PartSlope) -> Option<Estimate>) -> Vec<Curve<'a>> {
    let curve = |(wanted, ink): (Part, Ink)| {
        let own = file.parts.iter().filter(|part| part.part == wanted);
        let points = own.filter_map(|part| Some((part.layer?.0 as f64, of(part)?)));
        let (x, y): (Vec<f64>, Vec<Estimate>) = points.unzip();
        (!x.is_empty()).then(|| Curve { name: wanted.name(), ink, x, y })
    };
    PARTS.into_iter().filter_map(curve).collect()
}

fn goal(file: &DiagnosisFile) -> Option<Group> {
    let drawn = drawn(file, |part| Some(part.goal));
    let legend = drawn.iter().map(|c| Swatch::line(c.name, c.ink)).collect();
    let z = |part: &&PartSlope| part.goal.value.abs() / part.goal.se.max(1e-300);
    let strongest = file.parts.iter().max_by(|a, b| z(a).total_cmp(&z(b)))?;
    let place = strongest.layer.map_or(String::new(), |layer| format!(" of layer {}", layer.0));
    let label = format!(
        "Derivative of the goal by the mother's share, by layer and part. Furthest from zero in standard errors: {}{place}, {}.",
        strongest.part,
        estimate(strongest.goal)
    );
    let plot = curves(layers(file), value_axis("goal for a share of 1"), &drawn);
    Some(Group {
        title: "The goal".to_owned(),
        legend,
        columns: "one",
        figures: vec![figure("slopes", "", label, 300, plot)],
        ..Group::default()
    })
}

fn by_domain(file: &DiagnosisFile, domains: &[&Domain]) -> Option<Group> {
    let all: Vec<(&Domain, Vec<Curve<'_>>)> =
        domains.iter().map(|d| (*d, drawn(file, |part| of_domain(part, d)))).collect();
    let range = common_range(all.iter().flat_map(|(_, drawn)| drawn))?;
    let figures = all.iter().enumerate().map(|(i, (domain, drawn))| {
        let label = format!("Derivative of {domain} by the mother's share, by layer and part.");
        let axis = value_axis("").range(range.clone());
        let plot = curves(layers(file), axis, drawn);
        figure(format!("slopes-{i}"), domain.to_string(), label, 190, plot)
    });
    Some(Group {
        title: "By domain".to_owned(),
        text: "The same scale in every panel; colours as above.".to_owned(),
        columns: "three",
        figures: figures.collect(),
        ..Group::default()
    })
}

/// Whose shares they are.
fn whose(file: &DiagnosisFile) -> String {
    file.arm.map_or_else(|| "of the child".to_owned(), |arm| format!("that `{}` found", arm.name()))
}

/// Mean shares, where there is one for each group.
fn shares(file: &DiagnosisFile) -> Option<Group> {
    let bare = |part: &PartSlope| Some(Estimate { value: part.shares?[1], se: 0.0 });
    let drawn = drawn(file, bare);
    let legend = drawn.iter().map(|c| Swatch::line(c.name, c.ink)).collect();
    let label = format!("Mean of the mother's shares {}, by layer and part.", whose(file));
    let plot = curves(layers(file), value_axis("share of the mother"), &drawn);
    (!drawn.is_empty()).then(|| Group {
        title: "What became of it".to_owned(),
        text: format!(
            "Mean of the mother's shares {} in each part; experts and tensors have shares of their \
             own within it.",
            whose(file)
        ),
        legend,
        columns: "one",
        figures: vec![figure("slopes-shares", "", label, 260, plot)],
        ..Group::default()
    })
}
