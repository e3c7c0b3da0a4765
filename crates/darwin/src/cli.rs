//! The arguments, typed.

use clap::{Args, Parser, Subcommand};
use darwin_merge::Numerics;
use std::path::PathBuf;

/// Breeds large language models and proves what it did: profiles two parents, evolves a merge
/// recipe, writes the child, checks its health.
///
/// An independent implementation, not affiliated with the publisher of "Darwin V5".
///
/// Exit codes: 0 fine; 1 a check failed; 2 the input is wrong; 3 disk, network or server;
/// 130 interrupted, the same command continues.
#[derive(Debug, Parser)]
#[command(name = "darwin", version, max_term_width = 100)]
pub(crate) struct Cli {
    /// No progress on stderr
    #[arg(long, short, global = true)]
    pub(crate) quiet: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// What a checkpoint is, from its headers alone
    Inspect(InspectArgs),
    /// Merge by a mergekit YAML (and the namespace `darwin:`)
    Merge(MergeArgs),
    /// Continue a prompt
    Generate(GenerateArgs),
    /// Likelihoods of answers, one JSON line per item
    Score(ScoreArgs),
    /// Profile a model: expert loads, routing, importance, probes per layer
    Profile(ProfileArgs),
    /// Compare two parents layer by layer: whose layer is better, by how much
    Compare(CompareArgs),
    /// The whole job: profile, evolve, merge, check, report
    Evolve(EvolveArgs),
    /// Check a child's health against both parents (exit code 1 when it fails)
    Check(CheckArgs),
    /// Write the HTML report of a run folder again
    Report(ReportArgs),
}

#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// Folder of a Hugging Face checkpoint
    pub(crate) model: PathBuf,
    /// As JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// List every tensor
    #[arg(long)]
    pub(crate) tensors: bool,
}

#[derive(Debug, Args)]
pub(crate) struct MergeArgs {
    /// The recipe
    pub(crate) config: PathBuf,
    /// Folder to write; must not exist or be empty
    #[arg(required_unless_present = "dry_run")]
    pub(crate) out: Option<PathBuf>,
    /// Print the plan and its cost, from headers alone; write nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Use this model wherever the recipe says father (or names its base model)
    #[arg(long, requires = "mother")]
    pub(crate) father: Option<PathBuf>,
    /// Use this model wherever the recipe says mother (or names the other model)
    #[arg(long, requires = "father")]
    pub(crate) mother: Option<PathBuf>,
    /// Seed of DARE's masks (default: the recipe's, else 0)
    #[arg(long)]
    pub(crate) random_seed: Option<u64>,
    /// Round once, or as mergekit does: after every step, with its masks (default: the recipe's,
    /// else native)
    #[arg(long, value_parser = numerics, value_name = "native|mergekit")]
    pub(crate) numerics: Option<Numerics>,
    /// Masks instead of drawn ones: U8 tensors `<model>/<tensor>` in a safetensors file
    #[arg(long, hide = true)]
    pub(crate) masks: Option<PathBuf>,
    /// Largest shard, e.g. 5GB or 500MiB
    #[arg(long, value_parser = bytes, default_value = "5GB")]
    pub(crate) out_shard_size: u64,
    /// Working memory for tiles, e.g. 512MiB
    #[arg(long, value_parser = bytes, default_value = "512MiB")]
    pub(crate) memory: u64,
    /// Threads (default: all cores)
    #[arg(long, short = 'j')]
    pub(crate) threads: Option<usize>,
}

#[derive(Debug, Args)]
pub(crate) struct GenerateArgs {
    /// Folder of the checkpoint
    pub(crate) model: PathBuf,
    /// What the user says
    pub(crate) prompt: String,
    /// Most new tokens
    #[arg(long, default_value_t = 128)]
    pub(crate) max_new_tokens: usize,
    /// Give the prompt to the model as it is, without the chat template
    #[arg(long)]
    pub(crate) raw: bool,
    /// Let the template open `<think>`
    #[arg(long)]
    pub(crate) think: bool,
    /// Show special tokens in the answer
    #[arg(long)]
    pub(crate) special: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ScoreArgs {
    /// Folder of the checkpoint
    pub(crate) model: PathBuf,
    /// JSON lines with `prompt` and `answer` (text) or `prompt_ids` and `answer_ids`
    pub(crate) items: PathBuf,
    /// Add the selected experts of every layer
    #[arg(long)]
    pub(crate) taps: bool,
}

/// Items, and how many of them.
#[derive(Debug, Args)]
pub(crate) struct ItemArgs {
    /// JSON lines of items (plain or .gz), or a folder with `calibration.jsonl.gz`
    #[arg(long)]
    pub(crate) items: PathBuf,
    /// Items per domain
    #[arg(long, default_value_t = 100)]
    pub(crate) per_domain: usize,
}

#[derive(Debug, Args)]
pub(crate) struct ProfileArgs {
    /// Folder of the checkpoint
    pub(crate) model: PathBuf,
    #[command(flatten)]
    pub(crate) items: ItemArgs,
    /// Write profile.json and samples.safetensors into this folder
    #[arg(long)]
    pub(crate) out: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct CompareArgs {
    /// The father
    pub(crate) father: PathBuf,
    /// The mother
    pub(crate) mother: PathBuf,
    #[command(flatten)]
    pub(crate) items: ItemArgs,
    /// Write comparison.json here
    #[arg(long)]
    pub(crate) out: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct EvolveArgs {
    /// The run's configuration (examples/first-light.yaml shows every key)
    pub(crate) config: PathBuf,
    /// Print what would be done and stop
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Threads (default: all cores)
    #[arg(long, short = 'j')]
    pub(crate) threads: Option<usize>,
}

#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// The child
    pub(crate) child: PathBuf,
    /// Its father (structural parent)
    #[arg(long)]
    pub(crate) father: PathBuf,
    /// Its mother
    #[arg(long)]
    pub(crate) mother: PathBuf,
    #[command(flatten)]
    pub(crate) items: ItemArgs,
    /// Write health.json here
    #[arg(long)]
    pub(crate) out: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct ReportArgs {
    /// A run folder, as `darwin evolve` leaves it
    pub(crate) run: PathBuf,
    /// The HTML file (default: report.html in the run folder)
    #[arg(long)]
    pub(crate) out: Option<PathBuf>,
}

fn numerics(text: &str) -> Result<Numerics, String> {
    Numerics::find(text).ok_or_else(|| "allowed are native and mergekit".to_owned())
}

/// Bytes with a unit: `5B` and `5GB` are decimal as in mergekit, `512MiB` binary.
fn bytes(text: &str) -> Result<u64, String> {
    const UNITS: [(&str, u64); 8] = [
        ("kib", 1 << 10),
        ("mib", 1 << 20),
        ("gib", 1 << 30),
        ("kb", 1_000),
        ("mb", 1_000_000),
        ("gb", 1_000_000_000),
        ("k", 1_000),
        ("m", 1_000_000),
    ];
    let lower = text.trim().to_ascii_lowercase();
    let (number, unit) = UNITS
        .iter()
        .find_map(|(name, unit)| lower.strip_suffix(name).map(|n| (n, *unit)))
        // mergekit's `5B` means five billion.
        .or_else(|| lower.strip_suffix('b').map(|n| (n, 1_000_000_000)))
        .unwrap_or((&lower, 1));
    let value: f64 = number
        .trim()
        .parse()
        .map_err(|_| "expected a size such as 5GB, 512MiB or 5B".to_owned())?;
    if !(value > 0.0 && value * unit as f64 <= 1e18) {
        return Err("expected a size above 0 and below 1e18 bytes".to_owned());
    }
    Ok((value * unit as f64) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn arguments_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn sizes_as_mergekit_and_as_people_write_them() {
        assert_eq!(bytes("5B"), Ok(5_000_000_000));
        assert_eq!(bytes("5GB"), Ok(5_000_000_000));
        assert_eq!(bytes("512MiB"), Ok(512 << 20));
        assert_eq!(bytes("1.5k"), Ok(1500));
        assert_eq!(bytes("4096"), Ok(4096));
        assert!(bytes("five").is_err());
        assert!(bytes("-1").is_err());
    }
}
