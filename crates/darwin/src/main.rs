//! `darwin`: breed language models, and prove what was done.

mod allocator;
mod cli;
mod commands;
mod machine;
mod preflight;
mod table;
mod ui;

use clap::Parser;
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: allocator::Ending = allocator::Ending;

fn main() -> ExitCode {
    let arguments = cli::Cli::parse();
    let ui = ui::Ui::new(arguments.quiet);
    match commands::run(arguments.command, &ui) {
        Ok(code) => code,
        Err(failure) => ui.failed(&failure),
    }
}
