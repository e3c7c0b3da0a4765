//! Bytes on their way into the file.

use super::disk::{Disk, Full, PAGE, Segment};
use darwin_core::hash::Hasher;
use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::ops::Range;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError, TryLockError};

/// Segments that are in memory at a time: each thread may be at two, one is hashed, two are with
/// the disk.
const SEGMENTS: u64 = 6;

/// Maximum and minimum size of a segment, bytes.
const MOST: u64 = 4 << 20;
const LEAST: u64 = 16 << 10;

/// The part of a file that is in work, cut into segments of equal size. Threads fill them side by
/// side; a whole one is hashed when its turn has come, by whoever completed it or the one before,
/// and handed to the disk.
pub(super) struct Outlet {
    /// Of the file, and of a segment.
    bytes: u64,
    segment_bytes: u64,
    state: Mutex<State>,
    /// There is memory for a segment again.
    room: Condvar,
    ordered: Mutex<Ordered>,
}

struct State {
    /// Segments that are being filled, by number, and those that are whole.
    open: BTreeMap<u64, Open>,
    whole: BTreeMap<u64, Segment>,
    /// The one that is to be opened next, and the one that is to be hashed next.
    unopened: u64,
    due: u64,
    free: Vec<Segment>,
    ended: bool,
}

struct Open {
    segment: Segment,
    /// Bytes that are still to come.
    left: u64,
}

/// What takes the segments one after the other.
struct Ordered {
    hasher: Hasher,
    /// Until the end.
    disk: Option<Sender<Full>>,
}

/// A range of the file in memory.
pub(super) struct Place<'a> {
    range: Range<u64>,
    /// Its parts in the segments that it spans.
    parts: Vec<Part<'a>>,
}

/// Some bytes of a segment, which nobody else has.
struct Part<'a> {
    first: *mut u8,
    len: usize,
    outlet: PhantomData<&'a Outlet>,
}

impl Part<'_> {
    fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: the bytes lie within a segment, which stays where it is until this part is put
        // back or the outlet ends, and places of a file do not overlap.
        unsafe { std::slice::from_raw_parts_mut(self.first, self.len) }
    }
}

impl Place<'_> {
    /// Calls `f` with room for all bytes.
    pub(super) fn fill<E>(&mut self, f: impl FnOnce(&mut [u8]) -> Result<(), E>) -> Result<(), E> {
        if let [part] = &mut self.parts[..] {
            return f(part.bytes());
        }
        let mut all = vec![0; (self.range.end - self.range.start) as usize];
        f(&mut all)?;
        self.copy(&all);
        Ok(())
    }

    fn copy(&mut self, mut bytes: &[u8]) {
        for part in &mut self.parts {
            let (now, later) = bytes.split_at(part.len);
            part.bytes().copy_from_slice(now);
            bytes = later;
        }
    }
}

impl Outlet {
    /// A file of so many bytes, none of whose places is longer than `longest`, with about so much
    /// memory; and what comes out of it.
    pub(super) fn new(bytes: u64, longest: u64, memory: u64) -> (Self, Receiver<Full>) {
        let page = PAGE as u64;
        let segment = (memory / SEGMENTS).clamp(LEAST, MOST).max(longest);
        let segment_bytes = segment.next_multiple_of(page);
        let needed = bytes.div_ceil(segment_bytes).min(SEGMENTS);
        let free = (0..needed).map(|_| Segment::new(segment_bytes / page)).collect();
        let (to_disk, full) = channel();
        let outlet = Self {
            bytes,
            segment_bytes,
            state: Mutex::new(State {
                open: BTreeMap::new(),
                whole: BTreeMap::new(),
                unopened: 0,
                due: 0,
                free,
                ended: false,
            }),
            room: Condvar::new(),
            ordered: Mutex::new(Ordered { hasher: Hasher::default(), disk: Some(to_disk) }),
        };
        (outlet, full)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The parts of segments that a range of the file consists of: number, and range in it.
    fn parts(&self, range: &Range<u64>) -> impl Iterator<Item = (u64, Range<u64>)> + use<> {
        let (size, range) = (self.segment_bytes, range.clone());
        (range.start / size..range.end.div_ceil(size)).map(move |number| {
            let start = number * size;
            (number, range.start.max(start) - start..range.end.min(start + size) - start)
        })
    }

    /// Room for a range of the file that nobody else asks for; `None` after the end.
    ///
    /// Memory is given to segments in their order, so that those before a segment that waits for
    /// some can be completed: it comes as long as there is more than one.
    pub(super) fn place(&self, range: Range<u64>) -> Option<Place<'_>> {
        let mut parts = Vec::new();
        let mut state = self.lock();
        for (number, part) in self.parts(&range) {
            while !state.ended && state.unopened <= number {
                let Some(segment) = state.free.pop() else {
                    state = self.room.wait(state).unwrap_or_else(PoisonError::into_inner);
                    continue;
                };
                let opened = state.unopened;
                let left = self.segment_bytes.min(self.bytes - opened * self.segment_bytes);
                state.open.insert(opened, Open { segment, left });
                state.unopened += 1;
            }
            if state.ended {
                return None;
            }
            let segment = &mut state.open.get_mut(&number)?.segment;
            let first = segment.first().wrapping_add(part.start as usize);
            let len = (part.end - part.start) as usize;
            parts.push(Part { first, len, outlet: PhantomData });
        }
        Some(Place { range, parts })
    }

    /// True if [`Outlet::place`] could block.
    pub(super) fn is_full(&self) -> bool {
        let state = self.lock();
        state.free.is_empty() && state.unopened * self.segment_bytes < self.bytes
    }

    /// Takes a place that is filled.
    pub(super) fn put(&self, place: Place<'_>) {
        let mut state = self.lock();
        for (number, part) in self.parts(&place.range) {
            let Some(open) = state.open.get_mut(&number) else { continue };
            open.left -= part.end - part.start;
            if open.left == 0
                && let Some(open) = state.open.remove(&number)
            {
                state.whole.insert(number, open.segment);
            }
        }
        drop(state);
        self.hash_what_is_due();
    }

    /// Takes the first bytes of the file.
    pub(super) fn write(&self, bytes: &[u8]) {
        let mut at = 0;
        for piece in bytes.chunks(self.segment_bytes as usize) {
            let end = at + piece.len() as u64;
            let Some(mut place) = self.place(at..end) else { return };
            place.copy(piece);
            self.put(place);
            at = end;
        }
    }

    fn hash_what_is_due(&self) {
        loop {
            let mut ordered = match self.ordered.try_lock() {
                Ok(ordered) => ordered,
                Err(TryLockError::Poisoned(ordered)) => ordered.into_inner(),
                Err(TryLockError::WouldBlock) => return,
            };
            loop {
                let mut state = self.lock();
                let due = state.due;
                let Some(mut segment) = state.whole.remove(&due) else { break };
                state.due += 1;
                drop(state);
                let at = due * self.segment_bytes;
                let len = self.segment_bytes.min(self.bytes - at) as usize;
                ordered.hasher.update(&segment.bytes()[..len]);
                let full = Full { segment, len, at };
                if ordered.disk.as_ref().is_none_or(|disk| disk.send(full).is_err()) {
                    self.end();
                }
            }
            drop(ordered);
            // One that was completed meanwhile found the hash taken.
            let state = self.lock();
            if !state.whole.contains_key(&state.due) {
                return;
            }
        }
    }

    /// Writes what comes out, until the outlet is closed or up to an error, which is the end.
    pub(super) fn drain(&self, disk: &Disk, full: Receiver<Full>) -> std::io::Result<()> {
        for mut full in full {
            if let Err(error) = disk.write(&mut full) {
                self.end();
                return Err(error);
            }
            self.lock().free.push(full.segment);
            self.room.notify_all();
        }
        Ok(())
    }

    /// No more bytes come.
    fn end(&self) {
        self.lock().ended = true;
        self.room.notify_all();
    }

    /// Calls `work`; where it fails or panics, no more bytes come, and nobody waits for them.
    pub(super) fn watch<T, E>(&self, work: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        let end = AtDrop(|| self.end());
        let done = work()?;
        std::mem::forget(end);
        Ok(done)
    }

    /// The disk gets no more.
    pub(super) fn close(&self) {
        self.ordered.lock().unwrap_or_else(PoisonError::into_inner).disk = None;
    }

    /// Closes when it is dropped, whatever happens before.
    pub(super) fn closes(&self) -> impl Drop + '_ {
        AtDrop(|| self.close())
    }

    /// The hash of all bytes; `None` where some did not come.
    pub(super) fn finish(self) -> Option<String> {
        let hashed = self.lock().due * self.segment_bytes;
        let ordered = self.ordered.into_inner().unwrap_or_else(PoisonError::into_inner);
        (hashed >= self.bytes).then(|| ordered.hasher.finish())
    }
}

struct AtDrop<F: Fn()>(F);

impl<F: Fn()> Drop for AtDrop<F> {
    fn drop(&mut self) {
        self.0();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use darwin_core::hash::sha256_hex;
    use std::convert::Infallible;
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    /// Threads that take places of uneven length, through a file.
    #[test]
    fn bytes_come_out_in_order_whatever_the_threads_and_the_memory() {
        let bytes: Vec<u8> = (0..3_000_001_u64).map(|i| ((i * i) >> 9) as u8).collect();
        let mut ranges = Vec::new();
        let mut at = 0;
        while at < bytes.len() {
            let end = bytes.len().min(at + 1 + at * 7 % 50_000);
            ranges.push(at..end);
            at = end;
        }
        for (threads, memory) in [(1, 0), (3, 0), (8, 1 << 20), (4, u64::MAX)] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("file");
            let disk = Disk::create(&path, bytes.len() as u64).unwrap();
            let (outlet, full) = Outlet::new(bytes.len() as u64, 50_000, memory);
            let next = AtomicUsize::new(0);
            let work = || {
                while let Some(range) = ranges.get(next.fetch_add(1, Relaxed)) {
                    let of_file = range.start as u64..range.end as u64;
                    let mut place = outlet.place(of_file).unwrap();
                    let copy = |to: &mut [u8]| {
                        to.copy_from_slice(&bytes[range.clone()]);
                        Ok::<(), Infallible>(())
                    };
                    place.fill(copy).unwrap();
                    outlet.put(place);
                }
            };
            std::thread::scope(|scope| {
                let writing = scope.spawn(|| outlet.drain(&disk, full));
                let working: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
                working.into_iter().for_each(|thread| thread.join().unwrap());
                outlet.close();
                writing.join().unwrap().unwrap();
            });
            disk.sync().unwrap();
            assert_eq!(
                outlet.finish(),
                Some(sha256_hex(&bytes)),
                "{threads} threads, {memory} bytes"
            );
            assert!(std::fs::read(&path).unwrap() == bytes, "{threads} threads, {memory} bytes");
        }
    }

    #[test]
    fn a_disk_that_fails_ends_the_waiting() {
        let folder = tempfile::tempdir().unwrap();
        let disk = Disk::read_only(&folder.path().join("file"));
        let (outlet, full) = Outlet::new(10 << 20, 1 << 16, 0);
        let error = std::thread::scope(|scope| {
            let writing = scope.spawn(|| outlet.drain(&disk, full));
            let _closing = outlet.closes();
            let mut at = 0;
            while let Some(mut place) = outlet.place(at..at + (1 << 16)) {
                place.fill(|_| Ok::<(), Infallible>(())).unwrap();
                outlet.put(place);
                at += 1 << 16;
            }
            outlet.close();
            writing.join().unwrap().unwrap_err()
        });
        assert_eq!(error.raw_os_error(), Some(libc::EBADF));
        assert_eq!(outlet.finish(), None);
    }
}
