//! `darwin compare FATHER MOTHER`

use super::profile::checkpoint_name;
use crate::cli::CompareArgs;
use crate::output::OutFile;
use crate::preflight;
use crate::ui::Ui;
use darwin_checkpoint::Checkpoint;
use darwin_core::Failure;
use darwin_core::files::ModelRef;
use darwin_engine::Text;
use darwin_profile::{
    CompareOptions, Error, ProfileOptions, ProfilePlan, Unloaded, compare_streamed,
    comparison_summary, forecast_compare, forecast_profile, model_ref, plan_compare, plan_profile,
    profile_streamed,
};
use std::process::ExitCode;

pub(crate) fn run(arguments: &CompareArgs, ui: &Ui) -> Result<ExitCode, Failure> {
    super::use_threads(arguments.stream.threads, ui)?;
    let checkpoints = [Checkpoint::open(&arguments.father)?, Checkpoint::open(&arguments.mother)?];
    let text = Text::open(&arguments.father)?;
    let items = super::calibration(&arguments.items, &text)?;
    let named = |c: &Checkpoint| model_ref(checkpoint_name(c), c, Some(&text), super::unread());
    let mut refs = checkpoints.each_ref().map(named);
    let [father, mother] = parents(&checkpoints, &refs);
    let (options, profiling) = (CompareOptions::default(), ProfileOptions::default());
    let (budget, held) = (super::stream::budget(&arguments.stream)?, super::stream::held());
    let mut refused = Vec::new();
    let plan = plan_compare([&father, &mother], &items, &options, &budget, held);
    let plan = plan.map_err(|e| refused.push(e)).ok();
    let profiles = [&father, &mother].map(|parent| {
        let plan = plan_profile(parent, &items, &profiling, &budget, held);
        plan.map_err(|e| refused.push(e)).ok()
    });
    let (Some(plan), [Some(of_father), Some(of_mother)]) = (plan, profiles) else {
        // the one after which nothing else is missing
        let error = refused.into_iter().max_by_key(least).expect("one of the plans failed");
        return Err(preflight::by_machine(error.into(), arguments.stream.memory.is_some()));
    };
    let profiles = [of_father, of_mother];
    let peaks = [plan.plan.peak, profiles[0].plan.peak, profiles[1].plan.peak];
    if arguments.stream.dry_run {
        for (parent, plan) in [&father, &mother].into_iter().zip(&profiles) {
            let forecast = forecast_profile(parent, &items, &profiling, plan)?;
            ui.say(format!("profile of {}", parent.reference.name));
            ui.say(super::stream::describe(plan, &forecast));
        }
        let forecast = forecast_compare(&father, &items, &options, &plan)?;
        ui.say("comparison");
        ui.say(super::stream::describe_compare(&plan, &forecast));
        preflight::allows(peaks.into_iter().max().unwrap_or(0))?;
        return Ok(ExitCode::SUCCESS);
    }
    preflight::allows(peaks.into_iter().max().unwrap_or(0))?;
    let out = arguments.out.as_deref().map(OutFile::open).transpose()?;
    let found = super::fingerprints([&checkpoints[0], &checkpoints[1]], ui)?;
    refs.iter_mut().zip(found).for_each(|(model, found)| model.fingerprint = found);
    let [father, mother] = parents(&checkpoints, &refs);
    let profiled = |parent, plan: &ProfilePlan| {
        let (progress, cancel) = (ui.progress(), ui.cancel());
        profile_streamed(parent, &items, &profiling, &plan.plan, progress, cancel)
    };
    let (of_father, _) = profiled(&father, &profiles[0])?;
    let (of_mother, _) = profiled(&mother, &profiles[1])?;
    let comparison = compare_streamed(
        [&father, &mother],
        [&of_father, &of_mother],
        &items,
        &options,
        &plan,
        ui.progress(),
        ui.cancel(),
    )?;
    ui.say(comparison_summary(&comparison));
    if let Some(out) = &out {
        out.write_json(&comparison)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn parents<'a>(checkpoints: &'a [Checkpoint; 2], refs: &'a [ModelRef; 2]) -> [Unloaded<'a>; 2] {
    [0, 1].map(|i| Unloaded { source: &checkpoints[i], reference: &refs[i] })
}

/// The memory that would have been enough; what memory does not help comes first.
fn least(error: &Error) -> u64 {
    match error {
        Error::Engine(darwin_engine::Error::Memory { least, .. }) => *least,
        _ => u64::MAX,
    }
}
