//! The page: sections put into the template, plotly's JavaScript put in once.

use crate::error::{ReportError, Result};
use crate::figure::Group;
use crate::run::Run;
use crate::sections::Section;
use crate::sections::advantage::{Advantages, advantage};
use crate::sections::curves::layer_curves;
use crate::sections::diagnosis::{Derivatives, diagnosis};
use crate::sections::health::{Checkup, checkup};
use crate::sections::lineage::{Lineage, lineage};
use crate::sections::loads::loads;
use crate::sections::recipe::{Recipe, recipe};
use crate::sections::results::losses;
use crate::sections::scores::{ScoreTable, table};
use crate::sections::trace::{Trace, trace};
use crate::sections::verdict::{Head, head};
use crate::words::{grouped, p_value, points};
use minijinja::Environment;
use plotly::Plot;
use serde::Serialize;

/// Everything that the template sees.
#[derive(Serialize)]
struct Page<'a> {
    head: Head,
    scores: Section<ScoreTable>,
    worse: Vec<String>,
    trace: Section<Trace>,
    recipe: Section<Recipe>,
    loads: Section<Group>,
    diagnosis: Section<Derivatives>,
    advantage: Section<Advantages>,
    curves: Section<Vec<Group>>,
    health: Section<Checkup>,
    lineage: Lineage,
    plotly: &'a str,
}

/// Renders the page.
pub(crate) fn render(run: &Run) -> Result<String> {
    let sources = Plot::offline_js_sources();
    let page = Page {
        head: head(run),
        scores: table(run).into(),
        worse: worse(run),
        trace: trace(run).into(),
        recipe: recipe(run),
        loads: loads(run),
        diagnosis: diagnosis(run),
        advantage: advantage(run),
        curves: layer_curves(run),
        health: checkup(run).into(),
        lineage: lineage(run),
        plotly: plotly_js(&sources)?,
    };
    let failed = |source| ReportError::Template { name: "report.html", source };
    environment().get_template("report.html").and_then(|t| t.render(&page)).map_err(failed)
}

fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_trim_blocks(true);
    environment.set_lstrip_blocks(true);
    let templates = [
        ("report.html", include_str!("templates/report.html")),
        ("parts.html", include_str!("templates/parts.html")),
        ("style.css", include_str!("templates/style.css")),
        ("report.js", include_str!("templates/report.js")),
    ];
    for (name, source) in templates {
        // A template that does not parse is missing, and rendering says which one.
        let _ = environment.add_template(name, source);
    }
    environment
}

/// plotly.js out of the crate's script elements; MathJax (2 MB) stays behind, for no label of ours
/// is a formula.
fn plotly_js(sources: &str) -> Result<&str> {
    sources
        .split("</script>")
        .filter_map(|element| element.split_once('>').map(|(_, js)| js))
        .find(|js| js.get(..400).is_some_and(|start| start.contains("plotly.js v")))
        .ok_or(ReportError::NoPlotly)
}

/// What got worse, a sentence for each domain.
fn worse(run: &Run) -> Vec<String> {
    let sentence = |loss: crate::sections::results::Loss| {
        let p = loss.p.map(|p| format!(", {}", p_value(p))).unwrap_or_default();
        let certain =
            if loss.certain { "" } else { "; not significant after Holm over the domains" };
        let protected = if loss.protected { " (protected)" } else { "" };
        format!(
            "{}{protected}: {} points below the {} (n = {}{p}){certain}.",
            loss.domain,
            points(loss.lost).trim_start_matches('+'),
            loss.parent,
            grouped(loss.n as u64)
        )
    };
    losses(run).into_iter().map(sentence).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_template_parses() {
        let environment = environment();
        for name in ["report.html", "parts.html", "style.css", "report.js"] {
            assert!(environment.get_template(name).is_ok(), "{name}");
        }
    }

    #[test]
    fn plotly_is_found_without_mathjax() {
        let sources = Plot::offline_js_sources();
        let js = plotly_js(&sources).expect("plotly_embed_js is on");
        assert!(js.len() < 5_000_000 && !js.contains("MathJax.loader"));
    }
}
