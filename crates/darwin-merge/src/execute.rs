//! Writing the child as a checkpoint.

use crate::{Error, Merge};
use darwin_checkpoint::{TensorSource, WriteOptions, Written, open_output, write_into};
use darwin_core::fs::{AtomicDir, Stamp};
use darwin_core::hash::sha256_hex;
use darwin_core::{Cancel, Progress};
use std::path::Path;

/// The part of the memory that masks may take, which are kept from the norms to the output.
const MASK_SHARE: u64 = 3;

/// How a merge is written.
pub struct MergeOptions<'a> {
    /// Largest shard, bytes of tensors.
    pub max_shard_bytes: u64,
    /// Working memory for tiles and masks, bytes, over all threads.
    pub memory: u64,
    /// More files to write beside the weights: (name, bytes), such as a model card.
    pub documents: Vec<(String, Vec<u8>)>,
    /// Told the bytes written.
    pub progress: &'a dyn Progress,
    /// Asked between tiles.
    pub cancel: &'a Cancel,
}

/// Writes a merge as a Hugging Face checkpoint in the structural parent's layout, with its side
/// files (tokenizer and chat template as the recipe asks), `config.json`, `manifest.json` and
/// `mergekit_config.yml` (with a file of shares beside it where it names one). One that was interrupted, by Ctrl-C or the process's end, goes on after
/// its last whole shard.
///
/// # Errors
/// Whatever reading the inputs and writing the output can bring; nothing is left under the final
/// name then.
pub fn merge_to(merge: &Merge, out: &Path, options: &MergeOptions<'_>) -> Result<Written, Error> {
    merge_into(merge, open_output(out)?, options)
}

/// As [`merge_to`], into a folder that was opened before ([`open_output`]).
///
/// # Errors
/// As [`merge_to`].
pub fn merge_into(
    merge: &Merge,
    out: AtomicDir,
    options: &MergeOptions<'_>,
) -> Result<Written, Error> {
    let (Some(parent), Some(layout)) = (merge.structure(), merge.plan().layout.as_ref()) else {
        return Err(Error::plan(
            "the structural parent is not a checkpoint on disk, so there is no layout to write",
            "open it from its folder",
        ));
    };
    if !merge.is_solved() {
        return Err(merge.not_solved());
    }
    let mut documents = vec![
        ("config.json".to_owned(), config(merge)),
        ("manifest.json".to_owned(), json(&merge.plan().manifest())),
        ("mergekit_config.yml".to_owned(), merge.recipe_text().as_bytes().to_vec()),
    ];
    let shares = merge.shares_file().map(|(name, bytes)| (name.to_owned(), bytes.to_vec()));
    documents.extend(shares);
    let side = merge.side().files(parent)?;
    documents.extend(side.documents);
    documents.extend(options.documents.iter().cloned());
    let for_masks = options.memory / MASK_SHARE;
    merge.limit_masks(usize::try_from(for_masks).unwrap_or(usize::MAX));
    let write = WriteOptions {
        max_shard_bytes: options.max_shard_bytes,
        memory: options.memory - for_masks,
        side_files: side.files,
        documents,
        identity: (!merge.has_masks()).then(|| identity(merge)),
        progress: options.progress,
        cancel: options.cancel,
    };
    Ok(write_into(merge, layout, out, &write)?)
}

/// What the output is computed from: the plan, and the parents' files as they are now.
fn identity(merge: &Merge) -> String {
    let mut text = json(&merge.plan().manifest());
    text.extend_from_slice(merge.side().vocabulary().as_bytes());
    for path in merge.files() {
        let stamp = Stamp::of(path);
        text.extend_from_slice(format!("{} {stamp:?}\n", path.display()).as_bytes());
    }
    sha256_hex(&text)
}

/// The parent's own bytes where nothing in it changes.
fn config(merge: &Merge) -> Vec<u8> {
    match merge.structure() {
        Some(parent) if parent.config() == merge.config() => parent.config_bytes().to_vec(),
        _ => json(merge.config()),
    }
}

fn json(value: &impl serde::Serialize) -> Vec<u8> {
    let mut bytes = serde_json::to_vec_pretty(value).expect("these types have text keys");
    bytes.push(b'\n');
    bytes
}
