//! Filling a shard: all threads of the pool take tiles in the order of the file; what is whole from
//! the start on is hashed and brought to disk meanwhile. The bytes do not depend on how many
//! threads there are.

use crate::dtype::all_finite;
use crate::{Dtype, Error, Stored, TensorPlan, TensorSource};
use darwin_core::hash::Hasher;
use darwin_core::{Cancel, Progress};
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};

/// A stored tensor and its place in a shard.
pub(crate) struct Slot<'a> {
    pub(crate) stored: &'a Stored,
    pub(crate) dtype: Dtype,
    /// Where it begins, behind the header.
    pub(crate) offset: u64,
    pub(crate) bytes: u64,
}

/// One file of weights.
pub(crate) struct Shard<'a> {
    pub(crate) name: String,
    pub(crate) header: Vec<u8>,
    pub(crate) slots: Vec<Slot<'a>>,
}

impl Shard<'_> {
    /// Bytes of the file.
    pub(crate) fn bytes(&self) -> u64 {
        self.header.len() as u64 + self.tensor_bytes()
    }

    /// Bytes of its tensors.
    pub(crate) fn tensor_bytes(&self) -> u64 {
        self.slots.iter().map(|s| s.bytes).sum()
    }
}

/// Elements of a tile at most: its numbers and those of its inputs fit a core's own cache.
const TILE: u64 = 1 << 16;

/// Bytes a thread needs for each element of a tile: its value, its bytes, its inputs.
const PER_ELEMENT: u64 = 24;

/// Bytes that the disk is given at once.
const FLUSH: u64 = 32 << 20;

/// What all shards of a checkpoint are filled with.
pub(crate) struct Filling<'a> {
    pub(crate) source: &'a dyn TensorSource,
    /// By tensor, made by the first thread that needs one.
    pub(crate) plans: Vec<OnceLock<TensorPlan>>,
    pub(crate) memory: u64,
    pub(crate) progress: &'a dyn Progress,
    pub(crate) cancel: &'a Cancel,
}

/// A slot, rows of its logical tensor, and the end of their bytes in the file.
struct Tile<'a> {
    slot: &'a Slot<'a>,
    rows: Range<usize>,
    bytes: Range<u64>,
}

/// A thread's memory, used from tile to tile.
#[derive(Default)]
struct Buffers {
    values: Vec<f32>,
    raw: Vec<u8>,
    bytes: Vec<u8>,
}

impl Filling<'_> {
    /// Writes and syncs a shard; its SHA-256.
    pub(crate) fn fill(&self, shard: &Shard<'_>, path: &Path) -> Result<String, Error> {
        let file = File::options().read(true).write(true).create(true).truncate(true).open(path);
        let file = file.map_err(|e| Error::io("create", path, e))?;
        let io = |e| Error::io("write", path, e);
        file.set_len(shard.bytes()).map_err(io)?;
        file.write_all_at(&shard.header, 0).map_err(io)?;
        let tiles = self.tiles(shard);
        let frontier = Frontier::new(shard.header.len() as u64, &tiles);
        let next = AtomicUsize::new(0);
        let work = || {
            let mut buffers = Buffers::default();
            loop {
                let i = next.fetch_add(1, Ordering::Relaxed);
                let Some(tile) = tiles.get(i) else { return Ok(()) };
                if let Err(error) = self.write(tile, &file, path, &mut buffers) {
                    next.store(tiles.len(), Ordering::Relaxed);
                    return Err(error);
                }
                frontier.whole(i);
            }
        };
        let sha256 = std::thread::scope(|scope| {
            let hashing = scope.spawn(|| hash(&file, &frontier));
            let flushing = scope.spawn(|| flush(&file, &frontier));
            let written = {
                let _end = End(&frontier);
                rayon::broadcast(|_| work())
            };
            let sha256 = hashing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            let flushed = flushing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            written.into_iter().collect::<Result<(), Error>>()?;
            flushed.map_err(io)?;
            sha256.map_err(|e| Error::io("read", path, e))
        })?;
        file.sync_all().map_err(io)?;
        Ok(sha256)
    }

    fn tiles<'s>(&self, shard: &'s Shard<'s>) -> Vec<Tile<'s>> {
        let threads = rayon::current_num_threads() as u64;
        let elements = (self.memory / threads.max(1) / PER_ELEMENT).clamp(1 << 10, TILE) as usize;
        let mut tiles = Vec::new();
        for slot in &shard.slots {
            let cols = self.source.manifest().get(slot.stored.id).cols();
            let step = (elements / cols.max(1)).max(1);
            let held = &slot.stored.rows;
            let row_bytes = slot.bytes / (held.len().max(1) as u64);
            let at = |row: usize| {
                shard.header.len() as u64 + slot.offset + (row - held.start) as u64 * row_bytes
            };
            for start in held.clone().step_by(step) {
                let rows = start..(start + step).min(held.end);
                let bytes = at(rows.start)..at(rows.end);
                tiles.push(Tile { slot, rows, bytes });
            }
        }
        tiles
    }

    fn write(
        &self,
        tile: &Tile<'_>,
        file: &File,
        path: &Path,
        buffers: &mut Buffers,
    ) -> Result<(), Error> {
        if self.cancel.is_cancelled() {
            return Err(Error::Cancelled);
        }
        let bytes = self.compute(tile, buffers)?;
        file.write_all_at(bytes, tile.bytes.start).map_err(|e| Error::io("write", path, e))?;
        self.progress.advance(bytes.len() as u64);
        Ok(())
    }

    /// A tile's bytes.
    fn compute<'b>(&self, tile: &Tile<'_>, buffers: &'b mut Buffers) -> Result<&'b [u8], Error> {
        let Buffers { values, raw, bytes } = buffers;
        let (id, dtype) = (tile.slot.stored.id, tile.slot.dtype);
        raw.clear();
        if self.source.read_raw(id, tile.rows.clone(), raw)? {
            if !dtype.is_finite(raw) {
                values.resize(raw.len() / dtype.size(), 0.0);
                dtype.decode(raw, values);
                self.finite(tile, values)?;
            }
            return Ok(raw);
        }
        let plan = match self.plans[id.index()].get() {
            Some(plan) => plan,
            None => {
                let plan = self.source.prepare(id)?;
                self.plans[id.index()].get_or_init(|| plan)
            }
        };
        let elements = tile.rows.len() * plan.cols;
        bytes.resize(elements * dtype.size(), 0);
        if plan.dtype == dtype && self.source.read_bytes(plan, tile.rows.clone(), bytes)? {
            return Ok(bytes);
        }
        values.resize(elements, 0.0);
        self.source.read_tile(plan, tile.rows.clone(), values)?;
        self.finite(tile, values)?;
        dtype.encode(values, bytes);
        Ok(bytes)
    }

    fn finite(&self, tile: &Tile<'_>, values: &[f32]) -> Result<(), Error> {
        if all_finite(values) {
            return Ok(());
        }
        let at = values.iter().position(|v| !v.is_finite()).unwrap_or(0);
        let stored = tile.slot.stored;
        let cols = self.source.manifest().get(stored.id).cols();
        Err(Error::NotFinite {
            file: PathBuf::from(self.source.name()),
            tensor: stored.name.clone(),
            element: (tile.rows.start - stored.rows.start) * cols + at,
            value: values[at],
        })
    }
}

/// How far a shard is whole from its start on.
struct Frontier {
    state: Mutex<Progressed>,
    moved: Condvar,
    /// Where each tile ends.
    ends: Vec<u64>,
}

struct Progressed {
    whole: Vec<bool>,
    /// The first tile that is not whole.
    next: usize,
    bytes: u64,
    /// The least that anybody waits for.
    awaited: u64,
    ended: bool,
}

impl Frontier {
    fn new(header: u64, tiles: &[Tile<'_>]) -> Self {
        let whole = vec![false; tiles.len()];
        Self {
            state: Mutex::new(Progressed {
                whole,
                next: 0,
                bytes: header,
                awaited: u64::MAX,
                ended: false,
            }),
            moved: Condvar::new(),
            ends: tiles.iter().map(|tile| tile.bytes.end).collect(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Progressed> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A tile is written.
    fn whole(&self, tile: usize) {
        let mut state = self.lock();
        state.whole[tile] = true;
        while state.whole.get(state.next) == Some(&true) {
            state.bytes = self.ends[state.next];
            state.next += 1;
        }
        if state.bytes >= state.awaited {
            state.awaited = u64::MAX;
            drop(state);
            self.moved.notify_all();
        }
    }

    /// Waits until `step` bytes behind `from` are whole, or as many as will ever be.
    fn beyond(&self, from: u64, step: u64) -> u64 {
        let mut state = self.lock();
        while !state.ended && state.bytes < from + step {
            state.awaited = state.awaited.min(from + step);
            state = self.moved.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.bytes
    }
}

/// Ends the waiting, whatever happens to the threads that write.
struct End<'a>(&'a Frontier);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.lock().ended = true;
        self.0.moved.notify_all();
    }
}

fn hash(file: &File, frontier: &Frontier) -> std::io::Result<String> {
    let mut hasher = Hasher::default();
    let mut buffer = vec![0; 1 << 20];
    let mut at = 0;
    loop {
        let upto = frontier.beyond(at, buffer.len() as u64);
        if upto == at {
            return Ok(hasher.finish());
        }
        while at < upto {
            let n = buffer.len().min((upto - at) as usize);
            file.read_exact_at(&mut buffer[..n], at)?;
            hasher.update(&buffer[..n]);
            at += n as u64;
        }
    }
}

/// Lets the disk write what is whole, so that the end need not wait for all of it.
fn flush(file: &File, frontier: &Frontier) -> std::io::Result<()> {
    let mut at = 0;
    loop {
        let upto = frontier.beyond(at, FLUSH);
        if upto < at + FLUSH {
            return Ok(());
        }
        start_writing(file, at..upto)?;
        at = upto;
    }
}

/// Starts to write a range and does not wait for it: a sync would hold up those that write on.
#[cfg(target_os = "linux")]
fn start_writing(file: &File, range: Range<u64>) -> std::io::Result<()> {
    use std::os::fd::AsRawFd;
    let (at, length) = (range.start as i64, (range.end - range.start) as i64);
    let flags = libc::SYNC_FILE_RANGE_WRITE;
    // SAFETY: an open file and numbers; no memory is handed over.
    let failed = unsafe { libc::sync_file_range(file.as_raw_fd(), at, length, flags) } != 0;
    let error = std::io::Error::last_os_error();
    // Not every file system has it; the sync at the end writes all.
    let unknown = matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EINVAL | libc::ESPIPE));
    if failed && !unknown { Err(error) } else { Ok(()) }
}

#[cfg(not(target_os = "linux"))]
fn start_writing(_: &File, _: Range<u64>) -> std::io::Result<()> {
    Ok(())
}
