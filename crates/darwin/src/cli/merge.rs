//! Arguments of `darwin merge`.

use super::mergekit::MergekitFlags;
use super::{Layout, bytes, layout, numerics};
use clap::{ArgAction, Args};
use darwin_merge::Numerics;
use std::path::PathBuf;

#[derive(Debug, Args)]
pub(crate) struct MergeArgs {
    /// The recipe, a mergekit YAML
    pub(crate) config: PathBuf,
    /// Folder to write; must not exist or be empty
    #[arg(required_unless_present = "dry_run")]
    pub(crate) out: Option<PathBuf>,
    /// Print the plan and its cost, from headers alone; write nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Print the plan as JSON, as in manifest.json
    #[arg(long, requires = "dry_run")]
    pub(crate) json: bool,
    /// Print the plan, then merge
    #[arg(short, action = ArgAction::Count)]
    pub(crate) verbose: u8,
    /// Use this model wherever the recipe says father (or names its base model)
    #[arg(long, requires = "mother")]
    pub(crate) father: Option<PathBuf>,
    /// Use this model wherever the recipe says mother (or names the other model)
    #[arg(long, requires = "father")]
    pub(crate) mother: Option<PathBuf>,
    /// Seed of DARE's and DELLA's masks (default: the recipe's, else 0)
    #[arg(long)]
    pub(crate) random_seed: Option<u64>,
    /// Round once, or as mergekit does: after every step, with its masks (default: the recipe's,
    /// else native)
    #[arg(long, value_parser = numerics, value_name = "native|mergekit")]
    pub(crate) numerics: Option<Numerics>,
    /// How routed experts are written: as in the structural parent, fused, or one by one
    /// (default: the recipe's, else parent)
    #[arg(long, value_parser = layout, value_name = "parent|fused|per-expert")]
    pub(crate) layout: Option<Layout>,
    /// Write the language model alone: names, `architectures` and config of its text-only class
    #[arg(long)]
    pub(crate) text_only: bool,
    /// Items that the parents are run on, where maps are solved from activations (`regmean`,
    /// calibrated routers): JSON lines (plain or .gz), or a folder with `calibration.jsonl.gz`
    #[arg(long, value_name = "FILE")]
    pub(crate) items: Option<PathBuf>,
    /// Most items of each domain, chosen by the hash of their ids [default: the recipe's, else 120]
    #[arg(long, value_name = "N", requires = "items", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) per_domain: Option<u32>,
    /// Where models that are named as on the Hub lie, and are no folders (default: HF_HUB_CACHE, or
    /// hub in HF_HOME, or ~/.cache/huggingface/hub); nothing is downloaded
    #[arg(long, value_name = "DIR")]
    pub(crate) transformers_cache: Option<PathBuf>,
    /// Where the named documents of a file of several are written (default: OUT with `.steps`
    /// behind it); those that are there already are not made again
    #[arg(long, value_name = "DIR")]
    pub(crate) intermediate_dir: Option<PathBuf>,
    /// Masks instead of drawn ones: U8 tensors `<model>/<tensor>` in a safetensors file
    #[arg(long, hide = true)]
    pub(crate) masks: Option<PathBuf>,
    /// Copy tokenizer and chat template (the default)
    #[arg(long, hide = true, overrides_with_all = ["copy_tokenizer", "no_copy_tokenizer"])]
    pub(crate) copy_tokenizer: bool,
    /// Leave tokenizer and chat template out
    #[arg(long, overrides_with_all = ["copy_tokenizer", "no_copy_tokenizer"])]
    pub(crate) no_copy_tokenizer: bool,
    /// Write a model card, README.md (the default)
    #[arg(long, hide = true, overrides_with_all = ["write_model_card", "no_write_model_card"])]
    pub(crate) write_model_card: bool,
    /// Write no model card
    #[arg(long, overrides_with_all = ["write_model_card", "no_write_model_card"])]
    pub(crate) no_write_model_card: bool,
    /// Largest shard in bytes, e.g. 5GB, 500MiB, or as mergekit writes it: 5B, 200M, 10k
    #[arg(long, value_parser = bytes, default_value = "5GB")]
    pub(crate) out_shard_size: u64,
    /// Working memory for tiles in bytes, e.g. 512MiB [default: 512MiB]; of recipes that are solved
    /// from activations most memory to use [default: what the system has to give]
    #[arg(long, value_parser = bytes, value_name = "SIZE")]
    pub(crate) memory: Option<u64>,
    /// Threads [default: all cores]
    #[arg(long, short = 'j', visible_alias = "num-threads")]
    pub(crate) threads: Option<usize>,
    #[command(flatten)]
    pub(crate) mergekit: MergekitFlags,
}
