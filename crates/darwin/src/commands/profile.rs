//! `darwin profile MODEL`

use crate::cli::ProfileArgs;
use crate::preflight;
use crate::ui::Ui;
use darwin_checkpoint::{AnyModel, Checkpoint};
use darwin_core::files::ModelRef;
use darwin_core::{Failure, Fault};
use darwin_engine::Text;
use darwin_profile::{
    ProfileOptions, Unloaded, forecast_profile, plan_profile, profile_streamed, profile_summary,
    source_ref,
};
use std::path::Path;
use std::process::ExitCode;

pub(crate) fn run(arguments: &ProfileArgs, ui: &Ui) -> Result<ExitCode, Failure> {
    super::use_threads(arguments.stream.threads)?;
    let source = AnyModel::open(&arguments.model)?;
    let text = Text::open(&arguments.model)?;
    let items = super::calibration(&arguments.items, &text)?;
    let reference = ModelRef {
        headers_sha256: source.headers_sha256().to_owned(),
        ..source_ref(last_part(source.path()), &source, Some(&text))
    };
    let subject = Unloaded { source: &source, reference: &reference };
    let options = ProfileOptions::default();
    let budget = super::stream::budget(&arguments.stream)?;
    let plan = plan_profile(&subject, &items, &options, &budget, super::stream::held())
        .map_err(|e| preflight::by_machine(e.into(), arguments.stream.memory.is_some()))?;
    if arguments.stream.dry_run {
        let forecast = forecast_profile(&subject, &items, &options, &plan)?;
        ui.say(super::stream::describe(&plan, &forecast));
        preflight::allows(plan.plan.peak)?;
        return Ok(ExitCode::SUCCESS);
    }
    preflight::allows(plan.plan.peak)?;
    if let Some(out) = &arguments.out {
        std::fs::create_dir_all(out).map_err(|e| {
            Failure::new(Fault::of_io(&e), format!("cannot create {}: {e}", out.display()))
        })?;
    }
    let (plan, progress, cancel) = (&plan.plan, ui.progress(), ui.cancel());
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
