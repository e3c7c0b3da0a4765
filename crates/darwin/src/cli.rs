//! The arguments, typed.

mod extract_lora;
mod generate;
mod merge;
mod mergekit;
mod score;
mod stream;

use clap::{Args, Parser, Subcommand, ValueEnum};
use darwin_checkpoint::ExpertLayout;
use darwin_merge::Numerics;
pub(crate) use extract_lora::ExtractLoraArgs;
pub(crate) use generate::GenerateArgs;
pub(crate) use merge::MergeArgs;
pub(crate) use score::ScoreArgs;
use std::path::PathBuf;
pub(crate) use stream::StreamArgs;

/// Breeds large language models and proves what it did: profiles two parents, evolves a merge
/// recipe, writes the child, checks its health.
///
/// An independent implementation, not affiliated with the publisher of "Darwin V5".
///
/// Exit codes: 0 fine; 1 a check failed; 2 the input is wrong; 3 the disk or the machine failed;
/// 130 interrupted, the same command continues.
#[derive(Debug, Parser)]
#[command(
    name = "darwin",
    version,
    max_term_width = 100,
    after_help = "Example, from a checkout of Darwin:\n  \
        darwin evolve examples/first-light.yaml --dry-run\n\n\
        `darwin COMMAND --help` explains a command and shows an example."
)]
pub(crate) struct Cli {
    /// No progress on stderr; warnings and errors stay
    #[arg(long, short, global = true)]
    pub(crate) quiet: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show what a checkpoint is, from its headers alone
    ///
    /// Architecture, total and active parameters, expert layout, and for each role of tensors their
    /// number, bytes and dtypes. No weight is read.
    #[command(after_help = "Example:\n  darwin inspect examples/parents/father")]
    Inspect(InspectArgs),
    /// Merge models by a mergekit YAML (and its namespace `darwin:`)
    ///
    /// Writes a checkpoint and `manifest.json`, which says what was done to each tensor. The same
    /// recipe and inputs give the same bytes whatever the threads, shard size or memory.
    #[command(after_help = "Examples:\n  \
        darwin merge examples/card-v5-override.yaml --dry-run\n  \
        darwin merge examples/card-v5-override.yaml child")]
    Merge(MergeArgs),
    /// Extract a LoRA adapter from a fine-tune and its base
    ///
    /// Writes what PEFT reads: the truncated singular value decomposition of each difference of two
    /// matrices. Prints each tensor's rank, what the adapter misses of its difference (relative
    /// error, Frobenius norms) and its share of all differences. Embeddings are kept whole where
    /// they differ; vectors and convolutions are named, and kept by `--save-module` only.
    #[command(after_help = "Examples:\n  \
        darwin extract-lora examples/parents/mother examples/parents/father adapter --rank 16\n  \
        darwin extract-lora examples/parents/mother examples/parents/father small \\\n      \
        --exclude experts --save-module norm\n\n\
        In a recipe the result is used as `BASE+OUT`.")]
    ExtractLora(ExtractLoraArgs),
    /// Check a recipe without reading weights: what it does, or everything that is wrong with it
    ///
    /// Prints the method, the models, the layers and each parameter after precedence, conditions in
    /// the order in which they are asked; or all problems at once, exit code 2.
    #[command(after_help = "Examples:\n  \
        darwin validate examples/card-v5-override.yaml\n  \
        darwin validate examples/card-v5-override.yaml --models")]
    Validate(ValidateArgs),
    /// Answer a message, or continue a text
    ///
    /// The prompt goes through the model's chat template, if it has one. Text appears as it comes;
    /// Ctrl-C ends with what there is. Settings that are not given are the model's own
    /// (generation_config.json); where it has none, the most likely token is taken each time. A draw
    /// depends on the seed alone, not on threads.
    #[command(after_help = "Examples:\n  \
        darwin generate examples/parents/father 'What is 2 + 3?' --max-new-tokens 16\n  \
        echo 'What is 2 + 3?' | darwin generate examples/parents/father --thinking --json\n  \
        darwin generate examples/parents/father 'What is 2 + 3?' --n 3 --temperature 0.8 --seed 1")]
    Generate(GenerateArgs),
    /// Score given answers or texts: log-likelihoods, their mean, bits per byte
    ///
    /// Prints for each item (its `id`, else its line number) `nll` (negative log-likelihood of the
    /// answer, nats) and whether greedy decoding would give this answer; then the mean over items
    /// with its 95 % interval, and the means over tokens and bytes. A whole text is scored from its
    /// second token on.
    #[command(after_help = "Examples:\n  \
        echo '{\"prompt\": \"2 + 3 =\", \"answer\": \" 5\"}' >items.jsonl\n  \
        darwin score examples/parents/father items.jsonl\n  \
        darwin score examples/parents/father items.jsonl --json --tokens")]
    Score(ScoreArgs),
    /// Profile a model: expert loads, routing, importance and probes of every layer
    ///
    /// Prints a table with a line per layer: dead, cold and hot experts; entropies in bits of the
    /// router's softmax, mean over tokens (token H), and of the experts' loads (load H); design
    /// effect of clustered tokens (deff); importance of mixer, routed and shared experts; block
    /// influence (BI).
    #[command(after_help = "Example:\n  \
        darwin profile examples/parents/father --items examples/parents/items --per-domain 4")]
    Profile(ProfileArgs),
    /// Compare two parents layer by layer: whose layer is better, and by how much
    ///
    /// The advantage of a layer is causal: it is put into the other parent, and the change of the
    /// loss on the calibration items is measured, in nats per answer with a standard error over
    /// items: at most 48 of each domain, 8 where single components are swapped.
    #[command(after_help = "Example:\n  \
        darwin compare examples/parents/father examples/parents/mother \\\n      \
        --items examples/parents/items --per-domain 2")]
    Compare(CompareArgs),
    /// Do the whole job: profile, evolve a recipe, merge, check, report
    ///
    /// The run folder (`out` in the configuration) gets the journal, profiles, scores, the child
    /// and `report.html`. The same command continues a run that was stopped or killed.
    #[command(after_help = "Examples:\n  \
        darwin evolve examples/first-light.yaml --dry-run\n  \
        darwin evolve examples/first-light.yaml")]
    Evolve(EvolveArgs),
    /// Check a child's health against both parents (exit code 1 when it fails)
    ///
    /// For a child of any tool: lost or changed tensors, NaN, norm drift, interference, function
    /// loss by domain, dead experts, generations that do not end.
    #[command(after_help = "Example, after the one of `darwin merge --help`:\n  \
        darwin check child --father examples/parents/father --mother examples/parents/mother \\\n      \
        --items examples/parents/items --per-domain 4")]
    Check(CheckArgs),
    /// Write the HTML report and the model card of a run folder again
    ///
    /// Reads the files of the run alone; a part that is missing is said to be.
    #[command(after_help = "Example, after the one of `darwin evolve --help`:\n  \
        darwin report runs/first-light")]
    Report(ReportArgs),
    /// List what there is: merge methods, model families
    ///
    /// For each method what it does, whether it needs a base model, its parameters with their
    /// defaults (a star: each model has its own), the numerics it has, and where it comes from.
    /// For each family its classes, and in which layouts its routed experts are read and written.
    #[command(after_help = "Example:\n  darwin ls methods")]
    Ls(LsArgs),
}

#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// Folder of a Hugging Face checkpoint, or a GGUF file of a Llama model
    pub(crate) model: PathBuf,
    /// Print JSON instead of tables
    #[arg(long)]
    pub(crate) json: bool,
    /// List every tensor as it is stored: name, role, dtype, shape
    #[arg(long, conflicts_with = "json")]
    pub(crate) tensors: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ValidateArgs {
    /// The recipe, a mergekit YAML
    pub(crate) config: PathBuf,
    /// Check it against the headers of the models, too
    #[arg(long)]
    pub(crate) models: bool,
}

/// Items, and how many of them.
#[derive(Debug, Args)]
pub(crate) struct ItemArgs {
    /// Calibration items: JSON lines (plain or .gz), or a folder with `calibration.jsonl.gz`
    #[arg(long)]
    pub(crate) items: PathBuf,
    /// Most items of each domain, chosen by the hash of their ids
    #[arg(long, default_value_t = 100)]
    pub(crate) per_domain: usize,
}

#[derive(Debug, Args)]
pub(crate) struct ProfileArgs {
    /// Folder of a Hugging Face checkpoint, or a GGUF file of a Llama model
    pub(crate) model: PathBuf,
    #[command(flatten)]
    pub(crate) items: ItemArgs,
    /// Write profile.json and samples.safetensors into this folder
    #[arg(long)]
    pub(crate) out: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) stream: StreamArgs,
}

#[derive(Debug, Args)]
pub(crate) struct CompareArgs {
    /// Checkpoint folder of the father
    pub(crate) father: PathBuf,
    /// Checkpoint folder of the mother, of the same architecture and sizes
    pub(crate) mother: PathBuf,
    #[command(flatten)]
    pub(crate) items: ItemArgs,
    /// Write the comparison as JSON into this file
    #[arg(long)]
    pub(crate) out: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) stream: StreamArgs,
}

#[derive(Debug, Args)]
pub(crate) struct EvolveArgs {
    /// The run's configuration, a YAML (examples/first-light.yaml shows every key)
    pub(crate) config: PathBuf,
    /// Open parents (headers) and items, check splits, budgets, memory, disk and the run folder as
    /// the run would, print them, and write nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Threads [default: all cores]
    #[arg(long, short = 'j')]
    pub(crate) threads: Option<usize>,
}

#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// Checkpoint folder of the child
    pub(crate) child: PathBuf,
    /// Checkpoint folder of its father: the parent whose config and tensor names it has
    #[arg(long)]
    pub(crate) father: PathBuf,
    /// Checkpoint folder of its mother
    #[arg(long)]
    pub(crate) mother: PathBuf,
    #[command(flatten)]
    pub(crate) items: ItemArgs,
    /// Write the findings as JSON into this file
    #[arg(long)]
    pub(crate) out: Option<PathBuf>,
    /// Print what would be in memory, read and written; check nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ReportArgs {
    /// A run folder, as `darwin evolve` leaves it
    pub(crate) run: PathBuf,
    /// The HTML file [default: report.html in the run folder]
    #[arg(long)]
    pub(crate) out: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct LsArgs {
    /// What to list
    #[arg(value_enum)]
    pub(crate) table: LsTable,
    /// Print a line of JSON for each entry
    #[arg(long)]
    pub(crate) json: bool,
}

/// The lists of `darwin ls`.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum LsTable {
    /// The merge methods
    Methods,
    /// The model families known by name
    Families,
}

/// `--layout`, where `parent` undoes what the recipe says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout(pub(crate) Option<ExpertLayout>);

fn layout(text: &str) -> Result<Layout, String> {
    let named = ExpertLayout::ALL.iter().find(|(name, _)| *name == text).map(|(_, l)| *l);
    match (named, text) {
        (None, "parent") => Ok(Layout(None)),
        (Some(layout), _) => Ok(Layout(Some(layout))),
        _ => Err("allowed are parent, fused, per-expert".to_owned()),
    }
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
        assert_eq!(bytes("2m"), Ok(2_000_000));
        assert_eq!(bytes("3K"), Ok(3_000));
        assert!(bytes("five").is_err());
        assert!(bytes("-1").is_err());
    }
}
