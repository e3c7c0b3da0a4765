//! `darwin evolve CONFIG`: the whole job.

use crate::cli::EvolveArgs;
use crate::table::{human_count, table};
use crate::ui::Ui;
use darwin_core::Failure;
use darwin_core::files::{DomainScore, Scored, Scores, Verdict};
use darwin_core::stats::wilson;
use darwin_evolve::{Outcome, RunConfig, Ui as RunUi, run as evolve};
use std::ffi::OsString;
use std::process::ExitCode;

pub(crate) fn run(arguments: &EvolveArgs, ui: &Ui) -> Result<ExitCode, Failure> {
    super::use_threads(arguments.threads, ui)?;
    let config = RunConfig::read(&arguments.config)?;
    if arguments.dry_run {
        super::outlook::run(&config, ui)?;
        return Ok(ExitCode::SUCCESS);
    }
    crate::preflight::evolve(&config, ui)?;
    let created = super::now();
    let command = command(std::env::args_os().skip(1));
    let hashes = super::hash_cache();
    let note = |text: &str| ui.note(text);
    let run_ui = RunUi {
        progress: ui.progress(),
        cancel: ui.cancel(),
        created: &created,
        program: concat!("darwin ", env!("CARGO_PKG_VERSION")),
        command: &command,
        hashes: &hashes,
        note: &note,
    };
    let outcome = evolve(&config, run_ui)?;
    super::report::write(&config.out, &config.out.join("report.html"))?;
    ui.say(result(&config, &outcome));
    Ok(match outcome.health.verdict {
        Verdict::Fail => ExitCode::FAILURE,
        _ => ExitCode::SUCCESS,
    })
}

/// The command line as a shell would take it; the program's own path is nobody's business.
fn command(arguments: impl Iterator<Item = OsString>) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,@%+".contains(c);
    let quoted = arguments.map(|argument| {
        let text = argument.to_string_lossy().into_owned();
        let safe = !text.is_empty() && text.chars().all(plain);
        if safe { text } else { format!("'{}'", text.replace('\'', "'\\''")) }
    });
    std::iter::once("darwin".to_owned()).chain(quoted).collect::<Vec<_>>().join(" ")
}

fn result(config: &RunConfig, outcome: &Outcome) -> String {
    let child = &outcome.champions[outcome.child];
    let mut text = score_table(&outcome.scores);
    text.push('\n');
    if let Some(check) = &outcome.rank_check {
        text.push_str(&format!(
            "proxy against benchmark: rank correlation {:.2} on {} random genomes\n",
            check.rho, check.n
        ));
    }
    for c in &outcome.champions {
        text.push_str(&format!(
            "{:<8} {} proxy + {} real steps, {} tokens ({} for diagnostics), selection {:.4}\n",
            c.arm.name(),
            c.steps[0],
            c.steps[1],
            human_count(c.tokens),
            human_count(c.diagnostic_tokens),
            c.fitness
        ));
    }
    text.push_str(&format!(
        "child: the champion of `{}`, health {}\n",
        child.arm.name(),
        verdict(outcome.health.verdict)
    ));
    for finding in outcome.health.findings.iter().take(5) {
        text.push_str(&format!("  {}\n", finding.text));
    }
    text.push_str(&format!("see {}", config.out.join("report.html").display()));
    text
}

pub(crate) fn verdict(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Pass => "pass",
        Verdict::Warn => "warn",
        Verdict::Fail => "FAIL",
    }
}

/// A row per domain; accuracies in per cent with Wilson 95 % intervals, `*` at protected domains.
fn score_table(scores: &Scores) -> String {
    let mut head = vec![format!("{} split, exact match %", scores.split), "n".to_owned()];
    head.extend(scores.models.iter().map(|m| m.name.clone()));
    let mut rows = vec![head];
    let domains = scores.models.first().map(|m| m.domains.keys()).into_iter().flatten();
    for domain in domains {
        let of = |pick: fn(&DomainScore) -> Option<Scored>| {
            let cells = scores.models.iter().map(|m| m.domains.get(domain).and_then(pick));
            cells.collect::<Vec<_>>()
        };
        let star = if scores.protected.contains(domain) { " *" } else { "" };
        rows.push(row(&format!("{domain}{star}"), &of(|s| Some(s.exact))));
        if of(|s| s.direct).iter().any(Option::is_some) {
            rows.push(row("  direct", &of(|s| s.direct)));
        }
    }
    let mut mean = vec!["mean".to_owned(), String::new()];
    mean.extend(
        scores
            .models
            .iter()
            .map(|m| format!("{:.1} ±{:.1}", 100.0 * m.mean.value, 196.0 * m.mean.se)),
    );
    rows.push(mean);
    table(&rows)
        + "* protected: may not fall below the father; `direct`: without <think>, not in the mean\n"
}

fn row(name: &str, cells: &[Option<Scored>]) -> Vec<String> {
    let n = cells.iter().flatten().map(|s| s.n).max().unwrap_or(0);
    let mut row = vec![name.to_owned(), n.to_string()];
    row.extend(cells.iter().map(|cell| cell.map_or("-".to_owned(), accuracy)));
    row
}

fn accuracy(s: Scored) -> String {
    let interval = wilson(s.correct as u64, s.n as u64, 1.96);
    let percent = |x: f64| format!("{:.0}", 100.0 * x);
    format!("{:.1} [{}, {}]", 100.0 * s.accuracy(), percent(interval.low), percent(interval.high))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_can_be_pasted() {
        let words = ["evolve", "it's here/run.yaml", "-j", "2", ""].map(OsString::from);
        assert_eq!(command(words.into_iter()), r"darwin evolve 'it'\''s here/run.yaml' -j 2 ''");
    }
}
