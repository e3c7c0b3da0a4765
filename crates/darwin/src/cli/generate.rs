//! The arguments of `darwin generate`.

use clap::Args;
use std::path::PathBuf;

#[derive(Debug, Args)]
pub(crate) struct GenerateArgs {
    /// Folder of a Hugging Face checkpoint, or a GGUF file of a Llama model
    pub(crate) model: PathBuf,
    /// The user's message, or the text to continue; `-` or nothing reads it from stdin
    pub(crate) prompt: Option<String>,
    /// Put the prompt into the chat template (the default where the model has one)
    #[arg(long, conflicts_with = "raw")]
    pub(crate) chat: bool,
    /// Give the prompt to the model as it is, without the chat template
    #[arg(long)]
    pub(crate) raw: bool,
    /// A system message before the prompt
    #[arg(long, value_name = "TEXT", conflicts_with = "raw")]
    pub(crate) system: Option<String>,
    /// Let the model think first, where its chat template has the switch
    #[arg(long, visible_alias = "think", conflicts_with_all = ["raw", "no_thinking"])]
    pub(crate) thinking: bool,
    /// Let the model answer at once (the default)
    #[arg(long, conflicts_with = "raw")]
    pub(crate) no_thinking: bool,
    /// Functions that the model may call: a JSON file with a list of their schemas
    #[arg(long, value_name = "FILE.json", conflicts_with = "raw")]
    pub(crate) tools: Option<PathBuf>,
    /// Most tokens to generate; an end-of-text token stops earlier (default: the model's, else 128)
    #[arg(long, value_name = "N")]
    pub(crate) max_new_tokens: Option<usize>,
    /// Divide logits by this and draw; 0 takes the most likely token each time (default: the
    /// model's, else 0)
    #[arg(long, value_name = "T")]
    pub(crate) temperature: Option<f32>,
    /// Draw from this many of the most likely tokens; 0 is all (default: the model's, else 0)
    #[arg(long, value_name = "K")]
    pub(crate) top_k: Option<usize>,
    /// Draw from the most likely tokens with this share of the probability (default: the model's,
    /// else 1)
    #[arg(long, value_name = "P")]
    pub(crate) top_p: Option<f32>,
    /// Draw from tokens with at least this share of the most likely one's probability (default:
    /// the model's, else 0)
    #[arg(long, value_name = "P")]
    pub(crate) min_p: Option<f32>,
    /// Divide the positive logits of tokens that came before by this, multiply the negative ones
    /// (default: the model's, else 1)
    #[arg(long, value_name = "X")]
    pub(crate) repetition_penalty: Option<f32>,
    /// Seed of the draws: the same seed gives the same answer
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,
    /// End before this text; can be repeated
    #[arg(long, value_name = "TEXT")]
    pub(crate) stop: Vec<String>,
    /// How many answers to draw
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub(crate) n: u32,
    /// Print a JSON line for each answer: text, token ids, why it ended
    #[arg(long)]
    pub(crate) json: bool,
    /// Show special tokens too
    #[arg(long)]
    pub(crate) special: bool,
    /// Print the settings and where they come from
    #[arg(short, long)]
    pub(crate) verbose: bool,
    /// Print what would be in memory, read and written, and about the time of reading and of the prompt; run nothing but a layer
    /// of each kind that is tried
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Threads [default: all cores]
    #[arg(long, short = 'j')]
    pub(crate) threads: Option<usize>,
}
