//! The arguments of `darwin score`.

use clap::Args;
use std::path::PathBuf;

#[derive(Debug, Args)]
pub(crate) struct ScoreArgs {
    /// Folder of a Hugging Face checkpoint, or a GGUF file of a Llama model
    pub(crate) model: PathBuf,
    /// JSON lines with `prompt` and `answer` (text), `text` (a whole text), or `prompt_ids` and
    /// `answer_ids` (token ids)
    pub(crate) items: PathBuf,
    /// Print a JSON line for each item, as soon as its block is done, and one for the summary
    #[arg(long)]
    pub(crate) json: bool,
    /// Add `logprobs`: the log-probability of each answer token, nats
    #[arg(long, requires = "json")]
    pub(crate) tokens: bool,
    /// Add `experts`: for each layer and token the ids of the selected experts, largest gate first
    #[arg(long, requires = "json")]
    pub(crate) taps: bool,
    /// Print what would be in memory, read and written, and about the time of reading and running; run nothing but a layer
    /// of each kind that is tried
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Threads [default: all cores]
    #[arg(long, short = 'j')]
    pub(crate) threads: Option<usize>,
}
