//! The score table: domain by model.

use super::results::{Standing, against_parents, detectable};
use crate::run::{Part, Run};
use crate::words::{grouped, interval, list, model_label, p_value, percent, points};
use darwin_core::files::{DomainScore, Estimate, ModelScores, Scores};
use darwin_core::stats::Z95;
use darwin_core::{Domain, Split};
use serde::Serialize;
use std::collections::BTreeSet;

/// Models in the order of the table; others follow.
const ORDER: [&str; 10] =
    ["father", "mother", "line", "blind", "guided", "card", "v4", "placebo", "inverted", "random"];

/// The table.
#[derive(Debug, Serialize)]
pub(crate) struct ScoreTable {
    pub(crate) split: String,
    pub(crate) columns: Vec<Column>,
    pub(crate) rows: Vec<Row>,
    pub(crate) means: Vec<Mean>,
    /// What each child gains on the goal and loses in protected domains.
    pub(crate) gains: Vec<Gain>,
    /// The parent that gains are over, and the protected domains.
    pub(crate) better_parent: String,
    pub(crate) protected: Vec<String>,
    pub(crate) notes: Vec<String>,
}

/// A child's gain on the goal, in points.
#[derive(Debug, Serialize)]
pub(crate) struct Gain {
    pub(crate) name: String,
    pub(crate) child: bool,
    pub(crate) score: String,
    pub(crate) gain: String,
    /// In the order of the protected domains.
    pub(crate) protected: Vec<Loss>,
}

/// A protected domain's difference to the father.
#[derive(Debug, Serialize)]
pub(crate) struct Loss {
    pub(crate) difference: String,
    pub(crate) p: String,
    /// Whether a loss of the margin is excluded at 5 %.
    pub(crate) kept: bool,
}

/// A model's column.
#[derive(Debug, Serialize)]
pub(crate) struct Column {
    pub(crate) name: String,
    pub(crate) child: bool,
    pub(crate) parent: bool,
}

/// A domain's row.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) domain: String,
    pub(crate) protected: bool,
    /// Items, where all models saw as many.
    pub(crate) n: Option<String>,
    pub(crate) cells: Vec<Option<Cell>>,
}

/// A score.
#[derive(Debug, Serialize)]
pub(crate) struct Cell {
    pub(crate) accuracy: String,
    pub(crate) low: String,
    pub(crate) high: String,
    /// Items, where the models of the row saw different numbers.
    pub(crate) n: Option<String>,
    pub(crate) direct: Option<String>,
    pub(crate) best: bool,
    pub(crate) p: Option<String>,
    /// `better`, `worse` or nothing, against the better parent.
    pub(crate) standing: Option<&'static str>,
    pub(crate) unclosed: Option<String>,
}

/// The mean over domains of a model.
#[derive(Debug, Serialize)]
pub(crate) struct Mean {
    pub(crate) accuracy: String,
    pub(crate) half: String,
    pub(crate) best: bool,
}

/// Makes the table.
pub(crate) fn table(run: &Run) -> Part<ScoreTable> {
    let scores = run.scores.as_ref().map_err(Clone::clone)?;
    if scores.models.is_empty() {
        return Err("scores.json names no model.".to_owned());
    }
    let models = ordered(scores);
    let domains: BTreeSet<&Domain> = models.iter().flat_map(|m| m.domains.keys()).collect();
    let child = run.child_scores().map(|m| m.name.as_str());
    Ok(ScoreTable {
        split: scores.split.to_string(),
        columns: models.iter().map(|m| column(m, child)).collect(),
        rows: domains.into_iter().map(|d| row(run, scores, &models, d)).collect(),
        means: means(&models),
        gains: models.iter().filter_map(|m| gain(m, scores, child)).collect(),
        better_parent: models
            .iter()
            .find_map(|m| Some(m.goal.as_ref()?.better_parent.clone()))
            .unwrap_or_default(),
        protected: scores.protected.iter().map(ToString::to_string).collect(),
        notes: notes(run, scores),
    })
}

/// A difference with its paired 95 % interval, in points.
fn paired(difference: Estimate) -> String {
    let interval = difference.interval(Z95);
    format!("{} [{}, {}]", points(difference.value), points(interval.low), points(interval.high))
}

fn gain(model: &ModelScores, scores: &Scores, child: Option<&str>) -> Option<Gain> {
    let goal = model.goal.as_ref()?;
    let loss = |domain: &Domain| match model.protected.get(domain) {
        Some(found) => Loss {
            difference: paired(found.difference),
            p: p_value(found.p_inferior),
            kept: found.p_inferior < 0.05,
        },
        None => Loss { difference: "-".to_owned(), p: String::new(), kept: true },
    };
    Some(Gain {
        name: model_label(&model.name),
        child: Some(model.name.as_str()) == child,
        score: percent(goal.score),
        gain: paired(goal.gain),
        protected: scores.protected.iter().map(loss).collect(),
    })
}

fn ordered(scores: &Scores) -> Vec<&ModelScores> {
    let mut models: Vec<&ModelScores> = scores.models.iter().collect();
    let place = |m: &ModelScores| ORDER.iter().position(|n| *n == m.name).unwrap_or(ORDER.len());
    models.sort_by_key(|m| place(m));
    models
}

fn is_parent(model: &ModelScores) -> bool {
    model.name == "father" || model.name == "mother"
}

fn column(model: &ModelScores, child: Option<&str>) -> Column {
    Column {
        name: model_label(&model.name),
        child: Some(model.name.as_str()) == child,
        parent: is_parent(model),
    }
}

fn row(run: &Run, scores: &Scores, models: &[&ModelScores], domain: &Domain) -> Row {
    let scored: Vec<Option<&DomainScore>> = models.iter().map(|m| m.domains.get(domain)).collect();
    let counts: BTreeSet<usize> = scored.iter().flatten().map(|s| s.exact.n).collect();
    let alike = counts.len() == 1;
    let best = scored
        .iter()
        .flatten()
        .map(|s| s.exact.accuracy())
        .filter(|a| a.is_finite())
        .fold(f64::NEG_INFINITY, f64::max);
    let cells = models.iter().zip(&scored);
    Row {
        domain: domain.to_string(),
        protected: scores.protected.contains(domain),
        n: counts.first().filter(|_| alike).map(|n| grouped(*n as u64)),
        cells: cells.map(|(m, s)| s.map(|s| cell(run, m, domain, s, best, alike))).collect(),
    }
}

fn cell(
    run: &Run,
    model: &ModelScores,
    domain: &Domain,
    score: &DomainScore,
    best: f64,
    alike: bool,
) -> Cell {
    let bounds = interval(score.exact);
    let against = (!is_parent(model))
        .then(|| against_parents(run, model).into_iter().find(|a| a.domain == domain))
        .flatten();
    Cell {
        accuracy: percent(score.exact.accuracy()),
        low: percent(bounds.low),
        high: percent(bounds.high),
        n: (!alike).then(|| grouped(score.exact.n as u64)),
        direct: score.direct.map(|d| percent(d.accuracy())),
        best: score.exact.accuracy() == best,
        p: against.as_ref().and_then(|a| a.p).map(p_value),
        standing: against.and_then(|a| match a.standing {
            Standing::Better => Some("better"),
            Standing::Worse => Some("worse"),
            Standing::Alike => None,
        }),
        unclosed: (score.unclosed > 0).then(|| grouped(score.unclosed as u64)),
    }
}

fn means(models: &[&ModelScores]) -> Vec<Mean> {
    let best = models.iter().map(|m| m.mean.value).fold(f64::NEG_INFINITY, f64::max);
    let mean = |m: &&ModelScores| Mean {
        accuracy: percent(m.mean.value),
        half: percent(1.96 * m.mean.se),
        best: m.mean.value == best,
    };
    models.iter().map(mean).collect()
}

fn notes(run: &Run, scores: &Scores) -> Vec<String> {
    let mut notes = Vec::new();
    if scores.split != Split::Test {
        notes.push(format!(
            "These scores come from the split “{}”, which was used for choosing: they are not a \
             result.",
            scores.split
        ));
    }
    notes.extend(arms_sentence(run));
    notes.extend(run.child_scores().and_then(detectable).map(|effect| {
        format!(
            "With this many items a difference below about {} points in one domain cannot be told \
             from chance (80 % power, two models that answer independently).",
            points(effect).trim_start_matches('+')
        )
    }));
    notes
}

/// The child's mean against the other arms' means.
fn arms_sentence(run: &Run) -> Option<String> {
    let child = run.child_scores()?;
    let scores = run.scores.as_ref().ok()?;
    let others = ordered(scores).into_iter().filter(|m| !is_parent(m) && m.name != child.name);
    let gaps: Vec<String> = others
        .map(|m| {
            let half = 1.96 * child.mean.se.hypot(m.mean.se);
            let gap = points(child.mean.value - m.mean.value);
            format!("{gap} ± {} over “{}”", percent(half), model_label(&m.name))
        })
        .collect();
    (!gaps.is_empty()).then(|| {
        format!(
            "Mean of “{}” against the other arms, in points: {}. The intervals are for unpaired \
             means, as a rule too wide rather than too narrow; one pair of parents cannot show that \
             diagnostics help in general.",
            model_label(&child.name),
            list(&gaps)
        )
    })
}
