//! `darwin evolve CONFIG`: the whole job.

use crate::cli::EvolveArgs;
use crate::table::{human_count, table};
use crate::ui::Ui;
use darwin_core::Failure;
use darwin_core::files::{ArmName, DomainScore, Estimate, ModelScores, Scored, Scores, Verdict};
use darwin_core::stats::{Z95, mean_se, wilson};
use darwin_evolve::{Champion, Outcome, RunConfig, Ui as RunUi, run as evolve};
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
    text.push_str(&gains(&outcome.scores));
    if config.seeds.replicates > 1 {
        text.push('\n');
        text.push_str(&over_seeds(&outcome.scores, &config.arms));
    }
    text.push('\n');
    text.push_str(&costs(&outcome.champions));
    if let Some(check) = &outcome.rank_check {
        text.push_str(&format!(
            "proxy against benchmark: rank correlation {:.2} over the arms' best {} candidates{}\n",
            check.rho,
            check.n,
            if check.rho < 0.3 { ": the proxy did not rank them" } else { "" }
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

/// A difference of accuracies in points with its paired 95 % interval.
fn points(difference: &Estimate) -> String {
    let interval = difference.interval(Z95);
    let of = |x: f64| format!("{:+.1}", 100.0 * x);
    format!("{} [{}, {}]", of(difference.value), of(interval.low), of(interval.high))
}

/// A row per child: what it gains on the goal over the better parent, and what it loses in
/// protected domains, paired by item.
fn gains(scores: &Scores) -> String {
    let mut head = vec!["points, paired".to_owned(), "goal".to_owned(), "gain".to_owned()];
    head.extend(scores.protected.iter().map(|domain| format!("{domain} *")));
    let mut rows = vec![head];
    let mut better = None;
    for model in &scores.models {
        let Some(goal) = &model.goal else { continue };
        better = Some(goal.better_parent.as_str());
        let mut row =
            vec![model.name.clone(), format!("{:.1}", 100.0 * goal.score), points(&goal.gain)];
        row.extend(scores.protected.iter().map(|domain| {
            model.protected.get(domain).map_or("-".to_owned(), |protection| {
                let sure = if protection.p_inferior < 0.05 { "" } else { " ?" };
                format!("{}{sure}", points(&protection.difference))
            })
        }));
        rows.push(row);
    }
    let Some(better) = better else { return String::new() };
    table(&rows)
        + &format!(
            "gain: on the goal over the {better}, the better parent; *: against the father; ?: a loss \
             of the margin is not excluded (one-sided p of 5 %)\n"
        )
}

/// A row per arm: mean and standard error over seeds of the goal's gain and of the worst protected
/// domain.
fn over_seeds(scores: &Scores, arms: &[ArmName]) -> String {
    let head = ["over seeds", "n", "gain", "se", "worst protected", "se"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for arm in arms {
        let name = arm.name();
        let own = |model: &&ModelScores| {
            let rest = model.name.strip_prefix(name);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(' '))
        };
        let models: Vec<&ModelScores> = scores.models.iter().filter(own).collect();
        let gains: Vec<f64> =
            models.iter().filter_map(|m| Some(100.0 * m.goal.as_ref()?.gain.value)).collect();
        let worst = |model: &&ModelScores| {
            let losses = model.protected.values().map(|p| 100.0 * p.difference.value);
            losses.reduce(f64::min)
        };
        let worst: Vec<f64> = models.iter().filter_map(worst).collect();
        let cells = |values: &[f64]| {
            let found = mean_se(values);
            let se = if values.len() > 1 { format!("{:.2}", found.se) } else { "-".to_owned() };
            [format!("{:+.2}", found.value), se]
        };
        let mut row = vec![name.to_owned(), gains.len().to_string()];
        row.extend(cells(&gains));
        row.extend(if worst.is_empty() { ["-".to_owned(), "-".to_owned()] } else { cells(&worst) });
        rows.push(row);
    }
    table(&rows)
}

/// A row per champion: what it was and what it cost.
fn costs(champions: &[Champion]) -> String {
    let head = [
        "champion",
        "candidate",
        "proxy steps",
        "real steps",
        "tokens",
        "diagnostics",
        "selection",
    ];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for c in champions {
        let seed = if c.replicate > 0 { format!(" {}", c.replicate + 1) } else { String::new() };
        let void = if c.is_void() { " (void)" } else { "" };
        rows.push(vec![
            format!("{}{seed}{void}", c.arm.name()),
            c.label.clone().unwrap_or_else(|| "genes".to_owned()),
            c.steps[0].to_string(),
            c.steps[1].to_string(),
            human_count(c.tokens.iter().sum()),
            human_count(c.start_tokens),
            format!("{:.4}", c.fitness),
        ]);
    }
    table(&rows)
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
