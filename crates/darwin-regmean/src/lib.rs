//! RegMean (method 2.3): linear maps solved from both parents' activations.
//!
//! Per linear map and per routed expert the child's weight is the one whose outputs are closest to
//! the father's on the father's inputs and to the mother's on the mother's:
//!
//! `W = (G_F + b G_M + r I)^-1 (G_F W_F + b G_M W_M + r W_F)`
//!
//! `G_F` and `G_M` are Gram matrices of the map's inputs in each parent, run on the domains where it
//! is the stronger one ([`sides`]). Elements beside the diagonal are shrunk, then a matrix is scaled
//! to a mean of 1 on the diagonal, so that `b` weighs parents and not tokens, and the ridge `r` is a
//! part of an input's mean square. Routers are solved in the same way (method 2.2, "calibrated"). A
//! map that saw fewer tokens than it has inputs in either parent stays at the anchor: the blend by
//! the recipe's share.
//!
//! [`solve`] takes both parents through their layers in step, solves a layer and forgets its
//! matrices. What comes out is a [`SolvedTensors`], the source that
//! [`Merge::with_solved`](darwin_merge::Merge::with_solved) takes.

mod balance;
mod error;
mod linalg;
mod outlook;
mod sides;
mod store;
mod walk;

pub use error::Error;
pub use outlook::{Outlook, outlook, trial};
pub use sides::{Sides, bound, sides};
pub use store::{Counts, SolvedTensors};
pub use walk::{Options, Side, solve};
