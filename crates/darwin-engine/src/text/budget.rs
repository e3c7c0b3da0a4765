//! What a chat template may use: bytes that it makes, work that it causes, depth of its values.
//!
//! minijinja counts instructions, and one instruction can make or search any number of bytes.

use super::python::MAX_DEPTH;
use minijinja::value::{Object, ValueKind};
use minijinja::{Error, ErrorKind, State, Value};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The name of the limit among the globals, and of what is left among a rendering's own values.
/// Templates cannot say it (`rewrite.rs`).
pub(super) const NAME: &str = "darwin__budget";

/// Bytes that a template may make of a small conversation, in all steps together.
const BYTES: u64 = 64 << 20;

/// Bytes more for each byte of the conversation: a template that collects its output in a variable
/// copies it with each message.
const BYTES_PER_BYTE: u64 = 100;

/// Most bytes, whatever the conversation.
const MOST_BYTES: u64 = 1 << 30;

/// Bytes that a template may look through; the conversation adds to it as above.
const WORK: u64 = 256 << 20;

/// Work of a value within a list or mapping that is looked through.
const NODE: u64 = 32;

/// What is left. Charges come before what they are for.
#[derive(Debug)]
pub(super) struct Budget {
    bytes: AtomicU64,
    work: AtomicU64,
}

impl Object for Budget {}

impl Budget {
    /// For a conversation of so many bytes.
    pub(super) fn for_input(bytes: u64) -> Self {
        let more = bytes.saturating_mul(BYTES_PER_BYTE);
        Self {
            bytes: AtomicU64::new(BYTES.saturating_add(more).min(MOST_BYTES)),
            work: AtomicU64::new(WORK.saturating_add(more)),
        }
    }

    /// Of the rendering that the state belongs to.
    pub(super) fn of(state: &State<'_, '_>) -> Arc<Self> {
        state.get_or_set_temp_object(NAME, || {
            let given = state.lookup(NAME).and_then(|v| v.downcast_object::<Self>());
            given.map_or_else(
                || Self::for_input(0),
                |given| Self {
                    bytes: AtomicU64::new(given.bytes.load(Ordering::Relaxed)),
                    work: AtomicU64::new(given.work.load(Ordering::Relaxed)),
                },
            )
        })
    }

    /// Takes bytes that are about to be made.
    pub(super) fn make(&self, bytes: u64) -> Result<(), Error> {
        take(&self.bytes, bytes, "it makes too much text, it loops or repeats itself")
    }

    /// Takes bytes that are about to be looked through.
    pub(super) fn look(&self, bytes: u64) -> Result<(), Error> {
        take(&self.work, bytes, "it searches too much text, it loops or repeats itself")
    }

    /// Bytes that can still be made.
    pub(super) fn left(&self) -> usize {
        usize::try_from(self.bytes.load(Ordering::Relaxed)).unwrap_or(usize::MAX)
    }

    /// The bytes of a value with all that it holds, at least [`NODE`] for each part; looking costs
    /// work. What lies deeper than [`MAX_DEPTH`] is refused.
    pub(super) fn size(&self, value: &Value) -> Result<u64, Error> {
        self.walk(value, 0, false)
    }

    /// As [`Budget::size`], and refuses values that hold a namespace: a namespace could come to
    /// hold itself.
    pub(super) fn size_without_namespace(&self, value: &Value) -> Result<u64, Error> {
        self.walk(value, 0, true)
    }

    fn walk(&self, value: &Value, depth: usize, no_namespace: bool) -> Result<u64, Error> {
        if depth > MAX_DEPTH {
            return Err(too_deep());
        }
        let mut size = NODE + shallow(value);
        match value.kind() {
            ValueKind::Seq | ValueKind::Iterable => {
                self.look(NODE)?;
                for item in value.try_iter()? {
                    size = size.saturating_add(self.walk(&item, depth + 1, no_namespace)?);
                }
            }
            ValueKind::Map => {
                self.look(NODE)?;
                if no_namespace && is_namespace(value) {
                    let reason = "a namespace cannot be kept in a namespace";
                    return Err(Error::new(ErrorKind::InvalidOperation, reason));
                }
                for key in value.try_iter()? {
                    let held = value.get_item(&key).unwrap_or_default();
                    size = size.saturating_add(self.walk(&key, depth + 1, no_namespace)?);
                    size = size.saturating_add(self.walk(&held, depth + 1, no_namespace)?);
                }
            }
            _ => self.look(size.min(2 * NODE))?,
        }
        Ok(size)
    }
}

/// Bytes of a text, else none.
pub(super) fn shallow(value: &Value) -> u64 {
    value.as_str().map_or(0, |text| text.len() as u64)
}

/// Bytes of the value's own parts: the text, or its entries without what they hold.
pub(super) fn own_parts(value: &Value) -> u64 {
    match value.kind() {
        ValueKind::Seq | ValueKind::Iterable | ValueKind::Map => {
            (value.len().unwrap_or(0) as u64).saturating_mul(3 * NODE)
        }
        _ => NODE + shallow(value),
    }
}

/// The error for a value that is nested too deep.
pub(super) fn too_deep() -> Error {
    let reason = format!("a value is nested deeper than {MAX_DEPTH} levels");
    Error::new(ErrorKind::InvalidOperation, reason)
}

fn is_namespace(value: &Value) -> bool {
    value.as_object().is_some_and(|object| object.type_name().ends_with("::Namespace"))
}

fn take(from: &AtomicU64, amount: u64, why: &str) -> Result<(), Error> {
    let left = from.load(Ordering::Relaxed);
    match left.checked_sub(amount) {
        // a rendering has one thread
        Some(rest) => {
            from.store(rest, Ordering::Relaxed);
            Ok(())
        }
        None => Err(Error::new(ErrorKind::InvalidOperation, why.to_owned())),
    }
}
