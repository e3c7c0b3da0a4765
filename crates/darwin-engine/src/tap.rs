//! Looking into a forward pass, and reaching into it.

use crate::{Batch, Error};
use darwin_core::ExpertIdx;
use std::collections::{BTreeMap, BTreeSet};

/// A place in the forward pass whose values can be seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Site {
    /// The residual stream that enters a layer (tokens, hidden).
    ResidIn,
    /// What the mixer adds to the stream (tokens, hidden).
    MixerOut,
    /// Full attention only: the L2 norm of each head's slice through `o_proj` (tokens, heads).
    MixerHeads,
    /// The stream between mixer and experts (tokens, hidden).
    ResidMid,
    /// The router's logits (tokens, experts).
    RouterLogits,
    /// The selected experts in falling order of their gates: ids and gates (tokens, k).
    TopK,
    /// The gated sum of the routed experts (tokens, hidden).
    ExpertOut,
    /// What the shared expert adds, its gate included (tokens, hidden).
    SharedOut,
    /// The shared expert's gate after the sigmoid (tokens, 1).
    SharedGate,
    /// The residual stream that leaves a layer (tokens, hidden).
    ResidOut,
    /// The stream after the final norm (tokens, hidden).
    FinalNorm,
    /// The logits (tokens, vocab).
    Logits,
}

/// Values of one site of one layer for consecutive tokens of a batch.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// Where.
    pub site: Site,
    /// Which decoder layer; the number of layers for what comes after the last one.
    pub layer: usize,
    /// Row-major values of `shape`.
    pub values: &'a [f32],
    /// (tokens, width).
    pub shape: [usize; 2],
    /// [`Site::TopK`]: the expert ids of `shape`; `values` are their gates.
    pub experts: Option<&'a [u32]>,
    /// The expert, where a record is of one expert alone.
    pub expert: Option<ExpertIdx>,
    /// Flat index in the batch of row 0.
    pub first_token: usize,
    /// The batch.
    pub batch: &'a Batch,
}

/// Sees values as they are computed. Sites that nobody wants cost nothing.
pub trait Tap {
    /// Whether [`Tap::record`] shall be called for a site of a layer.
    fn wants(&self, site: Site, layer: usize) -> bool;
    /// Receives the values; called in the order of computation.
    fn record(&mut self, record: &Record<'_>);
}

/// Wants nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoTap;

impl Tap for NoTap {
    fn wants(&self, _: Site, _: usize) -> bool {
        false
    }
    fn record(&mut self, _: &Record<'_>) {}
}

/// Changes to a forward pass: experts that the router may not choose, values put in place of
/// computed ones. The default changes nothing.
#[derive(Clone, Debug, Default)]
pub struct Interventions {
    masked: BTreeMap<usize, BTreeSet<u32>>,
    replaced: BTreeMap<(Site, usize), Vec<f32>>,
}

impl Interventions {
    /// No changes.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The router of `layer` never selects `expert`.
    pub fn mask_expert(&mut self, layer: usize, expert: ExpertIdx) -> &mut Self {
        self.masked.entry(layer).or_default().insert(expert.0 as u32);
        self
    }

    /// Puts `values` (tokens, width) in place of what a site of `layer` computes. Sites:
    /// `ResidIn`, `MixerOut`, `ResidMid`, `RouterLogits`, `ExpertOut`, `SharedOut`, `ResidOut`.
    pub fn replace(&mut self, site: Site, layer: usize, values: Vec<f32>) -> &mut Self {
        self.replaced.insert((site, layer), values);
        self
    }

    /// Whether nothing is changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.masked.is_empty() && self.replaced.is_empty()
    }

    /// The experts that `layer` may not select.
    pub(crate) fn masked(&self, layer: usize) -> impl Iterator<Item = u32> + '_ {
        self.masked.get(&layer).into_iter().flatten().copied()
    }

    /// Overwrites `values` where the site is replaced.
    pub(crate) fn apply(&self, site: Site, layer: usize, values: &mut [f32]) -> Result<(), Error> {
        let Some(replacement) = self.replaced.get(&(site, layer)) else { return Ok(()) };
        if replacement.len() != values.len() {
            let reason = format!("{} values given, {} needed", replacement.len(), values.len());
            return Err(Error::Intervention { site, layer, reason });
        }
        values.copy_from_slice(replacement);
        Ok(())
    }
}
