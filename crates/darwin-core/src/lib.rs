//! The words that every part of Darwin speaks.
//!
//! Newtypes for shares, densities and indices; identity by content ([`Fingerprint`]); the versioned
//! types of every file that Darwin writes ([`files`]); statistics ([`stats`]); randomness keyed by
//! what it is for ([`keyed`]); files and folders that never bear their final name half written and
//! have one owner ([`fs`]); errors that know their exit code ([`Diagnose`]); progress and
//! cancellation as values ([`Progress`], [`Cancel`]).
//!
//! This crate knows nothing of checkpoints, engines or terminals.

mod diagnose;
pub mod files;
mod fingerprint;
pub mod fs;
pub mod hash;
pub mod keyed;
pub mod panics;
mod part;
mod printable;
mod progress;
pub mod stats;
pub mod time;
mod vectorised;
mod words;

pub use diagnose::{Diagnose, Failure, Fault, io_hint, nearest};
pub use fingerprint::{ARITHMETIC, Fingerprint, NotAFingerprint};
pub use part::{Group, Part};
pub use printable::{one_line, printable};
pub use progress::{Cancel, NoProgress, Progress};
pub use words::{Density, Domain, ExpertIdx, LayerIdx, OutOfRange, Share, Split};
