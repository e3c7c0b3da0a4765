//! One module per subcommand: arguments in, a validated job, a result on stdout.

mod generate;
mod inspect;
mod merge;
mod score;

use crate::cli::Command;
use crate::ui::Ui;
use darwin_core::Failure;
use std::process::ExitCode;

/// Runs a subcommand.
pub(crate) fn run(command: Command, ui: &Ui) -> Result<ExitCode, Failure> {
    match command {
        Command::Inspect(arguments) => inspect::run(&arguments, ui),
        Command::Merge(arguments) => merge::run(&arguments, ui),
        Command::Generate(arguments) => generate::run(&arguments, ui),
        Command::Score(arguments) => score::run(&arguments, ui),
        _ => Err(Failure::user("coming")),
    }
}

/// Sets the number of threads of everything that follows.
fn use_threads(threads: Option<usize>) -> Result<(), Failure> {
    match threads {
        Some(0) => Err(Failure::user("`--threads` is 0, allowed is 1 or more")),
        Some(n) => rayon::ThreadPoolBuilder::new()
            .num_threads(n)
            .build_global()
            .map_err(|e| Failure::user(format!("cannot start {n} threads: {e}"))),
        None => Ok(()),
    }
}
