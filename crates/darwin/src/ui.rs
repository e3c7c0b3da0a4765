//! What the user sees while work is done: a bar on a terminal, plain lines when piped.

use crate::system;
use crate::table::human_bytes;
use darwin_core::{Cancel, Failure, Fault, Progress, io_hint, one_line, printable};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Plain lines come at most this often.
const PLAIN_EVERY: Duration = Duration::from_secs(10);

/// The exit code where nobody reads stdout any more: what a shell reports of a program that ended
/// by SIGPIPE.
const CLOSED_PIPE: u8 = 141;

/// Standard output, progress and cancellation.
pub(crate) struct Ui {
    progress: Bar,
    cancel: Cancel,
    /// Why stdout takes no more.
    broken: Mutex<Option<io::Error>>,
}

impl Ui {
    /// Ctrl-C, SIGTERM and SIGHUP ask for a stop at the next safe point; a second one stops at once.
    /// SIGHUP stays ignored where it was, as under `nohup`.
    pub(crate) fn new(quiet: bool) -> Self {
        let cancel = Cancel::default();
        let handler = cancel.clone();
        let ignores_hangup = system::ignores_hangup();
        // A second handler in one process is impossible here, so the result says nothing.
        let _ = ctrlc::set_handler(move || {
            if handler.is_cancelled() {
                std::process::exit(130);
            }
            handler.cancel();
        });
        if ignores_hangup {
            system::ignore_hangup();
        }
        Self { progress: Bar::new(quiet), cancel, broken: Mutex::default() }
    }

    pub(crate) fn progress(&self) -> &dyn Progress {
        &self.progress
    }

    pub(crate) fn cancel(&self) -> &Cancel {
        &self.cancel
    }

    /// Prints a result on stdout. Where that cannot be, the work is cancelled, and
    /// [`Ui::ended`] says why.
    pub(crate) fn say(&self, text: impl AsRef<str>) {
        let text = printable(text.as_ref().trim_end_matches('\n'));
        self.put(|stdout| writeln!(stdout, "{text}"));
    }

    /// Prints what a model says on stdout as it comes; otherwise as [`Ui::say`]. On a terminal it
    /// cannot steer it; a pipe gets every byte.
    pub(crate) fn stream(&self, text: &str) {
        let text = if io::stdout().is_terminal() { printable(text) } else { text.into() };
        self.put(|stdout| stdout.write_all(text.as_bytes()));
    }

    fn put(&self, write: impl FnOnce(&mut io::StdoutLock<'_>) -> io::Result<()>) {
        let mut broken = self.broken.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if broken.is_some() {
            return;
        }
        let mut stdout = io::stdout().lock();
        if let Err(error) = write(&mut stdout).and_then(|()| stdout.flush()) {
            *broken = Some(error);
            self.cancel.cancel();
        }
    }

    /// The exit code of a command; what went wrong is printed. Where stdout failed, that is why the
    /// command was interrupted.
    pub(crate) fn ended(&self, result: Result<ExitCode, Failure>) -> ExitCode {
        let broken = self.broken.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        match (result, broken) {
            (Err(failure), Some(_)) if failure.fault() != Fault::Interrupted => {
                self.failed(&failure)
            }
            (_, Some(error)) => {
                self.progress.finish();
                stdout_failed(&error)
            }
            (Ok(code), None) => code,
            (Err(failure), None) => self.failed(&failure),
        }
    }

    /// Says on stderr how things went, unless the user wants it quiet.
    pub(crate) fn note(&self, text: impl AsRef<str>) {
        if !self.progress.quiet {
            let _ = writeln!(std::io::stderr().lock(), "{}", printable(text.as_ref()));
        }
    }

    /// Prints a warning on stderr.
    pub(crate) fn warn(&self, text: impl AsRef<str>) {
        let _ = writeln!(std::io::stderr().lock(), "warning: {}", message(text.as_ref()));
    }

    /// Prints a failure as a sentence with its hint.
    fn failed(&self, failure: &Failure) -> ExitCode {
        self.progress.finish();
        print_failure(failure)
    }
}

fn print_failure(failure: &Failure) -> ExitCode {
    let mut stderr = std::io::stderr().lock();
    let _ = writeln!(stderr, "error: {}", message(&failure.to_string()));
    if let Some(hint) = failure.hint() {
        let _ = writeln!(stderr, "hint: {}", message(hint));
    }
    ExitCode::from(failure.fault().exit_code())
}

/// A message whose later lines are indented: a name with a line feed cannot begin a message of its
/// own.
fn message(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for (i, line) in printable(text).split('\n').enumerate() {
        let indented = line.is_empty() || line.starts_with(' ');
        out.push_str(if i > 0 { "\n" } else { "" });
        out.push_str(if i > 0 && !indented { "  " } else { "" });
        out.push_str(line);
    }
    out
}

/// A closed pipe ends quietly; everything else is said.
fn stdout_failed(error: &io::Error) -> ExitCode {
    if error.kind() == ErrorKind::BrokenPipe {
        return ExitCode::from(CLOSED_PIPE);
    }
    let failure = Failure::new(Fault::Environment, format!("cannot write to stdout: {error}"));
    print_failure(&match io_hint(error) {
        Some(hint) => failure.with_hint(hint),
        None => failure,
    })
}

/// Prints help, the version, or what is wrong with the arguments.
pub(crate) fn show_usage(text: &clap::Error) -> ExitCode {
    let printed = text.print().and_then(|()| io::stdout().flush());
    match printed {
        Err(error) if !text.use_stderr() => stdout_failed(&error),
        _ => ExitCode::from(u8::try_from(text.exit_code()).unwrap_or(2)),
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
                phase: one_line(phase).into_owned(),
                unit: one_line(unit).into_owned(),
                total,
                since: Some(Instant::now()),
                ..Shown::default()
            };
            if self.terminal {
                s.bar = Some(bar(&s.phase, total, unit));
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
            s.note = one_line(text).into_owned();
            if let Some(bar) = &s.bar {
                bar.set_message(s.note.clone());
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

#[cfg(test)]
mod tests {
    use super::message;

    #[test]
    fn a_name_cannot_steer_the_terminal_or_begin_a_message() {
        assert_eq!(message("`a\u{1b}[2J` is missing"), "`a\\u001b[2J` is missing");
        assert_eq!(message("2 problems:\n  a\nerror: b"), "2 problems:\n  a\n  error: b");
    }
}
