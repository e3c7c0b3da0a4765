//! What commands that read a model layer by layer have in common.

use crate::cli::StreamArgs;
use crate::table::human_bytes;
use darwin_core::Failure;
use darwin_engine::Budget;
use darwin_profile::{Forecast, ProfilePlan};

/// What the arguments allow.
pub(crate) fn budget(arguments: &StreamArgs) -> Result<Budget, Failure> {
    if let Some(scratch) = arguments.scratch.as_ref().filter(|folder| !folder.is_dir()) {
        let text = format!("`--scratch`: {} is no folder", scratch.display());
        return Err(Failure::user(text).with_hint("create it, or name another"));
    }
    Ok(arguments.budget())
}

/// Bytes that this process holds in memory now, as far as the system says.
pub(crate) fn held() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kib.unwrap_or(0) << 10
}

/// The plan of a profile and how long it takes.
pub(crate) fn describe(plan: &ProfilePlan, forecast: &Forecast) -> String {
    let (parts, work, how) = (&plan.parts, &plan.work, &plan.plan);
    let largest = parts.layers.iter().max().copied().unwrap_or(0);
    let layers = if how.room.prefetch { "two layers" } else { "one layer" };
    let states = match how.spilled {
        0 => "all hidden states".to_owned(),
        bytes => format!("hidden states but {} in the scratch folder", human_bytes(bytes)),
    };
    let head = match how.room.head {
        all if all as u64 * parts.head_row >= parts.stored_head => {
            "the whole output head".to_owned()
        }
        rows => format!("{rows} rows of the output head"),
    };
    [
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
        format!("memory  at most {}: {layers}, {states}, or {head};", human_bytes(how.peak)),
        format!("        batches of {} tokens", how.batch_tokens),
        format!(
            "reads   {} ({:.2} of the model)",
            human_bytes(how.read),
            how.read as f64 / parts.stored as f64
        ),
        format!(
            "time    about {:.0} s: reading {:.1} s at {:.2} GB/s, layers {:.1} s and logits {:.1} s",
            forecast.seconds(),
            forecast.reading,
            forecast.read_rate / 1e9,
            forecast.running,
            forecast.logits
        ),
        format!(
            "        ({:.0} tokens/s, {:.0} GFLOP/s)",
            work.tokens as f64 / forecast.seconds().max(1e-9),
            forecast.operation_rate / 1e9
        ),
    ]
    .join("\n")
}
