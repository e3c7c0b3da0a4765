//! `darwin check CHILD --father F --mother M`

use super::profile::checkpoint_name;
use crate::cli::CheckArgs;
use crate::output::OutFile;
use crate::ui::Ui;
use darwin_checkpoint::{Checkpoint, HasFiles};
use darwin_core::files::{Severity, Verdict};
use darwin_core::{Failure, Fingerprint};
use darwin_engine::Text;
use darwin_profile::{
    CheckOptions, Family, Loaded, Subject, check, health_summary, model_ref, preflight,
};
use std::process::ExitCode;

pub(crate) fn run(arguments: &CheckArgs, ui: &Ui) -> Result<ExitCode, Failure> {
    let out = arguments.out.as_deref().map(OutFile::open).transpose()?;
    super::use_threads(None, ui)?;
    let folders = [&arguments.child, &arguments.father, &arguments.mother];
    let open = |i: usize| Checkpoint::open(folders[i]);
    let checkpoints = [open(0)?, open(1)?, open(2)?];
    if crate::preflight::check(&checkpoints, arguments.dry_run, ui)? {
        return Ok(ExitCode::SUCCESS);
    }
    let child = match preflight(&checkpoints[0], &checkpoints[1])? {
        Ok(child) => child,
        // What cannot be loaded, or is not the father's shape, needs no forward pass to fail.
        Err(findings) => {
            for finding in findings.iter().filter(|f| f.severity == Severity::Fail) {
                ui.say(format!("FAIL  {}\n      try: {}", finding.text, finding.advice));
            }
            return Ok(ExitCode::FAILURE);
        }
    };
    let text = Text::open(&arguments.father)?;
    let items = super::calibration(&arguments.items, &text)?;
    let load = |i: usize| Loaded::open(&checkpoints[i]);
    let models = [child, load(1)?, load(2)?];
    let [child_is, father_is, mother_is] =
        super::fingerprints(checkpoints.each_ref().map(|c| c as &dyn HasFiles), ui)?;
    let named = |i: usize, fingerprint: Fingerprint| {
        let checkpoint: &Checkpoint = &checkpoints[i];
        model_ref(checkpoint_name(checkpoint), checkpoint, Some(&text), fingerprint)
    };
    let refs = [named(0, child_is), named(1, father_is), named(2, mother_is)];
    let subject = |i: usize| Subject {
        model: &models[i].model,
        source: &checkpoints[i],
        reference: &refs[i],
    };
    let weights = models.each_ref().map(|m| &m.weights);
    let family = Family { child: subject(0), father: subject(1), mother: subject(2), weights };
    let options = CheckOptions::default();
    let health = check(&family, &items, &text, &options, ui.progress(), ui.cancel())?;
    ui.say(health_summary(&health));
    if let Some(out) = &out {
        out.write_json(&health)?;
    }
    Ok(if health.verdict == Verdict::Fail { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
