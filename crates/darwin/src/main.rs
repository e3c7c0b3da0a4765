//! `darwin`: breed language models, and prove what was done.

mod cli;
mod commands;
mod table;
mod ui;

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments = cli::Cli::parse();
    let ui = ui::Ui::new(arguments.quiet);
    match commands::run(arguments.command, &ui) {
        Ok(code) => code,
        Err(failure) => ui.failed(&failure),
    }
}
