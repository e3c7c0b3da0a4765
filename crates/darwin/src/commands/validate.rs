//! `darwin validate CONFIG`

use crate::cli::ValidateArgs;
use crate::ui::Ui;
use darwin_core::Failure;
use darwin_merge::{Merge, Recipe, Sources};
use std::process::ExitCode;

pub(crate) fn run(arguments: &ValidateArgs, ui: &Ui) -> Result<ExitCode, Failure> {
    let recipe = Recipe::load(&arguments.config)?;
    let lines = recipe.describe();
    let width = lines.iter().map(|(what, _)| what.chars().count()).max().unwrap_or(0);
    for (what, value) in &lines {
        ui.say(format!("{what:width$}  {value}").trim_end());
    }
    for note in recipe.notes() {
        ui.warn(note);
    }
    if arguments.models {
        let sources = Sources::open(&recipe)?;
        let merge = Merge::new(&recipe, &sources)?;
        let plan = merge.plan();
        // The recipe's own notes are said already.
        for note in plan.notes().iter().filter(|note| !recipe.notes().contains(note)) {
            ui.warn(note);
        }
        let summary = plan.describe();
        ui.say(format!("models fit: {}", summary.last().map_or("", String::as_str)));
    } else {
        ui.say("no model was opened; `--models` checks their headers, too");
    }
    Ok(ExitCode::SUCCESS)
}
