//! The child's model card: Hugging Face metadata, recipe, results, what got worse, lineage.

use crate::error::Result;
use crate::markdown::{self, fenced, markdown, quoted};
use crate::run::Run;
use crate::sections::lineage::{Hash, family, hashes};
use crate::sections::results::{detectable, losses};
use crate::sections::scores::{ScoreTable, table};
use crate::sections::verdict::{limits, verdict, verdict_word};
use crate::size::size;
use crate::words::{grouped, p_value, points};
use darwin_core::files::{Finding, Severity};
use serde::Serialize;

/// Everything that the template sees. Strings of `yaml` are quoted for YAML, the others escaped
/// for Markdown.
#[derive(Serialize)]
struct Card {
    yaml: Metadata,
    title: String,
    verdict: String,
    size: Option<String>,
    parents: Vec<(&'static str, String)>,
    split: Option<String>,
    scores: Vec<Vec<String>>,
    notes: Vec<String>,
    no_scores: Option<String>,
    worse: Vec<String>,
    resolved: Option<String>,
    limits: String,
    licenses: Vec<String>,
    health: Option<String>,
    findings: Vec<String>,
    recipe: Option<String>,
    command: Option<String>,
    hashes: Vec<Hash>,
}

/// The front matter.
#[derive(Serialize)]
struct Metadata {
    license: Option<String>,
    base_model: Vec<String>,
    pipeline_tag: String,
}

/// Renders the card.
pub(crate) fn render(run: &Run) -> Result<String> {
    markdown::render("card.md", include_str!("templates/card.md"), card(run))
}

fn card(run: &Run) -> Card {
    let scores = table(run);
    let health = run.health.as_ref().ok();
    let word = health.map(|h| verdict_word(h.verdict));
    let parents = family(run).into_iter().filter(|(title, _)| *title != "child");
    Card {
        yaml: metadata(run),
        title: markdown(run.about("title").unwrap_or("A merged mixture of experts")),
        verdict: markdown(&verdict(run, word)),
        size: size(run).map(crate::size::Size::words),
        parents: parents.map(|(title, model)| (title, markdown(&model.name))).collect(),
        split: scores.as_ref().ok().map(|s| s.split.clone()),
        scores: scores.as_ref().map(rows).unwrap_or_default(),
        notes: scores
            .as_ref()
            .map(|s| s.notes.iter().map(|n| markdown(n)).collect())
            .unwrap_or_default(),
        no_scores: scores.err(),
        worse: worse(run),
        resolved: run
            .child_scores()
            .and_then(detectable)
            .map(|d| points(d).trim_start_matches('+').to_owned()),
        limits: markdown(&limits(run)),
        licenses: licenses(run).into_iter().map(|(parent, named)| stated(parent, named)).collect(),
        health: word.map(str::to_owned),
        findings: health.map(|h| findings(&h.findings)).unwrap_or_default(),
        recipe: run.recipe.as_ref().ok().map(|r| fenced(r)),
        command: run.about("command").map(fenced),
        hashes: hashes(run).into_iter().map(escaped).collect(),
    }
}

fn metadata(run: &Run) -> Metadata {
    let parents = family(run).into_iter().filter(|(title, _)| *title != "child");
    Metadata {
        license: common_license(run).map(|license| quoted(&license)),
        base_model: parents.map(|(_, model)| quoted(&model.name)).collect(),
        pipeline_tag: quoted(run.about("pipeline_tag").unwrap_or("text-generation")),
    }
}

/// What each parent says of its licence.
fn licenses(run: &Run) -> Vec<(&'static str, Option<&str>)> {
    let Some(stated) = run.about.as_ref().ok().and_then(|about| about.get("licenses")) else {
        return Vec::new();
    };
    let parents = ["father", "mother"].into_iter();
    parents.filter_map(|parent| Some((parent, stated.get(parent)?.as_str()))).collect()
}

/// The licence of the front matter: the one that both parents state, `other` where they state two;
/// nothing where one states none, for that cannot be guessed.
fn common_license(run: &Run) -> Option<String> {
    let named: Option<Vec<&str>> = licenses(run).into_iter().map(|(_, named)| named).collect();
    match named?[..] {
        [] => None,
        [father, mother] if father != mother => Some("other".to_owned()),
        [license, ..] => Some(license.to_owned()),
    }
}

fn stated(parent: &str, license: Option<&str>) -> String {
    match license {
        Some(license) => format!("{parent}: `{}`", markdown(license)),
        None => format!("{parent}: its files state none"),
    }
}

/// The rows of the score table, heading first.
fn rows(table: &ScoreTable) -> Vec<Vec<String>> {
    let name = |c: &crate::sections::scores::Column| {
        let child = if c.child { " (child)" } else { "" };
        format!("{}{child}", markdown(&c.name))
    };
    let mut heading = vec!["domain".to_owned(), "n".to_owned()];
    heading.extend(table.columns.iter().map(name));
    let mut rows = vec![heading];
    for row in &table.rows {
        let protected = if row.protected { " (protected)" } else { "" };
        let mut cells = vec![format!("{}{protected}", markdown(&row.domain))];
        cells.push(row.n.clone().unwrap_or_default());
        cells.extend(row.cells.iter().map(|cell| cell.as_ref().map_or_else(String::new, words)));
        rows.push(cells);
    }
    let mut means = vec!["mean".to_owned(), String::new()];
    means.extend(table.means.iter().map(|m| format!("{} ± {}", m.accuracy, m.half)));
    rows.push(means);
    rows
}

fn words(cell: &crate::sections::scores::Cell) -> String {
    let bold = if cell.best { "**" } else { "" };
    let n = cell.n.as_ref().map(|n| format!(", n = {n}")).unwrap_or_default();
    let direct = cell.direct.as_ref().map(|d| format!("; direct {d}")).unwrap_or_default();
    format!("{bold}{}{bold} ({}–{}{n}){direct}", cell.accuracy, cell.low, cell.high)
}

fn worse(run: &Run) -> Vec<String> {
    let sentence = |loss: crate::sections::results::Loss| {
        let p = loss.p.map(|p| format!(", {}", p_value(p))).unwrap_or_default();
        let protected = if loss.protected { " (protected)" } else { "" };
        let certain = if loss.certain {
            "significant after Holm over the domains"
        } else {
            "not significant after Holm over the domains"
        };
        format!(
            "**{}**{protected}: {} points below the {} (n = {}{}): {certain}.",
            markdown(&loss.domain),
            points(loss.lost).trim_start_matches('+'),
            loss.parent,
            grouped(loss.n as u64),
            p.replace('<', "&lt;")
        )
    };
    losses(run).into_iter().map(sentence).collect()
}

/// Warnings and failures; notes stay in the report.
fn findings(all: &[Finding]) -> Vec<String> {
    let mut shown: Vec<&Finding> = all.iter().filter(|f| f.severity > Severity::Note).collect();
    shown.sort_by_key(|f| std::cmp::Reverse(f.severity));
    let word = |f: &Finding| if f.severity == Severity::Fail { "fail" } else { "warn" };
    shown.iter().map(|f| format!("{}: {}", word(f), markdown(&f.text))).collect()
}

fn escaped(hash: Hash) -> Hash {
    Hash { what: hash.what, of: markdown(&hash.of), sha256: markdown(&hash.sha256) }
}
