//! `darwin profile MODEL`

use crate::cli::ProfileArgs;
use crate::output::{OutFile, cannot};
use crate::preflight;
use crate::ui::Ui;
use darwin_checkpoint::{AnyModel, Checkpoint};
use darwin_core::Failure;
use darwin_core::fs::{Lock, own, resolve};
use darwin_engine::Text;
use darwin_profile::{
    ProfileOptions, Unloaded, forecast_profile, model_ref, plan_profile, profile_streamed,
    profile_summary,
};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

pub(crate) fn run(arguments: &ProfileArgs, ui: &Ui) -> Result<ExitCode, Failure> {
    super::use_threads(arguments.stream.threads, ui)?;
    let source = AnyModel::open(&arguments.model)?;
    let text = Text::open(&arguments.model)?;
    let items = super::calibration(&arguments.items, &text)?;
    let mut reference = model_ref(last_part(source.path()), &source, Some(&text), super::unread());
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
    let out = arguments.out.as_deref().map(Folder::open).transpose()?;
    preflight::allows(plan.plan.peak)?;
    let (plan, progress, cancel) = (&plan.plan, ui.progress(), ui.cancel());
    [reference.fingerprint] = super::fingerprints([&source], ui)?;
    let subject = Unloaded { source: &source, reference: &reference };
    let (profile, samples) = profile_streamed(&subject, &items, &options, plan, progress, cancel)?;
    ui.say(profile_summary(&profile));
    if let Some(out) = &out {
        out.profile.write_json(&profile)?;
        samples.save(&out.samples)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The folder of a profile's files; one process at a time, for they belong together.
struct Folder {
    profile: OutFile,
    samples: PathBuf,
    _owner: Lock,
}

impl Folder {
    fn open(folder: &Path) -> Result<Self, Failure> {
        let named = folder;
        let failed = |e| cannot("write into", named, &e);
        let folder = resolve(folder).map_err(failed)?;
        std::fs::create_dir_all(&folder).map_err(failed)?;
        let owner = own(&folder).map_err(failed)?;
        let samples = folder.join("samples.safetensors");
        OutFile::unlocked(&samples)?;
        let profile = OutFile::unlocked(&folder.join("profile.json"))?;
        Ok(Self { profile, samples, _owner: owner })
    }
}

/// The last part of the folder's path.
pub(crate) fn checkpoint_name(checkpoint: &Checkpoint) -> &str {
    last_part(checkpoint.folder())
}

fn last_part(path: &Path) -> &str {
    path.file_name().and_then(|n| n.to_str()).unwrap_or("model")
}
