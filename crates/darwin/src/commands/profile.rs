//! `darwin profile MODEL`

use crate::cli::ProfileArgs;
use crate::ui::Ui;
use darwin_checkpoint::Checkpoint;
use darwin_core::{Failure, Fault};
use darwin_engine::{Model, Text};
use darwin_profile::{ProfileOptions, Subject, model_ref, profile, profile_summary};
use std::process::ExitCode;

pub(crate) fn run(arguments: &ProfileArgs, ui: &Ui) -> Result<ExitCode, Failure> {
    let checkpoint = Checkpoint::open(&arguments.model)?;
    let text = Text::open(&arguments.model)?;
    let items = super::calibration(&arguments.items, &text)?;
    if let Some(out) = &arguments.out {
        std::fs::create_dir_all(out).map_err(|e| {
            Failure::new(Fault::of_io(&e), format!("cannot create {}: {e}", out.display()))
        })?;
    }
    let model = Model::load(&checkpoint)?;
    let reference = model_ref(checkpoint_name(&checkpoint), &checkpoint, Some(&text));
    let subject = Subject { model: &model, source: &checkpoint, reference: &reference };
    let options = ProfileOptions::default();
    let (profile, samples) = profile(&subject, &items, &options, ui.progress(), ui.cancel())?;
    ui.say(profile_summary(&profile));
    if let Some(out) = &arguments.out {
        super::save_json(&out.join("profile.json"), &profile)?;
        samples.save(&out.join("samples.safetensors"))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The last part of the folder's path.
pub(crate) fn checkpoint_name(checkpoint: &Checkpoint) -> &str {
    checkpoint.folder().file_name().and_then(|n| n.to_str()).unwrap_or("model")
}
