//! Hidden states of many batches: in memory as far as they may, the others in a scratch file.

use crate::{Error, Room, State};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Values that are turned into bytes at once.
const PIECE_VALUES: usize = 1 << 14;

/// States that come and go by number. What does not fit into memory waits in a file without a
/// name, which is gone when this is dropped, or the process ends.
#[derive(Debug)]
pub struct States {
    slots: Vec<Option<Slot>>,
    /// Bytes of hidden states that may stay in memory, and those that do.
    room: u64,
    used: u64,
    scratch: Option<PathBuf>,
    file: Option<Arc<File>>,
    /// Bytes of the file.
    end: u64,
    /// Numbers that are free, and places of the file by their bytes.
    free: Vec<usize>,
    holes: BTreeMap<u64, Vec<u64>>,
}

#[derive(Debug)]
enum Slot {
    Memory(State),
    /// Everything but the values, and where they lie.
    File(State, u64),
    /// Its values are with somebody who will bring them back, to this place if there is one.
    Out(Option<u64>),
}

impl States {
    /// No states yet, and as much memory for them as `room` says. Without a folder for the scratch
    /// file all stay in memory.
    #[must_use]
    pub fn new(room: &Room) -> Self {
        let (room, scratch) = (room.states, room.scratch.clone());
        let (slots, free, holes) = (Vec::new(), Vec::new(), BTreeMap::new());
        Self { slots, room, used: 0, scratch, file: None, end: 0, free, holes }
    }

    /// One more; its number.
    ///
    /// # Errors
    /// [`Error::Scratch`].
    pub fn push(&mut self, state: State) -> Result<usize, Error> {
        let number = self.free.pop().unwrap_or(self.slots.len());
        if number == self.slots.len() {
            self.slots.push(None);
        }
        self.put(number, state)?;
        Ok(number)
    }

    /// Forgets a state that is there; another may get its number.
    ///
    /// # Panics
    /// If it is out.
    pub fn forget(&mut self, number: usize) {
        match self.slots[number].take() {
            Some(Slot::Memory(state)) => self.used -= size(&state),
            Some(Slot::File(state, at)) => {
                self.holes.entry(4 * state.values() as u64).or_default().push(at);
            }
            Some(Slot::Out(_)) | None => unreachable!("a state that is forgotten is there"),
        }
        self.free.push(number);
    }

    /// Puts a state in its place, its length the same each time.
    ///
    /// # Errors
    /// [`Error::Scratch`].
    pub fn put(&mut self, number: usize, state: State) -> Result<(), Error> {
        let bytes = size(&state);
        let slot = match self.slots[number].take() {
            Some(Slot::Out(Some(at)) | Slot::File(_, at)) => self.write(state, at)?,
            Some(Slot::Out(None) | Slot::Memory(_)) => Slot::Memory(state),
            None if self.scratch.is_none() || self.used + bytes <= self.room => {
                self.used += bytes;
                Slot::Memory(state)
            }
            None => {
                let hole = self.holes.get_mut(&bytes).and_then(Vec::pop);
                let at = hole.unwrap_or_else(|| {
                    self.end += bytes;
                    self.end - bytes
                });
                self.write(state, at)?
            }
        };
        self.slots[number] = Some(slot);
        Ok(())
    }

    /// Takes a state out, to be put back.
    ///
    /// # Errors
    /// [`Error::Scratch`].
    ///
    /// # Panics
    /// If it is out already.
    pub fn take(&mut self, number: usize) -> Result<State, Error> {
        let (state, at) = match self.slots[number].take() {
            Some(Slot::Memory(state)) => (state, None),
            Some(Slot::File(state, at)) => (self.read(state, at)?, Some(at)),
            _ => unreachable!("a state that is taken is there"),
        };
        self.slots[number] = Some(Slot::Out(at));
        Ok(state)
    }

    fn write(&mut self, mut state: State, at: u64) -> Result<Slot, Error> {
        let values = std::mem::take(&mut state.hidden);
        let file = self.file()?;
        let mut bytes = Vec::with_capacity(4 * PIECE_VALUES);
        for (i, piece) in values.chunks(PIECE_VALUES).enumerate() {
            bytes.clear();
            bytes.extend(piece.iter().flat_map(|v| v.to_ne_bytes()));
            let to = at + (4 * PIECE_VALUES * i) as u64;
            file.write_all_at(&bytes, to).map_err(|e| self.failed("write", e))?;
        }
        Ok(Slot::File(state, at))
    }

    fn read(&mut self, mut state: State, at: u64) -> Result<State, Error> {
        let mut values = vec![0.0; state.values()];
        let file = self.file()?;
        let mut bytes = vec![0; 4 * PIECE_VALUES];
        for (i, piece) in values.chunks_mut(PIECE_VALUES).enumerate() {
            let bytes = &mut bytes[..4 * piece.len()];
            let from = at + (4 * PIECE_VALUES * i) as u64;
            file.read_exact_at(bytes, from).map_err(|e| self.failed("read", e))?;
            for (value, bytes) in piece.iter_mut().zip(bytes.as_chunks::<4>().0) {
                *value = f32::from_ne_bytes(*bytes);
            }
        }
        state.hidden = values;
        Ok(state)
    }

    /// The scratch file, made when it is needed. Its name is taken away at once.
    fn file(&mut self) -> Result<Arc<File>, Error> {
        if let Some(file) = &self.file {
            return Ok(file.clone());
        }
        let folder = self.scratch.clone().unwrap_or_default();
        let file = nameless(&folder).map_err(|e| self.failed("create a file in", e))?;
        Ok(self.file.insert(Arc::new(file)).clone())
    }

    fn failed(&self, doing: &'static str, why: std::io::Error) -> Error {
        Error::Scratch { doing, folder: self.scratch.clone().unwrap_or_default(), why }
    }
}

/// Bytes of a state's values.
fn size(state: &State) -> u64 {
    4 * state.hidden.len() as u64
}

/// A file of a folder that nobody else sees.
fn nameless(folder: &Path) -> std::io::Result<File> {
    let mut number = 0;
    loop {
        let path = folder.join(format!(".darwin-scratch-{}-{number}", std::process::id()));
        match OpenOptions::new().read(true).write(true).create_new(true).open(&path) {
            Ok(file) => return std::fs::remove_file(&path).map(|()| file),
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => number += 1,
            Err(e) => return Err(e),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Batch, Sequence};
    use std::sync::Arc;

    fn state(tokens: usize, seed: usize) -> State {
        let batch = Batch::new(vec![Sequence::new(vec![1; tokens])]);
        let hidden = (0..3 * tokens).map(|i| (i * 7 + seed) as f32 * 0.1).collect();
        State::new(hidden, Arc::new(batch))
    }

    #[test]
    fn states_come_back_from_memory_and_file() {
        let folder = tempfile::tempdir().unwrap();
        for room in [0, 30_000, u64::MAX] {
            let scratch = Some(folder.path().to_owned());
            let mut states = States::new(&Room { states: room, scratch, ..Room::default() });
            let sizes = [2000, 5, 7000, 900];
            let push = |(i, n): (usize, &usize)| assert_eq!(states.push(state(*n, i)).unwrap(), i);
            sizes.iter().enumerate().for_each(push);
            for round in 1..3 {
                for (i, n) in sizes.iter().enumerate() {
                    let mut taken = states.take(i).unwrap();
                    assert_eq!(taken.hidden, state(*n, i * round).hidden);
                    assert_eq!(taken.batch().tokens(), *n);
                    taken.hidden = state(*n, i * (round + 1)).hidden;
                    states.put(i, taken).unwrap();
                }
            }
            assert_eq!(states.file.is_some(), room < u64::MAX);
            let (used, end) = (states.used, states.end);
            states.forget(2);
            assert_eq!(states.push(state(7000, 9)).unwrap(), 2);
            assert_eq!(states.take(2).unwrap().hidden, state(7000, 9).hidden);
            assert_eq!((states.used, states.end), (used, end));
            assert!(states.used <= room.min(1 << 20));
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        let scratch = Some(folder.path().join("missing"));
        let mut states = States::new(&Room { states: 0, scratch, ..Room::default() });
        let error = states.push(state(3, 0)).unwrap_err().to_string();
        assert!(error.contains("missing"), "{error}");
        let mut states = States::new(&Room { states: 0, ..Room::default() });
        states.push(state(3, 0)).unwrap();
        assert!(states.file.is_none());
    }
}
