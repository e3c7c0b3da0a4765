//! One module per subcommand: arguments in, a validated job, a result on stdout.

mod inspect;

use crate::cli::Command;
use crate::ui::Ui;
use darwin_core::Failure;
use std::process::ExitCode;

/// Runs a subcommand.
pub(crate) fn run(command: Command, ui: &Ui) -> Result<ExitCode, Failure> {
    match command {
        Command::Inspect(arguments) => inspect::run(&arguments, ui),
        _ => Err(Failure::user("coming")),
    }
}
