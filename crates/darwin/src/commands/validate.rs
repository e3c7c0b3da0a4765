//! `darwin validate CONFIG`

use crate::cli::ValidateArgs;
use crate::ui::Ui;
use darwin_core::Failure;
use darwin_merge::{Merge, Recipe, Sequence, Sources};
use std::process::ExitCode;

pub(crate) fn run(arguments: &ValidateArgs, ui: &Ui) -> Result<ExitCode, Failure> {
    let sequence = Sequence::load(&arguments.config)?;
    let names: Vec<&str> = sequence.steps().iter().filter_map(|s| s.name.as_deref()).collect();
    for step in sequence.steps() {
        if let Some(name) = &step.name {
            ui.say(format!("{name}:"));
        } else if !names.is_empty() {
            ui.say("the result:");
        }
        let recipe = match super::hub_cache(None) {
            Some(cache) => step.recipe.clone().with_hub_cache(cache),
            None => step.recipe.clone(),
        };
        one(arguments, ui, &recipe, &names)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn one(arguments: &ValidateArgs, ui: &Ui, recipe: &Recipe, steps: &[&str]) -> Result<(), Failure> {
    let lines = recipe.describe();
    let width = lines.iter().map(|(what, _)| what.chars().count()).max().unwrap_or(0);
    for (what, value) in &lines {
        ui.say(format!("{what:width$}  {value}").trim_end());
    }
    for note in recipe.notes() {
        ui.warn(note);
    }
    if !arguments.models {
        ui.say("no model was opened; `--models` checks their headers, too");
    } else if recipe.models().iter().any(|model| steps.contains(model)) {
        ui.say("models of other documents are checked when they are merged");
    } else {
        let sources = Sources::open(recipe)?;
        let merge = Merge::new(recipe, &sources)?;
        let plan = merge.plan();
        // The recipe's own notes are said already.
        for note in plan.notes().iter().filter(|note| !recipe.notes().contains(note)) {
            ui.warn(note);
        }
        let summary = plan.describe();
        ui.say(format!("models fit: {}", summary.last().map_or("", String::as_str)));
    }
    Ok(())
}
