//! Layer curves of father, mother and child: importance, routing, block influence, probes
//! (method 1.2, 1.4), and where the child lies between its parents (method 5).

use super::{Section, sentences};
use crate::figure::{Curve, Figure, Group, Swatch, band, curves, figure, value_axis};
use crate::ink::{self, Ink};
use crate::run::Run;
use crate::words::four_digits;
use darwin_core::Part;
use darwin_core::files::{Estimate, Health, LayerProfile, Profile, Routing};
use plotly::Plot;
use std::collections::BTreeSet;

/// The profiles at hand, each with its name and ink.
type Family<'a> = Vec<(&'static str, Ink, &'a Profile)>;

/// Makes the section.
pub(crate) fn layer_curves(run: &Run) -> Section<Vec<Group>> {
    let parts = [&run.father, &run.mother, &run.child];
    let missing = sentences(parts.iter().map(|p| p.as_ref().err()));
    let named = ink::FAMILY.iter().zip(parts);
    let family: Family<'_> =
        named.filter_map(|((name, ink), p)| Some((*name, *ink, p.as_ref().ok()?))).collect();
    let mut groups: Vec<Group> =
        [importance(&family), routing(&family), influence(&family), probes(&family)]
            .into_iter()
            .flatten()
            .collect();
    groups.extend(run.health.as_ref().ok().and_then(between));
    Section { missing, body: (!groups.is_empty()).then_some(groups) }
}

fn legend(family: &Family<'_>) -> Vec<Swatch> {
    family.iter().map(|(name, ink, _)| Swatch::line(*name, *ink)).collect()
}

/// One picture: a quantity of every layer, for each model.
fn picture(
    family: &Family<'_>,
    id: String,
    title: &str,
    unit: &str,
    of: impl Fn(&LayerProfile) -> Option<Estimate>,
) -> Option<Figure> {
    let drawn: Vec<Curve<'_>> =
        family.iter().map(|(name, ink, p)| over(p, name, *ink, &of)).collect();
    let layers = family.iter().map(|(.., p)| p.layers.len()).max()?;
    let words = drawn.iter().filter_map(|c| extremes(c));
    let label = format!("{title} by layer. {}.", words.collect::<Vec<_>>().join("; "));
    let any = drawn.iter().any(|c| !c.x.is_empty());
    any.then(|| figure(id, title, label, 220, curves(layers, value_axis(unit), &drawn)))
}

fn over<'a>(
    profile: &Profile,
    name: &'a str,
    ink: Ink,
    of: impl Fn(&LayerProfile) -> Option<Estimate>,
) -> Curve<'a> {
    let found = profile.layers.iter().filter_map(|l| Some((l.layer as f64, of(l)?)));
    let (x, y) = found.unzip();
    Curve { name, ink, x, y }
}

fn extremes(curve: &Curve<'_>) -> Option<String> {
    let low = curve.y.iter().map(|e| e.value).reduce(f64::min)?;
    let high = curve.y.iter().map(|e| e.value).reduce(f64::max)?;
    Some(format!("{} {low:.3} to {high:.3}", curve.name))
}

fn group(family: &Family<'_>, title: &str, text: &str, figures: Vec<Figure>) -> Option<Group> {
    let columns = match figures.len() {
        0 => return None,
        1 => "one",
        2 | 4 => "two",
        _ => "three",
    };
    Some(Group {
        title: title.to_owned(),
        text: text.to_owned(),
        legend: legend(family),
        columns,
        figures,
        scale: None,
    })
}

fn importance(family: &Family<'_>) -> Option<Group> {
    let keys: BTreeSet<Part> = family
        .iter()
        .flat_map(|(.., p)| p.layers.iter().flat_map(|l| l.importance.keys().copied()))
        .collect();
    let figures = keys.iter().enumerate().filter_map(|(i, key)| {
        picture(family, format!("importance-{i}"), key.name(), "", |l| {
            l.importance.get(key).copied()
        })
    });
    group(
        family,
        "Importance of the components",
        "Length of what a component adds to the stream, over the length of the stream, mean over \
         tokens.",
        figures.collect(),
    )
}

fn routing(family: &Family<'_>) -> Option<Group> {
    type Of = fn(&Routing) -> Estimate;
    let exact = |value: f64| Estimate { value, se: 0.0 };
    let pictures: [(&str, &str, Of); 4] = [
        ("entropy-token", "Token entropy, bits", |r| r.token_entropy),
        ("entropy-gate", "Gate entropy, bits", |r| r.gate_entropy),
        ("entropy-load", "Load entropy, normalised", |r| Estimate {
            value: r.load_entropy_normalised,
            se: 0.0,
        }),
        ("specialisation", "Specialisation, bits", |r| Estimate {
            value: r.specialisation,
            se: 0.0,
        }),
    ];
    let figures = pictures.iter().filter_map(|(id, title, of)| {
        picture(family, (*id).to_owned(), title, "", |l| l.routing.as_ref().map(of))
    });
    let most = family.first().map(|(.., p)| {
        let bits = |n: usize| exact((n as f64).log2()).value;
        format!(
            "Largest possible: token entropy {:.2} bits ({} experts), gate entropy {:.2} bits ({} \
             per token), normalised load entropy 1.",
            bits(p.num_experts),
            p.num_experts,
            bits(p.num_experts_per_tok),
            p.num_experts_per_tok
        )
    });
    group(family, "Routing", &most.unwrap_or_default(), figures.collect())
}

fn influence(family: &Family<'_>) -> Option<Group> {
    let figures =
        picture(family, "influence".to_owned(), "", "1 - mean cosine", |l| Some(l.block_influence));
    group(
        family,
        "Block influence",
        "How far a layer turns the stream: 1 - mean cosine of what goes in and what comes out.",
        figures.into_iter().collect(),
    )
}

fn probes(family: &Family<'_>) -> Option<Group> {
    let names: BTreeSet<&str> = family
        .iter()
        .flat_map(|(.., p)| p.layers.iter().flat_map(|l| l.probes.keys().map(String::as_str)))
        .collect();
    let figures: Vec<Figure> =
        names.iter().enumerate().filter_map(|(i, name)| probe(family, i, name)).collect();
    let mut group = group(
        family,
        "Distance of the probes",
        "Standardised distance of a probe's hidden states from the generic set's. The grey band is \
         the 5 to 95 % range of the same number on random halves of the generic set (father): \
         inside it there is nothing to see.",
        figures,
    )?;
    group.legend.push(Swatch::band("no difference", ink::GREY));
    Some(group)
}

fn probe(family: &Family<'_>, i: usize, name: &str) -> Option<Figure> {
    let (.., first) = family.first()?;
    let mut plot = Plot::new();
    let nulls =
        first.layers.iter().filter_map(|l| Some((l.layer as f64, l.probes.get(name)?.null_band)));
    let (x, nulls): (Vec<f64>, Vec<[f64; 2]>) = nulls.unzip();
    let edge = |side: usize| nulls.iter().map(|b| four_digits(b[side])).collect();
    band(&mut plot, &x, edge(0), edge(1), ink::GREY, 0.3);
    let exact =
        |l: &LayerProfile| l.probes.get(name).map(|d| Estimate { value: d.robust, se: 0.0 });
    let drawn: Vec<Curve<'_>> = family.iter().map(|(n, ink, p)| over(p, n, *ink, exact)).collect();
    for curve in &drawn {
        curve.draw(&mut plot);
    }
    let layers = first.layers.len();
    plot.set_layout(curves(layers, value_axis(""), &[]).layout().clone());
    let golden = family.iter().filter_map(|(n, _, p)| Some((n, p.golden_layers.get(name)?)));
    let golden: Vec<String> = golden.map(|(n, layer)| format!("{n} {layer}")).collect();
    let mut label = format!("Distance of the probe {name} by layer.");
    if !golden.is_empty() {
        label = format!("{label} Golden layer by the literal distance: {}.", golden.join(", "));
    }
    let words = drawn.iter().filter_map(extremes).collect::<Vec<_>>().join("; ");
    Some(figure(format!("probe-{i}"), name, format!("{label} {words}."), 220, plot))
}

/// Where the child lies between its parents.
fn between(health: &Health) -> Option<Group> {
    let layers = health.layers.len();
    let line = |name: &'static str, ink: Ink, of: &dyn Fn(usize) -> Option<f64>| {
        let found = (0..layers).filter_map(|l| {
            Some((health.layers[l].layer as f64, Estimate { value: of(l)?, se: 0.0 }))
        });
        let (x, y) = found.unzip();
        Curve { name, ink, x, y }
    };
    let side = |side: usize| move |l: usize| health.layers[l].router_jaccard.map(|j| j[side]);
    let routers = [
        line("with the father", ink::FATHER, &side(0)),
        line("with the mother", ink::MOTHER, &side(1)),
    ];
    let off = [line("child", ink::CHILD, &|l| Some(health.layers[l].off_segment))];
    let words =
        |drawn: &[Curve<'_>]| drawn.iter().filter_map(extremes).collect::<Vec<_>>().join("; ");
    let legend = [("father", ink::FATHER), ("mother", ink::MOTHER), ("child", ink::CHILD)];
    let figures = vec![
        figure(
            "jaccard",
            "Selected experts shared with each parent",
            format!("Jaccard index of the selected experts by layer. {}.", words(&routers)),
            220,
            curves(layers, value_axis("Jaccard").range(vec![0.0, 1.0]), &routers),
        ),
        figure(
            "segment",
            "Distance from the segment between the parents",
            format!("Distance of the child's layer output from the segment. {}.", words(&off)),
            220,
            curves(layers, value_axis("of its length"), &off),
        ),
    ];
    (layers > 0).then(|| Group {
        title: "Where the child lies between its parents".to_owned(),
        legend: legend.iter().map(|(n, i)| Swatch::line(*n, *i)).collect(),
        columns: "two",
        figures,
        ..Group::default()
    })
}
