//! `darwin`: breed language models, and prove what was done.

mod allocator;
mod cli;
mod commands;
mod machine;
mod output;
mod preflight;
mod system;
mod table;
mod ui;

use clap::Parser;
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: allocator::Ending = allocator::Ending;

fn main() -> ExitCode {
    // a panic that becomes an error is said once, as the error
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !darwin_core::panics::is_caught() {
            usual(panic);
        }
    }));
    let arguments = match cli::Cli::try_parse() {
        Ok(arguments) => arguments,
        Err(text) => return ui::show_usage(&text),
    };
    system::allow_open_files();
    if let Some(host) = system::host() {
        darwin_core::fs::name_host(&host);
    }
    let ui = ui::Ui::new(arguments.quiet);
    ui.ended(commands::run(arguments.command, &ui))
}
