//! Writing any tensor source as a Hugging Face checkpoint.
//!
//! Shards are laid out first, so that every tile knows its place: tiles are read, rounded and
//! written in any order by the threads of the pool that is installed, and the bytes do not depend
//! on how many there are.

use crate::resume::{Finished, SUMS};
use crate::{Dtype, Error, Layout, Stored, TensorPlan, TensorSource};
use darwin_core::fs::{AtomicDir, write_atomic};
use darwin_core::hash::{sha256_file, sha256_hex};
use darwin_core::{Cancel, Progress};
use rayon::prelude::*;
use serde_json::{Map, Value, json};
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
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
}

struct Slot<'a> {
    stored: &'a Stored,
    dtype: Dtype,
    offset: u64,
    bytes: u64,
}

struct Shard<'a> {
    name: String,
    header: Vec<u8>,
    slots: Vec<Slot<'a>>,
}

/// Writes `source` in `layout` into a new folder, which bears its name only when it is whole, with
/// the weight files' SHA-256 in `SHA256SUMS`.
///
/// # Errors
/// [`Error::Io`] (a full disk among them), [`Error::NotFinite`] and whatever the source brings;
/// nothing is left under the final name then. After [`Error::Cancelled`] whole shards stay aside
/// for the next write of the same.
pub fn write_checkpoint(
    source: &dyn TensorSource,
    layout: &Layout,
    out: &Path,
    options: &WriteOptions<'_>,
) -> Result<Written, Error> {
    let shards = lay_out(source, layout, options.max_shard_bytes);
    let io = |e| Error::io("create", out, e);
    let dir = match &options.identity {
        Some(_) => AtomicDir::open(out).map_err(io)?,
        None => AtomicDir::create(out).map_err(io)?,
    };
    let mut finished = Finished::open(dir.path(), identity(options, &shards))?;
    let kept = shards.iter().filter(|s| finished.has(&s.name, s.bytes())).count();
    match write_shards(source, &shards, dir.path(), &mut finished, options) {
        Err(Error::Cancelled) if options.identity.is_some() && finished.any() => {
            dir.keep();
            return Err(Error::Cancelled);
        }
        result => result?,
    }
    for path in &options.side_files {
        let target = dir.path().join(path.file_name().unwrap_or_default());
        std::fs::copy(path, &target).map_err(|e| Error::io("write", &target, e))?;
    }
    if shards.len() > 1 {
        let index = pretty(&index_json(&shards));
        write_document(dir.path(), "model.safetensors.index.json", &index)?;
    }
    for (name, bytes) in &options.documents {
        write_document(dir.path(), name, bytes)?;
    }
    write_document(dir.path(), SUMS, finished.end()?.as_bytes())?;
    dir.commit().map_err(|e| Error::io("write", out, e))?;
    let bytes = shards.iter().map(Shard::tensor_bytes).sum();
    Ok(Written { tensors: layout.stored.len(), bytes, shards: shards.len(), kept })
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

/// Writes the shards that are not there yet. Each is hashed while the next one is written.
fn write_shards(
    source: &dyn TensorSource,
    shards: &[Shard<'_>],
    folder: &Path,
    finished: &mut Finished,
    options: &WriteOptions<'_>,
) -> Result<(), Error> {
    let total = shards.iter().map(Shard::tensor_bytes).sum();
    options.progress.start("write", total, "B");
    let plans: Vec<OnceLock<TensorPlan>> =
        source.manifest().tensors().iter().map(|_| OnceLock::new()).collect();
    let hash = |shard: &Shard<'_>| {
        let path = folder.join(&shard.name);
        sha256_file(&path).map_err(|e| Error::io("read", &path, e))
    };
    std::thread::scope(|scope| {
        let mut last = None;
        let mut written = Ok(());
        for shard in shards {
            if finished.has(&shard.name, shard.bytes()) {
                options.progress.advance(shard.tensor_bytes());
                continue;
            }
            written = write_shard(source, shard, folder, &plans, options);
            record(finished, &mut last)?;
            if written.is_err() {
                break;
            }
            last = Some((shard, scope.spawn(move || hash(shard))));
        }
        record(finished, &mut last)?;
        options.progress.finish();
        written
    })
}

type Hashing<'s, 'a> = (&'s Shard<'a>, std::thread::ScopedJoinHandle<'s, Result<String, Error>>);

/// Waits for the hash of the shard before, and records that it is whole.
fn record(finished: &mut Finished, last: &mut Option<Hashing<'_, '_>>) -> Result<(), Error> {
    let Some((shard, hashing)) = last.take() else { return Ok(()) };
    let hash = hashing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
    finished.add(&shard.name, hash)
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

impl Shard<'_> {
    /// Bytes of the file.
    fn bytes(&self) -> u64 {
        self.header.len() as u64 + self.tensor_bytes()
    }

    /// Bytes of its tensors.
    fn tensor_bytes(&self) -> u64 {
        self.slots.iter().map(|s| s.bytes).sum()
    }
}

/// One tile of a shard: a slot and rows of its logical tensor.
type Tile<'a> = (&'a Slot<'a>, Range<usize>);

fn write_shard(
    source: &dyn TensorSource,
    shard: &Shard<'_>,
    folder: &Path,
    plans: &[OnceLock<TensorPlan>],
    options: &WriteOptions<'_>,
) -> Result<(), Error> {
    let path = folder.join(&shard.name);
    let file = File::create(&path).map_err(|e| Error::io("create", &path, e))?;
    let io = |e| Error::io("write", &path, e);
    file.set_len(shard.bytes()).map_err(io)?;
    file.write_all_at(&shard.header, 0).map_err(io)?;
    let tiles = tiles(source, shard, options.memory);
    tiles.par_iter().try_for_each(|(slot, rows)| {
        if options.cancel.is_cancelled() {
            return Err(Error::Cancelled);
        }
        let bytes = tile_bytes(source, slot, rows.clone(), plans)?;
        let row_bytes = slot.bytes / (slot.stored.rows.len().max(1) as u64);
        let at = shard.header.len() as u64
            + slot.offset
            + (rows.start - slot.stored.rows.start) as u64 * row_bytes;
        file.write_all_at(&bytes, at).map_err(io)?;
        options.progress.advance(bytes.len() as u64);
        Ok(())
    })?;
    file.sync_all().map_err(io)
}

/// Cuts a shard into tiles of at most 1 Mi elements, fewer under a tight memory budget (a tile
/// costs its f32 values and its bytes, for each thread and each of about three models).
fn tiles<'a>(source: &dyn TensorSource, shard: &'a Shard<'a>, memory: u64) -> Vec<Tile<'a>> {
    let threads = rayon::current_num_threads() as u64;
    let elements = (memory / threads.max(1) / 24).clamp(1 << 10, 1 << 20) as usize;
    let mut tiles = Vec::new();
    for slot in &shard.slots {
        let cols = source.manifest().get(slot.stored.id).cols();
        let step = (elements / cols.max(1)).max(1);
        let mut start = slot.stored.rows.start;
        while start < slot.stored.rows.end {
            let end = (start + step).min(slot.stored.rows.end);
            tiles.push((slot, start..end));
            start = end;
        }
    }
    tiles
}

fn tile_bytes(
    source: &dyn TensorSource,
    slot: &Slot<'_>,
    rows: Range<usize>,
    plans: &[OnceLock<TensorPlan>],
) -> Result<Vec<u8>, Error> {
    let id = slot.stored.id;
    let mut bytes = Vec::new();
    if source.read_raw(id, rows.clone(), &mut bytes)? {
        check_raw(source, slot, &rows, &bytes)?;
        return Ok(bytes);
    }
    let plan = match plans[id.index()].get() {
        Some(plan) => plan,
        None => {
            let plan = source.prepare(id)?;
            plans[id.index()].get_or_init(|| plan)
        }
    };
    let mut values = vec![0.0; rows.len() * plan.cols];
    source.read_tile(plan, rows.clone(), &mut values)?;
    finite(source, slot, &rows, &values)?;
    bytes.resize(values.len() * slot.dtype.size(), 0);
    slot.dtype.encode(&values, &mut bytes);
    Ok(bytes)
}

fn check_raw(
    source: &dyn TensorSource,
    slot: &Slot<'_>,
    rows: &Range<usize>,
    bytes: &[u8],
) -> Result<(), Error> {
    if !slot.dtype.is_mergeable() {
        return Ok(());
    }
    let mut values = vec![0.0; bytes.len() / slot.dtype.size()];
    slot.dtype.decode(bytes, &mut values);
    finite(source, slot, rows, &values)
}

fn finite(
    source: &dyn TensorSource,
    slot: &Slot<'_>,
    rows: &Range<usize>,
    values: &[f32],
) -> Result<(), Error> {
    if values.iter().all(|v| v.is_finite()) {
        return Ok(());
    }
    let at = values.iter().position(|v| !v.is_finite()).unwrap_or(0);
    let cols = source.manifest().get(slot.stored.id).cols();
    Err(Error::NotFinite {
        file: PathBuf::from(source.name()),
        tensor: slot.stored.name.clone(),
        element: (rows.start - slot.stored.rows.start) * cols + at,
        value: values[at],
    })
}
