//! A pool that recycles weight buffers between layers: layers that are read one after another
//! take no more than they weigh, whatever the allocator does, and no fresh pages.

use super::Buffer;
use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Buffers that nobody uses at the moment, by their size.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    idle: Mutex<BTreeMap<usize, Vec<Buffer>>>,
}

impl Pool {
    /// A buffer of `len` values, which hold what is left over from earlier use: one that is there
    /// and not much larger, or a new one.
    pub(crate) fn take(self: &Arc<Self>, len: usize) -> Pooled {
        let found = {
            let mut idle = self.idle();
            let fits = idle.range_mut(len..=len + len / 8).find(|(_, buffers)| !buffers.is_empty());
            fits.and_then(|(_, buffers)| buffers.pop())
        };
        let mut buffer = found.unwrap_or_default();
        buffer.set_len(len);
        Pooled { buffer, home: Some(self.clone()) }
    }

    /// Gives all idle memory back.
    pub(crate) fn clear(&self) {
        self.idle().clear();
    }

    fn idle(&self) -> MutexGuard<'_, BTreeMap<usize, Vec<Buffer>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A buffer that goes back where it came from.
#[derive(Debug, Default)]
pub(crate) struct Pooled {
    buffer: Buffer,
    home: Option<Arc<Pool>>,
}

impl Pooled {
    /// Memory of a pool, or new.
    pub(crate) fn of(pool: Option<&Arc<Pool>>, len: usize) -> Self {
        match pool {
            Some(pool) => pool.take(len),
            None => {
                let mut buffer = Buffer::default();
                buffer.set_len(len);
                Self { buffer, home: None }
            }
        }
    }
}

impl Deref for Pooled {
    type Target = Buffer;

    fn deref(&self) -> &Buffer {
        &self.buffer
    }
}

impl DerefMut for Pooled {
    fn deref_mut(&mut self) -> &mut Buffer {
        &mut self.buffer
    }
}

impl Drop for Pooled {
    fn drop(&mut self) {
        let Some(home) = self.home.take() else { return };
        let buffer = std::mem::take(&mut self.buffer);
        home.idle().entry(buffer.capacity()).or_default().push(buffer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_used_again_where_they_are_not_much_too_large() {
        let pool = Arc::new(Pool::default());
        let mut first = pool.take(100);
        first[99] = 7.0;
        let place = first.as_ptr();
        drop(first);
        let small = pool.take(60);
        assert_ne!(small.as_ptr(), place, "half of it would be wasted");
        let again = pool.take(104);
        assert_eq!((again.as_ptr(), again.len()), (place, 104));
        drop(again);
        let whole = pool.take(112);
        assert_eq!((whole.as_ptr(), whole[99]), (place, 7.0));
        drop((small, whole));
        pool.clear();
        assert!(pool.idle().is_empty());
        assert_eq!(Pooled::of(None, 5).len(), 5);
    }
}
