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
mod regmean;
mod report;
mod score;
mod stream;
mod validate;

use crate::cli::{Command, ItemArgs};
use crate::ui::Ui;
use darwin_checkpoint::{HasFiles, HashCache};
use darwin_core::{Failure, Fault, Fingerprint, Split};
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

/// Threads for each core at most: more only wait for each other.
const THREADS_PER_CORE: usize = 4;

/// Sets the number of threads of everything that follows.
fn use_threads(threads: Option<usize>, ui: &Ui) -> Result<(), Failure> {
    let Some(asked) = threads else { return Ok(()) };
    if asked == 0 {
        return Err(Failure::user("`--threads` is 0, allowed is 1 or more"));
    }
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let n = asked.min(THREADS_PER_CORE * cores);
    if n < asked {
        ui.warn(format!("`--threads` is {asked}: {n} are used, {THREADS_PER_CORE} for each core"));
    }
    rayon::ThreadPoolBuilder::new().num_threads(n).build_global().map_err(|e| {
        Failure::new(Fault::Environment, format!("cannot start {n} threads: {e}"))
            .with_hint("give a smaller `--threads`")
    })
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

/// Where hashes of large files are remembered: `darwin/hashes.json` in the user's cache.
fn hash_cache() -> HashCache {
    let variable =
        |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = variable("XDG_CACHE_HOME").or_else(|| Some(variable("HOME")?.join(".cache")));
    HashCache::open(cache.map(|cache| cache.join("darwin/hashes.json")))
}

/// Which models these are; files that are not known are read, with progress.
fn fingerprints<const N: usize>(
    models: [&dyn HasFiles; N],
    ui: &Ui,
) -> Result<[Fingerprint; N], Failure> {
    let hashes = hash_cache();
    let found = hashes.fingerprints(&models, ui.progress(), ui.cancel())?;
    hashes.save();
    Ok(found.try_into().expect("a fingerprint for each model"))
}

/// What stands for a model's fingerprint in a plan, for which no weight is read.
fn unread() -> Fingerprint {
    Fingerprint::of("unread", [("model", "")])
}

/// Seconds since 1970, UTC.
#[allow(clippy::disallowed_methods, reason = "the binary owns the clock")]
fn seconds_now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

/// The time, UTC, as `2026-11-24T08:00:00Z`: for `created`, the one clock in our files.
fn now() -> String {
    darwin_core::time::utc(seconds_now())
}
