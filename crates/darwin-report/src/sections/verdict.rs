//! Title, the verdict in one sentence, and the limits right below it.

use super::results::{Standing, against_parents, detectable, items};
use crate::run::Run;
use crate::size::size;
use crate::words::{grouped, model_label, percent, points};
use darwin_core::Split;
use darwin_core::files::{ModelScores, Verdict};
use serde::Serialize;

/// The head of the page.
#[derive(Debug, Serialize)]
pub(crate) struct Head {
    pub(crate) title: String,
    pub(crate) created: Option<String>,
    pub(crate) verdict: String,
    pub(crate) limits: String,
    /// `pass`, `warn` or `fail`.
    pub(crate) health: Option<&'static str>,
}

/// Makes the head.
pub(crate) fn head(run: &Run) -> Head {
    let health = run.health.as_ref().ok().map(|h| verdict_word(h.verdict));
    Head {
        title: run.about("title").unwrap_or("A Darwin run").to_owned(),
        created: run.about("created").map(str::to_owned),
        verdict: verdict(run, health),
        limits: limits(run),
        health,
    }
}

/// The word for a verdict.
pub(crate) fn verdict_word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Pass => "pass",
        Verdict::Warn => "warn",
        Verdict::Fail => "fail",
    }
}

/// The verdict in one sentence.
pub(crate) fn verdict(run: &Run, health: Option<&str>) -> String {
    let checked = match health {
        Some("pass") => "; the health check passed",
        Some("warn") => "; the health check has warnings",
        Some("fail") => "; the health check failed",
        _ => "; its health was not checked",
    };
    match run.child_scores() {
        Some(child) => format!("{}{checked}.", scored(run, child)),
        None => format!("The child has no scores yet{checked}."),
    }
}

fn scored(run: &Run, child: &ModelScores) -> String {
    let split = run.scores.as_ref().map(|s| s.split).ok();
    let caveat = match split {
        Some(Split::Test) | None => "",
        Some(_) => "Not a result, for the split was used for choosing: ",
    };
    let standings: Vec<Standing> = against_parents(run, child).iter().map(|a| a.standing).collect();
    let count = |s: Standing| standings.iter().filter(|x| **x == s).count();
    let on = size(run).map(|s| format!("On models of {} ", s.words()));
    let subject = on.map_or_else(|| "The child".to_owned(), |on| format!("{on}the child"));
    format!(
        "{caveat}{subject} ({}) answers {} % right on average{}. Against the better parent of each \
         of {} domains it is better in {}, worse in {} and not to be told apart in {}",
        model_label(&child.name).to_lowercase(),
        percent(child.mean.value),
        better_parent(run, child),
        standings.len(),
        count(Standing::Better),
        count(Standing::Worse),
        count(Standing::Alike),
    )
}

fn better_parent(run: &Run, child: &ModelScores) -> String {
    let parents = run.parent_scores();
    let best = parents.iter().max_by(|a, b| a.mean.value.total_cmp(&b.mean.value));
    best.map_or_else(String::new, |parent| {
        let gap = child.mean.value - parent.mean.value;
        let side = if gap < 0.0 { "below" } else { "above" };
        format!(
            ", {} points {side} the better parent (the {}, {} %)",
            points(gap.abs()).trim_start_matches('+'),
            parent.name,
            percent(parent.mean.value)
        )
    })
}

/// What the numbers can and cannot say, computed from the files.
pub(crate) fn limits(run: &Run) -> String {
    let models = size(run).map_or_else(
        || "One pair of parents of unknown size".to_owned(),
        |s| format!("One pair of parents, models of {}", s.words()),
    );
    let mut sentences =
        vec![format!("{models}: nothing here says how larger models would behave.")];
    if let Some(child) = run.child_scores() {
        let effect = detectable(child).map(|effect| {
            let effect = points(effect);
            let effect = effect.trim_start_matches('+');
            format!("; differences below about {effect} points in one domain are not resolved")
        });
        sentences.push(format!(
            "Scores from {} {} items in {} domains{}.",
            grouped(items(child) as u64),
            run.scores.as_ref().map(|s| s.split.to_string()).unwrap_or_default(),
            child.domains.len(),
            effect.unwrap_or_default()
        ));
    }
    if let Ok(comparison) = &run.comparison {
        let samples = grouped(comparison.calibration.samples as u64);
        sentences.push(format!("Profiles from {samples} calibration samples."));
    }
    sentences.join(" ")
}
