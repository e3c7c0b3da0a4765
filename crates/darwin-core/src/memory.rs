//! Memory that may not be there: allocations whose size comes out of a file or a configuration.

use std::cell::Cell;
use std::fmt;

thread_local! {
    /// Whether this thread is in an allocation whose refusal it handles.
    static REFUSABLE: Cell<bool> = const { Cell::new(false) };
}

/// Whether the allocation that this thread is in may be refused: its caller turns a refusal into
/// an error. A program's allocator asks this before it ends the process.
#[must_use]
pub fn is_refusable() -> bool {
    REFUSABLE.try_with(Cell::get).unwrap_or(false)
}

/// So many bytes could not be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Bytes that were asked for.
    pub bytes: u64,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "out of memory: {} bytes more could not be had", self.bytes)
    }
}

impl std::error::Error for Refused {}

impl From<Refused> for std::io::Error {
    fn from(refused: Refused) -> Self {
        Self::new(std::io::ErrorKind::OutOfMemory, refused)
    }
}

/// Room in `values` for `more` of them, no more than that.
///
/// # Errors
/// [`Refused`] where the allocator gives none; the values are what they were.
pub fn reserve<T>(values: &mut Vec<T>, more: usize) -> Result<(), Refused> {
    struct Before(bool);
    impl Drop for Before {
        fn drop(&mut self) {
            let _ = REFUSABLE.try_with(|refusable| refusable.set(self.0));
        }
    }
    let before = Before(REFUSABLE.try_with(|refusable| refusable.replace(true)).unwrap_or(false));
    let reserved = values.try_reserve_exact(more);
    drop(before);
    reserved.map_err(|_| Refused { bytes: (more as u64).saturating_mul(size_of::<T>() as u64) })
}

/// `n` copies of a value.
///
/// # Errors
/// As [`reserve`].
pub fn filled<T: Clone>(value: T, n: usize) -> Result<Vec<T>, Refused> {
    let mut values = Vec::new();
    reserve(&mut values, n)?;
    values.resize(n, value);
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_had_is_an_error_and_changes_nothing() {
        assert_eq!(filled(7_u32, 3), Ok(vec![7, 7, 7]));
        let asked = isize::MAX as usize / 4;
        let refused = Refused { bytes: 4 * asked as u64 };
        let mut values = vec![1_u32];
        assert_eq!(reserve(&mut values, asked), Err(refused));
        assert_eq!(reserve(&mut values, usize::MAX).unwrap_err().bytes, u64::MAX);
        assert_eq!(values, [1]);
        assert!(!is_refusable());
        assert_eq!(std::io::Error::from(refused).kind(), std::io::ErrorKind::OutOfMemory);
    }
}
