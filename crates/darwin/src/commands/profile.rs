//! `darwin profile MODEL`

use crate::cli::ProfileArgs;
use crate::ui::Ui;
use darwin_checkpoint::{AnyModel, Checkpoint};
use darwin_core::{Failure, Fault};
use darwin_engine::Text;
use darwin_profile::{
    ProfileOptions, Unloaded, forecast_profile, model_ref, plan_profile, profile_streamed,
    profile_summary,
};
use std::path::Path;
use std::process::ExitCode;

pub(crate) fn run(arguments: &ProfileArgs, ui: &Ui) -> Result<ExitCode, Failure> {
    super::use_threads(arguments.stream.threads)?;
    let source = AnyModel::open(&arguments.model)?;
    let text = Text::open(&arguments.model)?;
    let items = super::calibration(&arguments.items, &text)?;
    let mut reference = model_ref(last_part(source.path()), &source, Some(&text), super::unread());
    let subject = Unloaded { source: &source, reference: &reference };
    let options = ProfileOptions::default();
    let budget = super::stream::budget(&arguments.stream)?;
    let plan = plan_profile(&subject, &items, &options, &budget, super::stream::held())?;
    if arguments.stream.dry_run {
        let forecast = forecast_profile(&subject, &items, &options, &plan)?;
        ui.say(super::stream::describe(&plan, &forecast));
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(out) = &arguments.out {
        std::fs::create_dir_all(out).map_err(|e| {
            Failure::new(Fault::of_io(&e), format!("cannot create {}: {e}", out.display()))
        })?;
    }
    let (plan, progress, cancel) = (&plan.plan, ui.progress(), ui.cancel());
    [reference.fingerprint] = super::fingerprints([&source], ui)?;
    let subject = Unloaded { source: &source, reference: &reference };
    let (profile, samples) = profile_streamed(&subject, &items, &options, plan, progress, cancel)?;
    ui.say(profile_summary(&profile));
    if let Some(out) = &arguments.out {
        super::save_json(&out.join("profile.json"), &profile)?;
        samples.save(&out.join("samples.safetensors"))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The last part of the folder's path.
pub(crate) fn checkpoint_name(checkpoint: &Checkpoint) -> &str {
    last_part(checkpoint.folder())
}

fn last_part(path: &Path) -> &str {
    path.file_name().and_then(|n| n.to_str()).unwrap_or("model")
}
