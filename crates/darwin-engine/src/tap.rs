//! Looking into a forward pass, and reaching into it.

use crate::{Batch, Config, Error};
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
    /// The L2 norm of each selected expert's output before its gate; ids and norms (tokens, k).
    ExpertNorms,
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
    /// The stream after the norm of the MTP head (tokens, hidden), from [`MtpHead::run`]; 0 for a
    /// sequence's last token, whose next one is not known.
    ///
    /// [`MtpHead::run`]: crate::MtpHead::run
    MtpOut,
    /// The MTP head's logits of the token after the next (tokens, vocab); 0 as before.
    MtpLogits,
}

impl Site {
    /// All sites, in the order of computation.
    pub const ALL: [Self; 15] = [
        Self::ResidIn,
        Self::MixerHeads,
        Self::MixerOut,
        Self::ResidMid,
        Self::RouterLogits,
        Self::TopK,
        Self::ExpertNorms,
        Self::ExpertOut,
        Self::SharedGate,
        Self::SharedOut,
        Self::ResidOut,
        Self::FinalNorm,
        Self::Logits,
        Self::MtpOut,
        Self::MtpLogits,
    ];

    /// Width of a row of values.
    pub(crate) fn width(self, config: &Config) -> usize {
        match self {
            Self::MixerHeads => config.num_attention_heads,
            Self::RouterLogits => config.num_experts,
            Self::TopK | Self::ExpertNorms => config.num_experts_per_tok,
            Self::SharedGate => 1,
            Self::Logits | Self::MtpLogits => config.vocab_size,
            _ => config.hidden_size,
        }
    }

    /// Whether values can be put in place of what is computed here.
    fn is_replaceable(self) -> bool {
        !matches!(
            self,
            Self::MixerHeads
                | Self::TopK
                | Self::ExpertNorms
                | Self::SharedGate
                | Self::FinalNorm
                | Self::Logits
                | Self::MtpOut
                | Self::MtpLogits
        )
    }
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
    /// [`Site::TopK`] and [`Site::ExpertNorms`]: the expert ids, of `shape`.
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

    /// Overwrites `values` where the site is replaced, by the replacement from `first` on.
    pub(crate) fn apply(
        &self,
        site: Site,
        layer: usize,
        first: usize,
        values: &mut [f32],
    ) -> Result<(), Error> {
        let Some(replacement) = self.replaced.get(&(site, layer)) else { return Ok(()) };
        match replacement.get(first..first + values.len()) {
            Some(replacement) => values.copy_from_slice(replacement),
            None => {
                let needed = first + values.len();
                let reason = format!("{} values given, {needed} needed", replacement.len());
                return Err(Error::Intervention { site, layer, reason });
            }
        }
        Ok(())
    }

    /// Checks everything against a model and a number of tokens.
    pub(crate) fn check(&self, config: &Config, tokens: usize) -> Result<(), Error> {
        let wrong = |site, layer, reason| Err(Error::Intervention { site, layer, reason });
        for (layer, experts) in &self.masked {
            let (layer, site) = (*layer, Site::TopK);
            let (n, k) = (config.num_experts, config.num_experts_per_tok);
            if let Some(expert) = experts.iter().find(|e| **e as usize >= n) {
                return wrong(site, layer, format!("expert {expert} masked, the layer has {n}"));
            }
            if n - experts.len() < k {
                let reason = format!("{} of {n} experts masked, {k} are needed", experts.len());
                return wrong(site, layer, reason);
            }
        }
        for ((site, layer), values) in &self.replaced {
            let (site, layer, needed) = (*site, *layer, tokens * site.width(config));
            if !site.is_replaceable() {
                return wrong(site, layer, "values cannot be replaced here".to_owned());
            }
            if values.len() != needed {
                let reason = format!("{} values given, {needed} needed", values.len());
                return wrong(site, layer, reason);
            }
        }
        for layer in self.masked.keys().chain(self.replaced.keys().map(|(_, layer)| layer)) {
            if *layer >= config.num_hidden_layers {
                let reason = format!("the model has {} layers", config.num_hidden_layers);
                return wrong(Site::ResidIn, *layer, reason);
            }
        }
        Ok(())
    }
}
