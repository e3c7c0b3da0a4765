//! Everything that a search is made from.

use super::{Shape, TensorShare};
use crate::solver::Solvable;
use crate::{Prior, RunConfig};
use darwin_core::Domain;
use std::sync::Arc;

/// Everything that a search is made from.
#[derive(Clone)]
pub struct Setup {
    /// The configuration.
    pub config: Arc<RunConfig>,
    /// The parents' shape.
    pub shape: Shape,
    /// What the card's rule reads in the mother's profile.
    pub card: Prior,
    /// Domain and forward tokens of every item of `proxy`, `search` and `selection`, in the order of
    /// the run's sets.
    pub items: [Vec<(Domain, u64)>; 3],
    /// What both profiles cost.
    pub profile_tokens: u64,
    /// What the card's sibling's rule reads in both parents' tensors, where an arm follows it.
    pub tensor_shares: Arc<[TensorShare]>,
    /// What RegMean's children are made from, where an arm asks for them.
    pub solvable: Option<Solvable>,
}
