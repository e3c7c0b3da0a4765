//! What the user sees while work is done: a bar on a terminal, plain lines when piped.

use crate::table::human_bytes;
use darwin_core::{Cancel, Failure, Progress};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Plain lines come at most this often.
const PLAIN_EVERY: Duration = Duration::from_secs(10);

/// Standard output, progress and cancellation.
pub(crate) struct Ui {
    progress: Bar,
    cancel: Cancel,
}

impl Ui {
    /// Ctrl-C asks for a stop at the next safe point; a second one stops at once.
    pub(crate) fn new(quiet: bool) -> Self {
        let cancel = Cancel::default();
        let handler = cancel.clone();
        // A second handler in one process is impossible here, so the result says nothing.
        let _ = ctrlc::set_handler(move || {
            if handler.is_cancelled() {
                std::process::exit(130);
            }
            handler.cancel();
        });
        Self { progress: Bar::new(quiet), cancel }
    }

    pub(crate) fn progress(&self) -> &dyn Progress {
        &self.progress
    }

    pub(crate) fn cancel(&self) -> &Cancel {
        &self.cancel
    }

    /// Prints a result on stdout; a closed pipe is not an error.
    pub(crate) fn say(&self, text: impl AsRef<str>) {
        let text = text.as_ref();
        let _ = writeln!(std::io::stdout().lock(), "{}", text.trim_end_matches('\n'));
    }

    /// Prints text on stdout as it comes; false where nobody reads it any more.
    pub(crate) fn stream(&self, text: &str) -> bool {
        let mut stdout = std::io::stdout().lock();
        stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).is_ok()
    }

    /// Says on stderr how things went, unless the user wants it quiet.
    pub(crate) fn note(&self, text: impl AsRef<str>) {
        if !self.progress.quiet {
            let _ = writeln!(std::io::stderr().lock(), "{}", text.as_ref());
        }
    }

    /// Prints a warning on stderr.
    pub(crate) fn warn(&self, text: impl AsRef<str>) {
        let _ = writeln!(std::io::stderr().lock(), "warning: {}", text.as_ref());
    }

    /// Prints a failure as a sentence with its hint.
    pub(crate) fn failed(&self, failure: &Failure) -> ExitCode {
        self.progress.finish();
        let mut stderr = std::io::stderr().lock();
        let _ = writeln!(stderr, "error: {failure}");
        if let Some(hint) = failure.hint() {
            let _ = writeln!(stderr, "hint: {hint}");
        }
        ExitCode::from(failure.fault().exit_code())
    }
}

#[derive(Default)]
struct Shown {
    bar: Option<ProgressBar>,
    phase: String,
    unit: String,
    note: String,
    total: u64,
    done: u64,
    since: Option<Instant>,
    printed: Option<Instant>,
}

struct Bar {
    quiet: bool,
    terminal: bool,
    shown: Mutex<Shown>,
}

impl Bar {
    fn new(quiet: bool) -> Self {
        let terminal = std::io::stderr().is_terminal();
        Self { quiet, terminal, shown: Mutex::default() }
    }

    fn with(&self, f: impl FnOnce(&mut Shown)) {
        // A thread that panicked while drawing leaves nothing worth protecting.
        f(&mut self.shown.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
    }
}

impl Progress for Bar {
    fn start(&self, phase: &str, total: u64, unit: &str) {
        if self.quiet {
            return;
        }
        self.with(|s| {
            if let Some(bar) = s.bar.take() {
                bar.finish_and_clear();
            }
            *s = Shown {
                phase: phase.to_owned(),
                unit: unit.to_owned(),
                total,
                since: Some(Instant::now()),
                ..Shown::default()
            };
            if self.terminal {
                s.bar = Some(bar(phase, total, unit));
            } else {
                plain_line(s);
            }
        });
    }

    fn advance(&self, n: u64) {
        if self.quiet {
            return;
        }
        self.with(|s| {
            s.done += n;
            if let Some(bar) = &s.bar {
                bar.inc(n);
            } else if s.printed.is_some_and(|t| t.elapsed() >= PLAIN_EVERY) {
                plain_line(s);
            }
        });
    }

    fn note(&self, text: &str) {
        self.with(|s| {
            text.clone_into(&mut s.note);
            if let Some(bar) = &s.bar {
                bar.set_message(text.to_owned());
            }
        });
    }

    fn finish(&self) {
        self.with(|s| {
            if let Some(bar) = s.bar.take() {
                bar.finish_and_clear();
            } else if !self.quiet && s.since.is_some() && !self.terminal {
                plain_line(s);
            }
            s.since = None;
        });
    }
}

fn bar(phase: &str, total: u64, unit: &str) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
    let counts = match unit {
        "B" => "{bytes}/{total_bytes} {bytes_per_sec}",
        _ => "{pos}/{len} {per_sec}",
    };
    let template = format!("{{prefix:>14}} [{{bar:28}}] {counts} {{eta}} left  {{msg}}");
    if let Ok(style) = ProgressStyle::with_template(&template) {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.set_prefix(phase.to_owned());
    bar.enable_steady_tick(Duration::from_millis(250));
    bar
}

/// `proxy guided: 40/80 steps, 1.9 steps/s, 21 s left, best 0.612`, or
/// `write: 1.20 GiB/3.85 GiB, 0.35 GB/s, 8 s left`
fn plain_line(s: &mut Shown) {
    s.printed = Some(Instant::now());
    let seconds = s.since.map_or(0.0, |t| t.elapsed().as_secs_f64());
    let rate = if seconds > 0.0 { s.done as f64 / seconds } else { 0.0 };
    let (counts, speed) = match s.unit.as_str() {
        "B" => (
            format!("{}/{}", human_bytes(s.done), human_bytes(s.total)),
            format!("{:.2} GB/s", rate / 1e9),
        ),
        unit => (format!("{}/{} {unit}", s.done, s.total), format!("{rate:.1} {unit}/s")),
    };
    let mut line = format!("{}: {counts}", s.phase);
    if s.done > 0 && rate > 0.0 {
        let left = s.total.saturating_sub(s.done) as f64 / rate;
        line.push_str(&format!(", {speed}, {left:.0} s left"));
    }
    if !s.note.is_empty() {
        line.push_str(&format!(", {}", s.note));
    }
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}
