//! `darwin report RUN`, and the report at the end of a run.

use crate::cli::ReportArgs;
use crate::output::OutFile;
use crate::ui::Ui;
use darwin_core::Failure;
use std::path::Path;
use std::process::ExitCode;

pub(crate) fn run(arguments: &ReportArgs, ui: &Ui) -> Result<ExitCode, Failure> {
    let out = arguments.out.clone().unwrap_or_else(|| arguments.run.join("report.html"));
    if arguments.run.is_dir() {
        OutFile::unlocked(&out)?;
    }
    write(&arguments.run, &out)?;
    ui.say(out.display().to_string());
    Ok(ExitCode::SUCCESS)
}

/// Writes the HTML report, and the model card into the run's child.
pub(crate) fn write(run: &Path, out: &Path) -> Result<(), Failure> {
    save(out, &darwin_report::html(run)?)?;
    let child = run.join("child");
    if child.is_dir() {
        save(&child.join("README.md"), &darwin_report::model_card(run)?)?;
    }
    Ok(())
}

fn save(path: &Path, text: &str) -> Result<(), Failure> {
    OutFile::unlocked(path)?.write(text.as_bytes())
}
