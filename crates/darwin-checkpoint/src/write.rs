//! Writing any tensor source as a Hugging Face checkpoint.
//!
//! Shards are laid out first, so that every tile knows its place; then one after the other is
//! filled ([`crate::shard`]).

use crate::resume::{Finished, SUMS};
use crate::shard::{Filling, Shard, Slot};
use crate::{Error, Layout, TensorSource};
use darwin_core::fs::{AtomicDir, write_atomic};
use darwin_core::hash::sha256_hex;
use darwin_core::{Cancel, Progress};
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// How a checkpoint is written.
pub struct WriteOptions<'a> {
    /// Largest shard, bytes of tensors; a larger tensor gets a shard of its own.
    pub max_shard_bytes: u64,
    /// Working memory for tiles, bytes, over all threads.
    pub memory: u64,
    /// Files copied beside the weights.
    pub side_files: Vec<PathBuf>,
    /// Files written beside the weights: (name, bytes), `config.json` among them.
    pub documents: Vec<(String, Vec<u8>)>,
    /// What the tensors are computed from, all of it: a write that was interrupted goes on after
    /// its last whole shard when this and the layout are the same. `None`: it starts anew.
    pub identity: Option<String>,
    /// Told the bytes written.
    pub progress: &'a dyn Progress,
    /// Asked between tiles.
    pub cancel: &'a Cancel,
}

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// Tensors in the files.
    pub tensors: usize,
    /// Bytes of tensors.
    pub bytes: u64,
    /// Shards.
    pub shards: usize,
    /// Shards among them that an interrupted write had finished.
    pub kept: usize,
    /// Shards that an interrupted write had finished and that were not whole any more: they were
    /// made anew.
    pub spoiled: Vec<String>,
    /// Shards that an interrupted write of something else had finished: they were removed.
    pub discarded: usize,
}

/// Writes `source` in `layout` into a new folder, which bears its name only when it is whole, with
/// the weight files' SHA-256 in `SHA256SUMS`.
///
/// # Errors
/// As [`write_into`], and whatever opening the folder brings.
pub fn write_checkpoint(
    source: &dyn TensorSource,
    layout: &Layout,
    out: &Path,
    options: &WriteOptions<'_>,
) -> Result<Written, Error> {
    write_into(source, layout, open_output(out)?, options)
}

/// Opens the folder of a checkpoint that will be written: nobody else writes it from now on, and
/// what could keep it from its final name is found before any work.
///
/// # Errors
/// [`Error::Io`] as [`AtomicDir::open`] says.
pub fn open_output(out: &Path) -> Result<AtomicDir, Error> {
    AtomicDir::open(out).map_err(|e| Error::io("create", out, e))
}

/// As [`write_checkpoint`], into a folder that was opened before.
///
/// # Errors
/// [`Error::Io`] (a full disk among them), [`Error::NotFinite`] and whatever the source brings;
/// [`Error::Changed`] where a file that was read or written changed meanwhile. Nothing is left
/// under the final name then. With an identity whole shards stay aside for the next write of the
/// same, and where there are some, another error than [`Error::Cancelled`] is in an
/// [`Error::Kept`].
pub fn write_into(
    source: &dyn TensorSource,
    layout: &Layout,
    mut dir: AtomicDir,
    options: &WriteOptions<'_>,
) -> Result<Written, Error> {
    let shards = lay_out(source, layout, options.max_shard_bytes);
    let out = dir.named().to_owned();
    if options.identity.is_none() {
        dir.clear().map_err(|e| Error::io("create", &out, e))?;
    }
    let mut finished = Finished::open(dir.path(), identity(options, &shards))?;
    let discarded = finished.discarded();
    dir.keep(finished.any());
    let written = write_all(source, &shards, &mut dir, &mut finished, options);
    let (written, changed) = match (written, source.check_unchanged()) {
        (Err(Error::Cancelled), Err(Error::Changed { .. })) => (Err(Error::Cancelled), true),
        (Err(Error::Cancelled), _) => (Err(Error::Cancelled), false),
        (_, Err(error @ Error::Changed { .. })) => (Err(error), true),
        (Ok(_), Err(error)) => (Err(error), false),
        (written, _) => (written, false),
    };
    if changed {
        // Shards of two states of a parent: none may be taken over.
        dir.keep(false);
    }
    let kept = if options.identity.is_some() && !changed { finished.count() } else { 0 };
    let keep = |error| match error {
        Error::Cancelled => Error::Cancelled,
        error if kept == 0 => error,
        error => Error::Kept { error: Box::new(error), shards: kept },
    };
    let (kept, spoiled) = written.map_err(keep)?;
    dir.commit().map_err(|e| keep(Error::io("write", &out, e)))?;
    let bytes = shards.iter().map(Shard::tensor_bytes).sum();
    let (tensors, shards) = (layout.stored.len(), shards.len());
    Ok(Written { tensors, bytes, shards, kept, spoiled, discarded })
}

/// Writes all files; how many shards were there, and which of them were spoiled.
fn write_all(
    source: &dyn TensorSource,
    shards: &[Shard<'_>],
    dir: &mut AtomicDir,
    finished: &mut Finished,
    options: &WriteOptions<'_>,
) -> Result<(usize, Vec<String>), Error> {
    let spoiled = finished.take_over(options.progress, options.cancel)?;
    let kept = finished.count();
    write_shards(source, shards, dir, finished, options)?;
    for path in &options.side_files {
        let target = dir.path().join(path.file_name().unwrap_or_default());
        std::fs::copy(path, &target).map_err(|e| Error::io("write", &target, e))?;
    }
    if shards.len() > 1 {
        let index = pretty(&index_json(shards));
        write_document(dir.path(), "model.safetensors.index.json", &index)?;
    }
    for (name, bytes) in &options.documents {
        write_document(dir.path(), name, bytes)?;
    }
    write_document(dir.path(), SUMS, finished.sums().as_bytes())?;
    finished.check()?;
    Ok((kept, spoiled))
}

/// What is written, down to the places of all tensors.
fn identity(options: &WriteOptions<'_>, shards: &[Shard<'_>]) -> String {
    let mut text = options.identity.clone().unwrap_or_default().into_bytes();
    for shard in shards {
        text.extend_from_slice(shard.name.as_bytes());
        text.extend_from_slice(&shard.header);
    }
    sha256_hex(&text)
}

/// Up to so many shards the files that are read are looked at after each of them.
const FEW: usize = 256;

/// Writes the shards that are not there yet.
fn write_shards(
    source: &dyn TensorSource,
    shards: &[Shard<'_>],
    dir: &mut AtomicDir,
    finished: &mut Finished,
    options: &WriteOptions<'_>,
) -> Result<(), Error> {
    let total = shards.iter().map(Shard::tensor_bytes).sum();
    options.progress.start("write", total, "B");
    let filling = Filling {
        source,
        plans: source.manifest().tensors().iter().map(|_| OnceLock::new()).collect(),
        memory: options.memory,
        progress: options.progress,
        cancel: options.cancel,
    };
    for shard in shards {
        if finished.has(&shard.name) {
            options.progress.advance(shard.tensor_bytes());
            continue;
        }
        let path = dir.path().join(&shard.name);
        let (sha256, stamp) = match filling.fill(shard, &path) {
            Ok(whole) => whole,
            Err(error) => {
                // Half a shard helps nobody, and may be what fills the disk.
                let _ = std::fs::remove_file(&path);
                return Err(error);
            }
        };
        if shards.len() <= FEW {
            source.check_unchanged()?;
        }
        finished.add(&shard.name, sha256, stamp)?;
        dir.keep(options.identity.is_some());
    }
    options.progress.finish();
    Ok(())
}

fn write_document(folder: &Path, name: &str, bytes: &[u8]) -> Result<(), Error> {
    let path = folder.join(name);
    write_atomic(&path, bytes).map_err(|e| Error::io("write", &path, e))
}

fn pretty(value: &Value) -> Vec<u8> {
    let mut bytes = serde_json::to_vec_pretty(value).unwrap_or_default();
    bytes.push(b'\n');
    bytes
}

fn lay_out<'a>(source: &dyn TensorSource, layout: &'a Layout, max: u64) -> Vec<Shard<'a>> {
    let mut groups: Vec<Vec<Slot<'a>>> = Vec::new();
    let mut filled = 0;
    for stored in &layout.stored {
        let info = source.manifest().get(stored.id);
        let bytes = (stored.rows.len() * info.cols() * info.dtype.size()) as u64;
        if groups.is_empty() || (filled + bytes > max && filled > 0) {
            groups.push(Vec::new());
            filled = 0;
        }
        filled += bytes;
        if let Some(group) = groups.last_mut() {
            group.push(Slot { stored, dtype: info.dtype, offset: 0, bytes });
        }
    }
    let total = groups.len();
    groups.into_iter().enumerate().map(|(i, slots)| shard(i, total, slots)).collect()
}

fn shard(index: usize, total: usize, mut slots: Vec<Slot<'_>>) -> Shard<'_> {
    // Widest dtypes first keeps every tensor aligned to its element size, as safetensors does.
    slots.sort_by(|a, b| {
        (std::cmp::Reverse(a.dtype.size()), &a.stored.name)
            .cmp(&(std::cmp::Reverse(b.dtype.size()), &b.stored.name))
    });
    let mut object = Map::new();
    object.insert("__metadata__".to_owned(), json!({ "format": "pt" }));
    let mut offset = 0;
    for slot in &mut slots {
        slot.offset = offset;
        offset += slot.bytes;
        object.insert(
            slot.stored.name.clone(),
            json!({
                "dtype": slot.dtype.name(),
                "shape": slot.stored.shape,
                "data_offsets": [slot.offset, offset],
            }),
        );
    }
    let mut text = Value::Object(object).to_string().into_bytes();
    text.resize(text.len().next_multiple_of(8), b' ');
    let mut header = (text.len() as u64).to_le_bytes().to_vec();
    header.extend_from_slice(&text);
    let name = if total == 1 {
        "model.safetensors".to_owned()
    } else {
        format!("model-{:05}-of-{total:05}.safetensors", index + 1)
    };
    Shard { name, header, slots }
}

fn index_json(shards: &[Shard<'_>]) -> Value {
    let mut weight_map = Map::new();
    let mut names: Vec<(&str, &str)> = shards
        .iter()
        .flat_map(|s| s.slots.iter().map(move |t| (t.stored.name.as_str(), s.name.as_str())))
        .collect();
    names.sort_unstable();
    for (tensor, file) in names {
        weight_map.insert(tensor.to_owned(), json!(file));
    }
    let total: u64 = shards.iter().map(Shard::tensor_bytes).sum();
    json!({ "metadata": { "total_size": total }, "weight_map": weight_map })
}
