//! The search: best fitness so far against evaluations, proxy and real phases apart, for the two
//! are never compared (method 3.2).

use crate::figure::{Figure, Group, Swatch, figure, layout, value_axis};
use crate::ink::{self, Ink};
use crate::run::{Journal, Part, Run};
use crate::words::{arm_label, four_digits, grouped, plain};
use darwin_core::files::{JournalLine, Phase, Status};
use plotly::common::{DashType, HoverInfo, Line, LineShape, Marker, Mode};
use plotly::layout::{Axis, HoverMode};
use plotly::{Plot, Scatter};
use serde::Serialize;

/// The journal's name for what is no arm: both parents, the published recipe, the line's grid and
/// the derivatives, evaluated before the arms begin (method 3.4).
const BASELINE: &str = "baseline";

/// Candidates of one arm that are drawn as dots, at most.
const MOST_DOTS: usize = 600;

/// Fitness at and below which a candidate has none, whatever its status.
const FAILED: f64 = -1e8;

/// The section.
#[derive(Debug, Serialize)]
pub(crate) struct Trace {
    pub(crate) group: Group,
    pub(crate) costs: Vec<Cost>,
    pub(crate) selection: Vec<Choice>,
    pub(crate) notes: Vec<String>,
}

/// What an arm spent.
#[derive(Debug, Serialize)]
pub(crate) struct Cost {
    pub(crate) arm: String,
    pub(crate) proxy: usize,
    pub(crate) real: usize,
    pub(crate) failed: usize,
    pub(crate) tokens: String,
    /// What the diagnostics cost besides, where `run.json` says so.
    pub(crate) diagnostics: Option<String>,
}

/// A candidate on the selection split.
#[derive(Debug, Serialize)]
pub(crate) struct Choice {
    pub(crate) arm: String,
    pub(crate) candidate: String,
    pub(crate) fitness: String,
    pub(crate) n: String,
    pub(crate) best: bool,
}

/// Makes the section.
pub(crate) fn trace(run: &Run) -> Part<Trace> {
    let journal = run.journal.as_ref().map_err(Clone::clone)?;
    if journal.lines.is_empty() {
        return Err("journal.jsonl holds no candidate yet.".to_owned());
    }
    let arms = arms(journal);
    let pictures = [
        (Phase::Proxy, "trace-proxy", "Proxy phase", "fitness from likelihood"),
        (Phase::Real, "trace-real", "Real phase", "fitness from accuracy"),
    ];
    let figures = pictures
        .iter()
        .filter_map(|(phase, id, title, unit)| picture(journal, &arms, *phase, id, title, unit));
    Ok(Trace {
        group: Group {
            legend: legend(&arms),
            columns: "two",
            figures: figures.collect(),
            ..Group::default()
        },
        costs: costs(run, journal, &arms),
        selection: selection(journal),
        notes: notes(run, journal),
    })
}

fn legend(arms: &[(&str, Ink)]) -> Vec<Swatch> {
    let mut legend: Vec<Swatch> =
        arms.iter().map(|(a, ink)| Swatch::line(arm_label(a), *ink)).collect();
    for (parent, ink) in [("father", ink::FATHER), ("mother", ink::MOTHER)] {
        legend.push(Swatch { dash: "2 3", ..Swatch::line(format!("{parent}'s fitness"), ink) });
    }
    legend
}

/// The arms in the order of their first line.
fn arms(journal: &Journal) -> Vec<(&str, Ink)> {
    let mut arms: Vec<(&str, Ink)> = Vec::new();
    for arm in journal.lines.iter().map(|l| l.arm.name()).filter(|arm| *arm != BASELINE) {
        if !arms.iter().any(|(known, _)| *known == arm) {
            arms.push((arm, ink::arm(arm, arms.len())));
        }
    }
    arms
}

/// An arm's candidates in the first replicate: the others have items of their own.
fn of<'a>(journal: &'a Journal, arm: &str, phase: Phase) -> Vec<&'a JournalLine> {
    let own = |l: &&JournalLine| l.replicate == 0 && l.arm.name() == arm && l.phase == phase;
    let mut lines: Vec<&JournalLine> = journal.lines.iter().filter(own).collect();
    lines.sort_by_key(|l| l.step);
    lines
}

/// Tokens that were spent when each line was done, in thousands.
fn spent(lines: &[&JournalLine]) -> Vec<f64> {
    let mut sum = 0;
    let after = lines.iter().map(|line| {
        sum += line.tokens;
        four_digits(sum as f64 / 1e3)
    });
    after.collect()
}

fn scored(line: &JournalLine) -> bool {
    line.status == Status::Ok && line.fitness.is_finite() && line.fitness > FAILED
}

fn picture(
    journal: &Journal,
    arms: &[(&str, Ink)],
    phase: Phase,
    id: &str,
    title: &str,
    unit: &str,
) -> Option<Figure> {
    let mut plot = Plot::new();
    let mut all = Vec::new();
    let mut words = Vec::new();
    for (arm, ink) in arms {
        let lines = of(journal, arm, phase);
        all.extend(lines.iter().filter(|l| scored(l)).map(|l| l.fitness));
        dots(&mut plot, &lines, *ink);
        if let Some(best) = best_so_far(&mut plot, arm, &lines, *ink) {
            words.push(format!("{} {best:.3} after {}", arm_label(arm), lines.len()));
        }
    }
    let range = visible(&mut all)?;
    let longest = longest(journal, arms, phase);
    for (parent, ink) in [("father", ink::FATHER), ("mother", ink::MOTHER)] {
        words.extend(reference(&mut plot, journal, phase, parent, ink, longest));
    }
    plot.set_layout(
        layout(
            Axis::new().title("thousand forward tokens").zero_line(false),
            value_axis(unit).range(range).zero_line(false),
        )
        .hover_mode(HoverMode::Closest),
    );
    let label = format!("{title}: best fitness so far by forward tokens. {}.", words.join("; "));
    Some(figure(id, title, label, 340, plot))
}

fn longest(journal: &Journal, arms: &[(&str, Ink)], phase: Phase) -> f64 {
    let last = |arm: &str| spent(&of(journal, arm, phase)).last().copied().unwrap_or(0.0);
    arms.iter().map(|(arm, _)| last(arm)).fold(0.0, f64::max)
}

/// A thin level line at a parent's fitness, where the journal has it. Gives its words.
fn reference(
    plot: &mut Plot,
    journal: &Journal,
    phase: Phase,
    parent: &str,
    ink: Ink,
    longest: f64,
) -> Option<String> {
    let named = |l: &&JournalLine| l.phase == phase && l.label.as_deref() == Some(parent);
    let fitness = journal.lines.iter().filter(named).find(|l| scored(l))?.fitness;
    let y = four_digits(fitness);
    let line = Line::new().color(ink.faint(0.8)).dash(DashType::Dot).width(1.2);
    plot.add_trace(
        Scatter::new(vec![0.0, longest], vec![y, y])
            .mode(Mode::Lines)
            .name(parent)
            .line(line)
            .hover_template("%{y:.4g}"),
    );
    Some(format!("{parent} {fitness:.3}"))
}

/// Every candidate as a faint dot, thinned where there are many.
fn dots(plot: &mut Plot, lines: &[&JournalLine], ink: Ink) {
    let every = lines.len().div_ceil(MOST_DOTS).max(1);
    let shown = lines.iter().zip(spent(lines)).step_by(every).filter(|(l, _)| scored(l));
    let (x, y): (Vec<f64>, Vec<f64>) =
        shown.map(|(l, tokens)| (tokens, four_digits(l.fitness))).unzip();
    let dots = Scatter::new(x, y)
        .mode(Mode::Markers)
        .marker(Marker::new().color(ink.faint(0.35)).size(4))
        .hover_info(HoverInfo::Skip);
    plot.add_trace(dots);
}

/// The best so far as steps; only the steps are stored. Gives the last best.
fn best_so_far(plot: &mut Plot, arm: &str, lines: &[&JournalLine], ink: Ink) -> Option<f64> {
    let (mut x, mut y, mut text) = (Vec::new(), Vec::new(), Vec::new());
    let mut best = f64::NEG_INFINITY;
    let tokens = spent(lines);
    for (line, tokens) in lines.iter().zip(&tokens) {
        if scored(line) && line.fitness > best {
            best = line.fitness;
            x.push(*tokens);
            y.push(four_digits(best));
            let label = line.label.as_deref().map(|l| format!(", {}", plain(l)));
            text.push(format!(" (evaluation {}{})", line.step + 1, label.unwrap_or_default()));
        }
    }
    if best.is_finite() {
        x.push(*tokens.last()?);
        y.push(four_digits(best));
        text.push(format!(" ({} evaluations)", lines.len()));
    }
    let line = Line::new().color(ink.solid()).dash(ink.dash()).width(2.2).shape(LineShape::Hv);
    plot.add_trace(
        Scatter::new(x, y)
            .mode(Mode::Lines)
            .name(plain(&arm_label(arm)))
            .line(line)
            .text_array(text)
            .hover_template("%{x} thousand tokens: %{y:.4g}%{text}"),
    );
    best.is_finite().then_some(best)
}

/// The range that shows the best three quarters of the candidates.
fn visible(all: &mut [f64]) -> Option<Vec<f64>> {
    all.sort_by(f64::total_cmp);
    let (low, high) = (*all.get(all.len() / 4)?, *all.last()?);
    let pad = 0.06 * (high - low).max(1e-6);
    Some(vec![four_digits(low - pad), four_digits(high + pad)])
}

fn costs(run: &Run, journal: &Journal, arms: &[(&str, Ink)]) -> Vec<Cost> {
    let all = arms.iter().map(|(arm, _)| *arm).chain([BASELINE]);
    all.map(|arm| cost(run, journal, arm)).collect()
}

fn cost(run: &Run, journal: &Journal, arm: &str) -> Cost {
    let lines: Vec<&JournalLine> = journal.lines.iter().filter(|l| l.arm.name() == arm).collect();
    let count = |phase: Phase| lines.iter().filter(|l| l.phase == phase).count();
    Cost {
        arm: arm_label(arm),
        proxy: count(Phase::Proxy),
        real: count(Phase::Real),
        failed: lines.iter().filter(|l| l.status != Status::Ok).count(),
        tokens: grouped(lines.iter().map(|l| l.tokens).sum()),
        diagnostics: diagnostics(run, arm).map(grouped),
    }
}

/// Forward tokens of the diagnostics that an arm was given, from `run.json`.
fn diagnostics(run: &Run, arm: &str) -> Option<u64> {
    let arms = run.about.as_ref().ok()?.get("arms")?.as_array()?;
    let named = arms.iter().find(|a| a.get("arm").and_then(|n| n.as_str()) == Some(arm))?;
    named.get("diagnostic_tokens")?.as_u64()
}

fn selection(journal: &Journal) -> Vec<Choice> {
    let chosen = |l: &&JournalLine| l.replicate == 0 && l.phase == Phase::Selection && scored(l);
    let lines: Vec<&JournalLine> = journal.lines.iter().filter(chosen).collect();
    let best = |l: &JournalLine| !lines.iter().any(|o| o.arm == l.arm && o.fitness > l.fitness);
    lines
        .iter()
        .map(|l| Choice {
            arm: arm_label(l.arm.name()),
            candidate: l.label.clone().unwrap_or_else(|| format!("candidate {}", l.step)),
            fitness: format!("{:.4}", l.fitness),
            n: grouped(l.n.values().map(|n| *n as u64).sum()),
            best: best(l),
        })
        .collect()
}

/// Whether the proxy may rank (method 3.3), as `run.json` has it.
fn rank_note(run: &Run) -> Option<String> {
    let check = run.about.as_ref().ok()?.get("rank_check")?;
    let (rho, n) = (check.get("rho")?.as_f64()?, check.get("n")?.as_u64()?);
    Some(format!(
        "Rank correlation of the proxy with the real benchmark, over the arms' best {n} candidates: \
         {rho:.2}."
    ))
}

fn notes(run: &Run, journal: &Journal) -> Vec<String> {
    let failed = journal.lines.iter().filter(|l| l.status != Status::Ok).count();
    let mut notes: Vec<String> = rank_note(run).into_iter().collect();
    if failed > 0 {
        notes.push(format!(
            "{failed} candidates failed; each counts as an evaluation all the same."
        ));
    }
    if let Some(why) = &journal.unread {
        notes.push(format!("The journal was read as far as it is whole: {why}."));
    }
    notes
}
