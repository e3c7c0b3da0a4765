//! `darwin compare FATHER MOTHER`

use super::profile::checkpoint_name;
use crate::cli::CompareArgs;
use crate::ui::Ui;
use darwin_checkpoint::Checkpoint;
use darwin_core::Failure;
use darwin_engine::{Model, Text};
use darwin_profile::{
    CompareOptions, ProfileOptions, Subject, compare, comparison_summary, model_ref, profile,
};
use std::process::ExitCode;

pub(crate) fn run(arguments: &CompareArgs, ui: &Ui) -> Result<ExitCode, Failure> {
    let checkpoints = [Checkpoint::open(&arguments.father)?, Checkpoint::open(&arguments.mother)?];
    let text = Text::open(&arguments.father)?;
    let items = super::calibration(&arguments.items, &text)?;
    let models = [Model::load(&checkpoints[0])?, Model::load(&checkpoints[1])?];
    let refs = checkpoints.each_ref().map(|c| model_ref(checkpoint_name(c), c, Some(&text)));
    let subject =
        |i: usize| Subject { model: &models[i], source: &checkpoints[i], reference: &refs[i] };
    let options = ProfileOptions::default();
    let (father, _) = profile(&subject(0), &items, &options, ui.progress(), ui.cancel())?;
    let (mother, _) = profile(&subject(1), &items, &options, ui.progress(), ui.cancel())?;
    let comparison = compare(
        &subject(0),
        &subject(1),
        [&father, &mother],
        &items,
        &CompareOptions::default(),
        ui.progress(),
        ui.cancel(),
    )?;
    ui.say(comparison_summary(&comparison));
    if let Some(out) = &arguments.out {
        super::save_json(out, &comparison)?;
    }
    Ok(ExitCode::SUCCESS)
}
