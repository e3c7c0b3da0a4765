//! The arguments of `darwin extract-lora`.

use clap::Args;
use std::path::PathBuf;

#[derive(Debug, Args)]
pub(crate) struct ExtractLoraArgs {
    /// Checkpoint folder of the fine-tune
    pub(crate) finetuned: PathBuf,
    /// Checkpoint folder of the model that it was made from
    pub(crate) base: PathBuf,
    /// Folder to write; must not exist or be empty
    pub(crate) out: PathBuf,
    /// Largest rank of a tensor
    #[arg(long, visible_alias = "max-rank", default_value_t = 32)]
    pub(crate) rank: usize,
    /// Leave out singular values that are not larger than this
    #[arg(long, visible_alias = "sv-epsilon", default_value_t = 0.0)]
    pub(crate) epsilon: f64,
    /// Only tensors whose names match this regular expression; can be repeated
    #[arg(long, visible_alias = "include-regex", value_name = "REGEX")]
    pub(crate) include: Vec<String>,
    /// No tensor whose name matches this regular expression; can be repeated
    #[arg(long, visible_alias = "exclude-regex", value_name = "REGEX")]
    pub(crate) exclude: Vec<String>,
    /// Keep the modules of these tensors whole (`modules_to_save`); can be repeated
    #[arg(long = "save-module", value_name = "REGEX")]
    pub(crate) save_modules: Vec<String>,
    /// Decompose embeddings, too
    #[arg(long)]
    pub(crate) embed_lora: bool,
    /// Threads [default: all cores]
    #[arg(long, short = 'j', visible_alias = "num-threads")]
    pub(crate) threads: Option<usize>,
}
