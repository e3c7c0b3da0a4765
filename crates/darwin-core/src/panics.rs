//! Panics of third-party parsers and of candidates, turned into sentences.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

thread_local! {
    static CAUGHT: Cell<usize> = const { Cell::new(0) };
}

/// Runs a function that may panic on hostile input; a panic becomes its message.
/// A panic hook that asks [`is_caught`] prints nothing meanwhile.
///
/// Nothing that the function writes to may be used after a panic.
///
/// # Errors
/// The panic's message, on one line.
pub fn caught<T>(run: impl FnOnce() -> T) -> Result<T, String> {
    struct Depth;
    impl Drop for Depth {
        fn drop(&mut self) {
            CAUGHT.with(|depth| depth.set(depth.get() - 1));
        }
    }
    CAUGHT.with(|depth| depth.set(depth.get() + 1));
    let _depth = Depth;
    catch_unwind(AssertUnwindSafe(run)).map_err(|payload| {
        let text = payload.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| payload.downcast_ref::<&str>().copied());
        text.unwrap_or("unknown reason").lines().next().unwrap_or_default().to_owned()
    })
}

/// Whether this thread is within [`caught`], so that its panic will be reported as an error.
#[must_use]
pub fn is_caught() -> bool {
    CAUGHT.with(|depth| depth.get() > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_a_sentence_and_the_state_comes_back() {
        assert_eq!(caught(|| 3), Ok(3));
        let lengths = [1usize];
        let index = lengths.len();
        let reason = caught(|| lengths[index]).expect_err("out of bounds");
        assert!(reason.contains("index out of bounds"), "{reason}");
        assert_eq!(caught(is_caught), Ok(true));
        assert!(!is_caught());
    }
}
