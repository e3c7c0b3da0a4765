//! Filling a shard: all threads of the pool take tiles in the order of the file and hash what they
//! wrote; what is whole from the start on is brought to disk meanwhile. The bytes do not depend on
//! how many threads there are.

use crate::dtype::all_finite;
use crate::{Dtype, Error, Stored, TensorPlan, TensorSource};
use darwin_core::hash::Hasher;
use darwin_core::{Cancel, Progress};
use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError, TryLockError};

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

/// Tiles for each thread that may wait to be hashed.
const AHEAD: usize = 8;

/// Bytes a thread needs for each element of a tile: its value and its inputs, its bytes and those
/// of tiles that wait.
const PER_ELEMENT: u64 = 24 + 4 * AHEAD as u64;

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

/// A slot, rows of its logical tensor, and where their bytes begin in the file.
struct Tile<'a> {
    slot: &'a Slot<'a>,
    rows: Range<usize>,
    at: u64,
}

/// A thread's memory, used from tile to tile.
#[derive(Default)]
struct Buffers {
    values: Vec<f32>,
    raw: Vec<u8>,
}

impl Filling<'_> {
    /// Writes and syncs a shard; its SHA-256.
    pub(crate) fn fill(&self, shard: &Shard<'_>, path: &Path) -> Result<String, Error> {
        let io = |e| Error::io("write", path, e);
        let file = File::create(path).map_err(|e| Error::io("create", path, e))?;
        file.set_len(shard.bytes()).map_err(io)?;
        file.write_all_at(&shard.header, 0).map_err(io)?;
        let tiles = self.tiles(shard);
        let outlet = Outlet::new(&shard.header, AHEAD * rayon::current_num_threads());
        let next = AtomicUsize::new(0);
        let work = || {
            let _end = End(&outlet);
            let mut buffers = Buffers::default();
            loop {
                // Memory first: who waits for it must not hold a tile that others wait for.
                let Some(mut bytes) = outlet.buffer() else { return Ok(()) };
                let i = next.fetch_add(1, Ordering::Relaxed);
                let Some(tile) = tiles.get(i) else { return Ok(()) };
                self.write(tile, &file, path, &mut buffers, &mut bytes)?;
                outlet.put(i, bytes);
            }
        };
        let flushed = std::thread::scope(|scope| {
            let flushing = scope.spawn(|| flush(&file, &outlet));
            let written = rayon::broadcast(|_| work());
            let flushed = flushing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            written.into_iter().collect::<Result<(), Error>>().map(|()| flushed)
        })?;
        flushed.and_then(|()| file.sync_all()).map_err(io)?;
        Ok(outlet.finish())
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
                let at = at(rows.start);
                tiles.push(Tile { slot, rows, at });
            }
        }
        tiles
    }

    /// Fills `bytes` with a tile and writes it.
    fn write(
        &self,
        tile: &Tile<'_>,
        file: &File,
        path: &Path,
        buffers: &mut Buffers,
        bytes: &mut Vec<u8>,
    ) -> Result<(), Error> {
        if self.cancel.is_cancelled() {
            return Err(Error::Cancelled);
        }
        self.compute(tile, buffers, bytes)?;
        file.write_all_at(bytes, tile.at).map_err(|e| Error::io("write", path, e))?;
        self.progress.advance(bytes.len() as u64);
        Ok(())
    }

    /// A tile's bytes.
    fn compute(
        &self,
        tile: &Tile<'_>,
        buffers: &mut Buffers,
        bytes: &mut Vec<u8>,
    ) -> Result<(), Error> {
        let Buffers { values, raw } = buffers;
        let (id, dtype) = (tile.slot.stored.id, tile.slot.dtype);
        raw.clear();
        if self.source.read_raw(id, tile.rows.clone(), raw)? {
            std::mem::swap(raw, bytes);
            if !dtype.is_finite(bytes) {
                values.resize(bytes.len() / dtype.size(), 0.0);
                dtype.decode(bytes, values);
                self.finite(tile, values)?;
            }
            return Ok(());
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
            return Ok(());
        }
        values.resize(elements, 0.0);
        self.source.read_tile(plan, tile.rows.clone(), values)?;
        self.finite(tile, values)?;
        dtype.encode(values, bytes);
        Ok(())
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

/// Written tiles on their way into the hash, which takes them in the order of the file. Whoever
/// brings one hashes what is due, unless another does: no thread is idle, and a tile is hashed
/// while a cache holds it.
struct Outlet {
    state: Mutex<State>,
    /// There is memory for a tile again.
    room: Condvar,
    /// As much is whole as is awaited.
    moved: Condvar,
    hasher: Mutex<Hasher>,
}

struct State {
    /// Tiles that came before their turn.
    waiting: BTreeMap<usize, Vec<u8>>,
    /// The tile whose turn it is.
    next: usize,
    /// Memory of tiles, used or still to grow.
    spare: Vec<Vec<u8>>,
    /// Bytes of the file that are whole from its start on.
    whole: u64,
    awaited: u64,
    ended: bool,
}

impl Outlet {
    fn new(header: &[u8], buffers: usize) -> Self {
        let mut hasher = Hasher::default();
        hasher.update(header);
        Self {
            state: Mutex::new(State {
                waiting: BTreeMap::new(),
                next: 0,
                spare: vec![Vec::new(); buffers],
                whole: header.len() as u64,
                awaited: u64::MAX,
                ended: false,
            }),
            room: Condvar::new(),
            moved: Condvar::new(),
            hasher: Mutex::new(hasher),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Memory for a tile; `None` after the end.
    fn buffer(&self) -> Option<Vec<u8>> {
        let mut state = self.lock();
        loop {
            if state.ended {
                return None;
            }
            if let Some(buffer) = state.spare.pop() {
                return Some(buffer);
            }
            state = self.room.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Takes a tile that is written.
    fn put(&self, tile: usize, bytes: Vec<u8>) {
        self.lock().waiting.insert(tile, bytes);
        loop {
            let mut hasher = match self.hasher.try_lock() {
                Ok(hasher) => hasher,
                Err(TryLockError::Poisoned(hasher)) => hasher.into_inner(),
                Err(TryLockError::WouldBlock) => return,
            };
            loop {
                let mut state = self.lock();
                let next = state.next;
                let Some(bytes) = state.waiting.remove(&next) else { break };
                state.next += 1;
                drop(state);
                hasher.update(&bytes);
                let mut state = self.lock();
                state.whole += bytes.len() as u64;
                state.spare.push(bytes);
                let reached = state.whole >= state.awaited;
                if reached {
                    state.awaited = u64::MAX;
                }
                drop(state);
                self.room.notify_one();
                if reached {
                    self.moved.notify_one();
                }
            }
            drop(hasher);
            // One that came while the hasher was held found it taken.
            let state = self.lock();
            if !state.waiting.contains_key(&state.next) {
                return;
            }
        }
    }

    /// No more tiles come.
    fn end(&self) {
        self.lock().ended = true;
        self.room.notify_all();
        self.moved.notify_all();
    }

    /// Waits until `step` bytes behind `from` are whole, or as many as will ever be.
    fn beyond(&self, from: u64, step: u64) -> u64 {
        let mut state = self.lock();
        while !state.ended && state.whole < from + step {
            state.awaited = from + step;
            state = self.moved.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.whole
    }

    /// The hash of all tiles.
    fn finish(self) -> String {
        self.hasher.into_inner().unwrap_or_else(PoisonError::into_inner).finish()
    }
}

/// Ends the waiting, whatever happens to the threads that write.
struct End<'a>(&'a Outlet);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// Lets the disk write what is whole, so that the end need not wait for all of it.
fn flush(file: &File, outlet: &Outlet) -> std::io::Result<()> {
    let mut at = 0;
    loop {
        let upto = outlet.beyond(at, FLUSH);
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
