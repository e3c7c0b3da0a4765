//! Memory that starts at a cache line, so that no vector lies across two.

use std::ops::{Deref, DerefMut};

/// Words of a line.
const LINE: usize = 16;

#[derive(Clone, Copy, Debug, Default)]
#[repr(C, align(64))]
struct Line([u32; LINE]);

/// A growing row of values at a cache line.
#[derive(Clone, Debug, Default)]
pub(crate) struct Buffer {
    lines: Vec<Line>,
    len: usize,
}

impl Buffer {
    /// So many values: those that were there, then zeros.
    pub(crate) fn resize(&mut self, len: usize) {
        if len < self.len {
            self[len..].fill(0.0);
        }
        self.lines.resize(len.div_ceil(LINE), Line::default());
        self.len = len;
    }

    /// So many values, which hold what is left over from earlier use, or zeros.
    pub(crate) fn set_len(&mut self, len: usize) {
        let lines = len.div_ceil(LINE);
        if lines > self.lines.len() {
            self.lines = vec![Line::default(); lines];
        }
        self.len = len;
    }

    /// As many values as there can be without more memory.
    pub(crate) fn capacity(&self) -> usize {
        self.lines.len() * LINE
    }

    /// No values.
    pub(crate) fn clear(&mut self) {
        self.lines.clear();
        self.len = 0;
    }

    /// The first `n` values; the buffer grows and never shrinks. What they hold is left over from
    /// earlier use.
    pub(crate) fn first(&mut self, n: usize) -> &mut [f32] {
        if self.len < n {
            self.resize(n);
        }
        &mut self[..n]
    }
}

impl Deref for Buffer {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        // SAFETY: the lines hold `len` initialised words or more, at a multiple of 64 bytes; any bits
        // are a float32; the borrow of `self` is the slice's.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.len) }
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        // SAFETY: the lines hold `len` initialised words or more, any bits are a float32 and any
        // float32 a word; `self` is borrowed as long as the slice, and by nobody else.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.len) }
    }
}

impl Buffer {
    /// The values as words.
    pub(crate) fn words(&self) -> &[u32] {
        // SAFETY: the lines hold `len` initialised words or more; the borrow of `self` is the slice's.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.len) }
    }

    /// The values as words.
    pub(crate) fn words_mut(&mut self) -> &mut [u32] {
        // SAFETY: the lines hold `len` initialised words or more; `self` is borrowed as long as the
        // slice, and by nobody else.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.len) }
    }
}

impl Buffer {
    /// The values as twice as many halves.
    pub(crate) fn halves(&self) -> &[u16] {
        // SAFETY: the lines hold `len` initialised words or more, each of two halves of less
        // alignment; the borrow of `self` is the slice's.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), 2 * self.len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_start_at_a_line_and_stay_when_the_buffer_grows() {
        let mut buffer = Buffer::default();
        buffer.first(5).copy_from_slice(&[1.0, 2.0, 3.0, 4.0, 5.0]);
        buffer.resize(3);
        buffer.resize(40);
        assert_eq!(buffer[..6], [1.0, 2.0, 3.0, 0.0, 0.0, 0.0]);
        assert_eq!(buffer.as_ptr() as usize % 64, 0);
        assert_eq!(buffer.words()[1], 2.0_f32.to_bits());
        buffer.clear();
        assert!(buffer.is_empty());
    }
}
