//! Per-sample counters (method 1): integers and f64 sums, so that shards add up exactly and any
//! resampling can be done later.

use crate::Error;
use crate::profile::probes::ProbeRow;
use darwin_core::files::ModelRef;
use darwin_core::{Domain, Fingerprint, Part, Split};
use serde::{Deserialize, Serialize};

/// Bins of the router-margin histogram.
pub(crate) const MARGIN_BINS: usize = 2048;
/// Bins per logit; the last bin takes what is beyond.
pub(crate) const MARGIN_BINS_PER_LOGIT: f64 = 128.0;
/// Probe prompts kept of each set, by hash.
pub(crate) const PROBE_LIMIT: usize = 64;

/// Which sums a layer keeps per sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sum {
    /// H(full softmax), bits.
    TokenEntropy,
    /// H(renormalised gates), bits.
    GateEntropy,
    /// ||mixer's u|| / ||h_in||.
    Mixer,
    /// ||routed u|| / ||h_in||.
    Routed,
    /// ||shared u|| / ||h_in||.
    Shared,
    /// 1 - cos(h_in, h_out).
    Influence,
}

/// Number of [`Sum`]s.
pub(crate) const SUMS: usize = 6;

/// The components that add to the stream, with the sum of their importance.
pub(crate) const IMPORTANCE: [(Part, Sum); 3] =
    [(Part::Mixer, Sum::Mixer), (Part::Routed, Sum::Routed), (Part::Shared, Sum::Shared)];

/// One sample in one layer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct LayerRow {
    /// Tokens routed to each expert.
    pub(crate) counts: Vec<u32>,
    /// Gate weight given to each expert.
    pub(crate) gates: Vec<f64>,
    /// Full softmax probability of each expert.
    pub(crate) probability: Vec<f64>,
    /// The [`Sum`]s over tokens.
    pub(crate) sums: [f64; SUMS],
    /// Norm of each attention head's slice through `o_proj`.
    pub(crate) heads: Vec<f64>,
}

impl LayerRow {
    pub(crate) fn new(experts: usize, heads: usize) -> Self {
        Self {
            counts: vec![0; experts],
            gates: vec![0.0; experts],
            probability: vec![0.0; experts],
            sums: [0.0; SUMS],
            heads: vec![0.0; heads],
        }
    }

    pub(crate) fn sum(&self, sum: Sum) -> f64 {
        self.sums[sum as usize]
    }
}

/// Whether a layer has a router: every token of it was sent somewhere.
pub(crate) fn has_experts(rows: &[SampleRow], layer: usize) -> bool {
    rows.iter().any(|row| row.layers[layer].counts.iter().any(|n| *n > 0))
}

/// One sample in all layers.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct SampleRow {
    pub(crate) id: String,
    pub(crate) domain: Domain,
    pub(crate) tokens: u32,
    /// Nats per answer.
    pub(crate) nll: f64,
    pub(crate) layers: Vec<LayerRow>,
}

/// What all samples share.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Setting {
    pub(crate) model: ModelRef,
    pub(crate) split: Split,
    /// Of the program that measured.
    pub(crate) arithmetic: u32,
    /// How it was measured.
    pub(crate) options: Fingerprint,
    pub(crate) engine: String,
    pub(crate) dtype: String,
    pub(crate) num_experts: usize,
    pub(crate) num_experts_per_tok: usize,
    pub(crate) num_heads: usize,
    pub(crate) hidden_size: usize,
    pub(crate) layer_kinds: Vec<String>,
    /// Static statistics per layer (method 1.4).
    pub(crate) statics: Vec<[f64; 3]>,
}

/// The counters of one profile, sample by sample.
#[derive(Clone, Debug, PartialEq)]
pub struct Samples {
    pub(crate) setting: Setting,
    pub(crate) rows: Vec<SampleRow>,
    /// Histogram of the router margin per layer, [`MARGIN_BINS`] each.
    pub(crate) margins: Vec<Vec<u64>>,
    pub(crate) probes: Vec<ProbeRow>,
    pub(crate) forward_tokens: u64,
}

impl Samples {
    /// Number of samples.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The counters of two shards of a calibration set, exactly those of the whole.
    ///
    /// # Errors
    /// [`Error::Mismatch`] for different models or splits; [`Error::Overlap`] for a sample in both.
    pub fn merge(mut self, other: Self) -> Result<Self, Error> {
        if self.setting != other.setting {
            return Err(Error::Mismatch {
                first: "one shard".to_owned(),
                second: "the other".to_owned(),
                what: "the model",
                a: format!(
                    "{} ({})",
                    self.setting.model.name,
                    self.setting.model.fingerprint.short()
                ),
                b: format!(
                    "{} ({})",
                    other.setting.model.name,
                    other.setting.model.fingerprint.short()
                ),
            });
        }
        self.rows.extend(other.rows);
        self.rows.sort_by(|a, b| a.id.cmp(&b.id));
        if let Some(twice) = self.rows.windows(2).find(|pair| pair[0].id == pair[1].id) {
            return Err(Error::Overlap { id: twice[0].id.clone() });
        }
        for (mine, theirs) in self.margins.iter_mut().zip(other.margins) {
            mine.iter_mut().zip(theirs).for_each(|(a, b)| *a += b);
        }
        self.probes.extend(other.probes);
        self.probes = crate::profile::probes::kept(self.probes);
        self.forward_tokens += other.forward_tokens;
        Ok(self)
    }
}
