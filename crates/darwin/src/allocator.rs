//! The allocator of the program: memory that cannot be had ends it with a sentence and exit code 3,
//! not with a signal.

use std::alloc::{GlobalAlloc, Layout, System};

/// The system's allocator. Where it gives nothing, the process ends here. What is written is written
/// aside, so nothing under its final name is half there.
pub(crate) struct Ending;

// SAFETY: every call is the system allocator's; where that gives nothing, the process ends.
unsafe impl GlobalAlloc for Ending {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: handed on.
        let found = unsafe { System.alloc(layout) };
        given(found, layout.size())
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: handed on.
        let found = unsafe { System.alloc_zeroed(layout) };
        given(found, layout.size())
    }

    unsafe fn realloc(&self, old: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: handed on.
        let found = unsafe { System.realloc(old, layout, size) };
        given(found, size)
    }

    unsafe fn dealloc(&self, old: *mut u8, layout: Layout) {
        // SAFETY: handed on.
        unsafe { System.dealloc(old, layout) };
    }
}

#[inline]
fn given(found: *mut u8, bytes: usize) -> *mut u8 {
    if found.is_null() {
        end(bytes);
    }
    found
}

/// Says what happened and ends the process, without an allocation, a lock or an exit handler.
#[cold]
#[inline(never)]
fn end(bytes: usize) -> ! {
    let mut text = [0; 160];
    let mut at = 0;
    let mut add = |part: &[u8]| {
        text[at..at + part.len()].copy_from_slice(part);
        at += part.len();
    };
    let mut digits = [0; 20];
    add(b"error: out of memory: ");
    add(decimal(bytes, &mut digits));
    add(b" bytes more could not be had\n");
    add(b"hint: use fewer threads (-j), less --memory, or a machine with more memory\n");
    // SAFETY: the text is there, and the call reads no more of it than its length.
    unsafe {
        libc::write(2, text.as_ptr().cast(), at);
        libc::_exit(3)
    }
}

/// A number in decimal digits.
fn decimal(mut n: usize, digits: &mut [u8; 20]) -> &[u8] {
    let mut first = digits.len();
    loop {
        first -= 1;
        digits[first] = b'0' + (n % 10) as u8;
        n /= 10;
        if n == 0 {
            return &digits[first..];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_without_an_allocation() {
        let text = |n| String::from_utf8(decimal(n, &mut [0; 20]).to_vec()).unwrap();
        for n in [0, 9, 10, 4096, usize::MAX] {
            assert_eq!(text(n), n.to_string());
        }
    }
}
