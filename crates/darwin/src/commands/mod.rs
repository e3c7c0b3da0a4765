//! One module per subcommand: arguments in, a validated job, a result on stdout.

mod card;
mod check;
mod compare;
mod evolve;
mod extract_lora;
mod generate;
mod inspect;
mod ls;
mod merge;
mod outlook;
mod profile;
mod report;
mod score;
mod stream;
mod validate;

use crate::cli::{Command, ItemArgs};
use crate::ui::Ui;
use darwin_core::{Failure, Fault, Split};
use darwin_engine::Text;
use darwin_eval::{Encoded, ItemSet};
use darwin_merge::HubCache;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Runs a subcommand.
pub(crate) fn run(command: Command, ui: &Ui) -> Result<ExitCode, Failure> {
    match command {
        Command::Inspect(arguments) => inspect::run(&arguments, ui),
        Command::Merge(arguments) => merge::run(&arguments, ui),
        Command::ExtractLora(arguments) => extract_lora::run(&arguments, ui),
        Command::Validate(arguments) => validate::run(&arguments, ui),
        Command::Generate(arguments) => generate::run(&arguments, ui),
        Command::Score(arguments) => score::run(&arguments, ui),
        Command::Profile(arguments) => profile::run(&arguments, ui),
        Command::Compare(arguments) => compare::run(&arguments, ui),
        Command::Evolve(arguments) => evolve::run(&arguments, ui),
        Command::Check(arguments) => check::run(&arguments, ui),
        Command::Report(arguments) => report::run(&arguments, ui),
        Command::Ls(arguments) => ls::run(&arguments, ui),
    }
}

/// Sets the number of threads of everything that follows.
fn use_threads(threads: Option<usize>) -> Result<(), Failure> {
    match threads {
        Some(0) => Err(Failure::user("`--threads` is 0, allowed is 1 or more")),
        // 0 stands for all cores
        n => rayon::ThreadPoolBuilder::new().num_threads(n.unwrap_or(0)).build_global().map_err(
            |e| {
                let text = format!("cannot start the threads: {e}");
                Failure::new(Fault::Environment, text).with_hint("use fewer of them (-j)")
            },
        ),
    }
}

/// The calibration items that the arguments name, tokenised.
fn calibration(arguments: &ItemArgs, text: &Text) -> Result<Encoded, Failure> {
    let path = if arguments.items.is_dir() {
        arguments.items.join("calibration.jsonl.gz")
    } else {
        arguments.items.clone()
    };
    let items = ItemSet::open(&path, Split::Calibration)?;
    Ok(Encoded::new(&items.take_per_domain(arguments.per_domain), text)?)
}

/// The Hub's cache: in a folder that was named, else where its libraries have it.
fn hub_cache(named: Option<&Path>) -> Option<HubCache> {
    let variable =
        |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let folder = named
        .map(Path::to_owned)
        .or_else(|| variable("HF_HUB_CACHE"))
        .or_else(|| variable("HF_HOME").map(|home| home.join("hub")))
        .or_else(|| variable("XDG_CACHE_HOME").map(|cache| cache.join("huggingface/hub")))
        .or_else(|| variable("HOME").map(|home| home.join(".cache/huggingface/hub")))?;
    Some(HubCache::new(folder))
}

fn save_json<T: serde::Serialize>(path: &Path, value: &T) -> Result<(), Failure> {
    darwin_core::fs::write_json(path, value).map_err(|e| {
        Failure::new(Fault::of_io(&e), format!("cannot write {}: {e}", path.display()))
    })
}

/// Seconds since 1970, UTC.
#[allow(clippy::disallowed_methods, reason = "the binary owns the clock")]
fn seconds_now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

/// The time, UTC, as `2026-11-24T08:00:00Z`: for `created`, the one clock in our files.
fn now() -> String {
    let seconds = seconds_now();
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z",
        rest / 3600,
        rest / 60 % 60,
        rest % 60
    )
}

/// Year, month and day of a count of days since 1970 (Howard Hinnant's `civil_from_days`).
fn civil(days: u64) -> (u64, u64, u64) {
    let z = days + 719_468;
    let era = z / 146_097;
    let doe = z % 146_097;
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    (yoe + era * 400 + u64::from(month <= 2), month, doy - (153 * mp + 2) / 5 + 1)
}

#[cfg(test)]
mod tests {
    #[test]
    fn dates() {
        assert_eq!(super::civil(0), (1970, 1, 1));
        assert_eq!(super::civil(20_781), (2026, 11, 24));
        assert_eq!(super::civil(11_016), (2000, 2, 29));
    }
}
