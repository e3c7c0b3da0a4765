//! What commands that read a model layer by layer have in common.

use crate::cli::StreamArgs;
use crate::machine::Machine;
use crate::table::human_bytes;
use darwin_core::Failure;
use darwin_engine::{Budget, Plan};
use darwin_profile::{ComparePlan, Forecast, ProfilePlan};

/// What the arguments allow.
pub(crate) fn budget(arguments: &StreamArgs) -> Result<Budget, Failure> {
    if let Some(scratch) = arguments.scratch.as_ref().filter(|folder| !folder.is_dir()) {
        let text = format!("`--scratch`: {} is no folder", scratch.display());
        return Err(Failure::user(text).with_hint("create it, or name another"));
    }
    let memory = arguments.memory.or_else(available);
    Ok(Budget { memory, scratch: arguments.scratch.clone() })
}

/// Bytes that the machine has to give and what this process holds, as far as it says.
fn available() -> Option<u64> {
    let machine = Machine::here();
    Some(machine.memory()?.bytes.saturating_add(machine.held()))
}

/// Pages of the program that are not in memory yet when a plan is made, but are later: 1 MiB was
/// measured.
const CODE: u64 = 2 << 20;

/// Bytes that this process holds in memory now, as far as the system says, and those of its code
/// that the work will add.
pub(crate) fn held() -> u64 {
    Machine::here().held() + CODE
}

/// The plan of a profile and how long it takes.
pub(crate) fn describe(plan: &ProfilePlan, forecast: &Forecast) -> String {
    let (parts, work, how) = (&plan.parts, &plan.work, &plan.plan);
    let largest = parts.layers.iter().max().copied().unwrap_or(0);
    let lines = [
        format!(
            "model   {} in {} layers, in memory up to {} each",
            human_bytes(parts.stored),
            parts.layers.len(),
            human_bytes(largest)
        ),
        format!(
            "work    {} tokens, {} of them different, the longest sequence {}; {:.2e} FLOPs",
            work.tokens, work.distinct, work.longest, plan.operations
        ),
        memory(how, 1),
        format!(
            "reads   {} ({:.2} of the model)",
            human_bytes(how.read),
            how.read as f64 / parts.stored as f64
        ),
        time(forecast, work.tokens),
    ];
    lines.join("\n")
}

/// The plan of a comparison and how long it takes.
pub(crate) fn describe_compare(plan: &ComparePlan, forecast: &Forecast) -> String {
    let (work, how) = (&plan.work, &plan.plan);
    let lines = [
        format!(
            "work    {} tokens in {} variants, {} sweep{} over the layers of both parents",
            plan.tokens,
            work.states,
            work.sweeps,
            if work.sweeps == 1 { "" } else { "s" }
        ),
        memory(how, 2),
        format!("reads   {} in the sweeps", human_bytes(how.read)),
        time(forecast, plan.tokens),
        "        and less than as much again where components are compared".to_owned(),
    ];
    lines.join("\n")
}

fn memory(how: &Plan, models: usize) -> String {
    let layers = models * if how.room.prefetch { 2 } else { 1 };
    let states = match how.spilled {
        0 => "all hidden states".to_owned(),
        bytes => format!("hidden states but {} in the scratch folder", human_bytes(bytes)),
    };
    let kept = match how.layers {
        0 => String::new(),
        layers => format!(", {layers} layers for the next sweep"),
    };
    format!(
        "memory  at most {}: {layers} layer{} at a time, {states}{kept};\n        batches of {} \
         tokens, {} rows of the output head at a time",
        human_bytes(how.peak),
        if layers == 1 { "" } else { "s" },
        how.batch_tokens,
        how.room.head
    )
}

fn time(forecast: &Forecast, tokens: u64) -> String {
    let Forecast { reading, running, logits, read_rate, operation_rate } = forecast;
    format!(
        "time    about {:.0} s: reading {reading:.1} s at {:.2} GB/s, layers {running:.1} s and \
         logits {logits:.1} s\n        ({:.0} tokens/s, {:.0} GFLOP/s)",
        forecast.seconds(),
        read_rate / 1e9,
        tokens as f64 / forecast.seconds().max(1e-9),
        operation_rate / 1e9
    )
}
