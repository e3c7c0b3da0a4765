//! Arguments of commands that read a model layer by layer.

use super::bytes;
use clap::Args;
use std::path::PathBuf;

#[derive(Debug, Args)]
pub(crate) struct StreamArgs {
    /// Most memory to use, e.g. 12GiB [default: what the system has to give]. Models of any size
    /// run: their layers are read one after another, and results are the same
    #[arg(long, value_parser = bytes, value_name = "SIZE")]
    pub(crate) memory: Option<u64>,
    /// Folder for hidden states that do not fit into the memory
    #[arg(long, value_name = "DIR")]
    pub(crate) scratch: Option<PathBuf>,
    /// Threads [default: all cores]
    #[arg(long, short = 'j')]
    pub(crate) threads: Option<usize>,
    /// Print what would be read, what would be in memory, and about how long it would take: from
    /// headers, and from a layer of each kind that is tried
    #[arg(long)]
    pub(crate) dry_run: bool,
}
