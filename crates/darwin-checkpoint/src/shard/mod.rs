//! Filling a shard: all threads of the pool take tiles in the order of the file; what is whole from
//! the start on is hashed and brought to disk meanwhile. The bytes do not depend on how many threads
//! there are.

mod disk;
mod outlet;

use crate::dtype::first_not_finite;
use crate::{Dtype, Error, Stored, TensorId, TensorPlan, TensorSource};
use darwin_core::fs::Stamp;
use darwin_core::{Cancel, Progress};
use disk::Disk;
use outlet::Outlet;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock};

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

/// Bytes a thread needs for each element of a tile: its value and its inputs, and its bytes.
const PER_ELEMENT: u64 = 28;

/// Bytes of tensors that are prepared before their turn, about.
const AHEAD: u64 = 64 << 20;

/// The part of the memory that is on its way to the disk.
const DISK_SHARE: u64 = 8;

/// What all shards of a checkpoint are filled with.
pub(crate) struct Filling<'a> {
    pub(crate) source: &'a dyn TensorSource,
    /// By tensor, made by the first thread that needs one.
    pub(crate) plans: Vec<OnceLock<TensorPlan>>,
    pub(crate) memory: u64,
    pub(crate) progress: &'a dyn Progress,
    pub(crate) cancel: &'a Cancel,
}

/// A slot, rows of its logical tensor, and where they are in the file.
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
}

impl Filling<'_> {
    /// Writes and syncs a shard; its SHA-256, and the stamp of the file then.
    pub(crate) fn fill(&self, shard: &Shard<'_>, path: &Path) -> Result<(String, Stamp), Error> {
        let disk = Disk::create(path, shard.bytes()).map_err(|e| Error::io("create", path, e))?;
        let tiles = self.tiles(shard);
        let longest = tiles.iter().map(|tile| tile.bytes.end - tile.bytes.start).max();
        let memory = self.memory / DISK_SHARE;
        let (outlet, full) = Outlet::new(shard.bytes(), longest.unwrap_or(0), memory);
        let (next, looking) = (AtomicUsize::new(0), Mutex::new(()));
        let work = || {
            let mut buffers = Buffers::default();
            loop {
                if outlet.is_full() {
                    self.look_ahead(&tiles, next.load(Ordering::Relaxed), &looking)?;
                }
                let Some(tile) = tiles.get(next.fetch_add(1, Ordering::Relaxed)) else { break };
                if self.cancel.is_cancelled() {
                    return Err(Error::Cancelled);
                }
                let Some(mut place) = outlet.place(tile.bytes.clone()) else { break };
                place.fill(|bytes| self.compute(tile, &mut buffers, bytes))?;
                self.progress.advance(tile.bytes.end - tile.bytes.start);
                outlet.put(place);
            }
            Ok(())
        };
        let written = std::thread::scope(|scope| {
            let _closing = outlet.closes();
            let writing = scope.spawn(|| outlet.drain(&disk, full));
            outlet.write(&shard.header);
            let worked = rayon::broadcast(|_| outlet.watch(work));
            outlet.close();
            let written = writing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            worked.into_iter().collect::<Result<(), Error>>().map(|()| written)
        })?;
        let missing = || std::io::Error::other("some of its bytes were never computed");
        written
            .and_then(|()| disk.sync())
            .and_then(|stamp| Ok((outlet.finish().ok_or_else(missing)?, stamp)))
            .map_err(|e| Error::io("write", path, e))
    }

    fn tiles<'s>(&self, shard: &'s Shard<'s>) -> Vec<Tile<'s>> {
        let threads = rayon::current_num_threads() as u64;
        let memory = self.memory - self.memory / DISK_SHARE;
        let elements = (memory / threads.max(1) / PER_ELEMENT).clamp(1 << 10, TILE) as usize;
        let mut tiles = Vec::new();
        // A tensor without elements has no tiles, however many rows it has.
        for slot in shard.slots.iter().filter(|slot| slot.bytes > 0) {
            let cols = self.source.manifest().get(slot.stored.id).cols();
            let step = (elements / cols.max(1)).max(1);
            let held = &slot.stored.rows;
            let row_bytes = slot.bytes / (held.len().max(1) as u64);
            let at = |row: usize| {
                shard.header.len() as u64 + slot.offset + (row - held.start) as u64 * row_bytes
            };
            for start in held.clone().step_by(step) {
                let rows = start..(start + step).min(held.end);
                tiles.push(Tile { slot, bytes: at(rows.start)..at(rows.end), rows });
            }
        }
        tiles
    }

    /// Pre-computes statistics of an upcoming tensor while the hasher is the bottleneck. At most
    /// one thread at a time.
    fn look_ahead(
        &self,
        tiles: &[Tile<'_>],
        from: usize,
        looking: &Mutex<()>,
    ) -> Result<(), Error> {
        let Ok(_looking) = looking.try_lock() else { return Ok(()) };
        let mut tiles = tiles.iter().skip(from);
        let Some(first) = tiles.next() else { return Ok(()) };
        let (mut id, mut prepared) = (first.slot.stored.id, 0);
        for tile in tiles.filter(|tile| tile.slot.stored.id != first.slot.stored.id) {
            if prepared > AHEAD {
                break;
            }
            prepared += tile.bytes.end - tile.bytes.start;
            if std::mem::replace(&mut id, tile.slot.stored.id) != id
                && self.plans[id.index()].get().is_none()
            {
                self.plan(id)?;
                break;
            }
        }
        Ok(())
    }

    /// What is known of a tensor before its tiles are computed.
    fn plan(&self, id: TensorId) -> Result<&TensorPlan, Error> {
        let slot = &self.plans[id.index()];
        if let Some(plan) = slot.get() {
            return Ok(plan);
        }
        let plan = self.source.prepare(id)?;
        Ok(slot.get_or_init(|| plan))
    }

    /// A tile's bytes.
    fn compute(
        &self,
        tile: &Tile<'_>,
        buffers: &mut Buffers,
        bytes: &mut [u8],
    ) -> Result<(), Error> {
        let Buffers { values, raw } = buffers;
        let (id, dtype) = (tile.slot.stored.id, tile.slot.dtype);
        raw.clear();
        if self.source.read_raw(id, tile.rows.clone(), raw)? {
            bytes.copy_from_slice(raw);
            if !dtype.is_finite(bytes) {
                values.resize(bytes.len() / dtype.size(), 0.0);
                dtype.decode(bytes, values);
                self.finite(tile, values)?;
            }
            return Ok(());
        }
        let plan = self.plan(id)?;
        if plan.dtype == dtype && self.source.read_bytes(plan, tile.rows.clone(), bytes)? {
            return Ok(());
        }
        values.resize(tile.rows.len() * plan.cols, 0.0);
        self.source.read_tile(plan, tile.rows.clone(), values)?;
        self.finite(tile, values)?;
        dtype.encode(values, bytes);
        Ok(())
    }

    fn finite(&self, tile: &Tile<'_>, values: &[f32]) -> Result<(), Error> {
        let Some((at, value)) = first_not_finite(values) else { return Ok(()) };
        let stored = tile.slot.stored;
        let cols = self.source.manifest().get(stored.id).cols();
        Err(Error::NotFinite {
            file: PathBuf::from(self.source.name()),
            tensor: stored.name.clone(),
            element: (tile.rows.start - stored.rows.start) * cols + at,
            value,
        })
    }
}
