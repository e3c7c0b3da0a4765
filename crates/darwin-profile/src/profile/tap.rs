//! The tap that fills the per-sample counters of one batch.

use crate::profile::counters::{LayerRow, MARGIN_BINS, MARGIN_BINS_PER_LOGIT, Sum};
use crate::sample::owners;
use darwin_engine::{Batch, Config, LayerKind, Record, Site, Tap};

/// Counters of one batch: rows\[sample\]\[layer\].
pub(crate) struct CounterTap {
    pub(crate) rows: Vec<Vec<LayerRow>>,
    /// Histogram of margins per layer.
    pub(crate) margins: Vec<Vec<u64>>,
    kinds: Vec<LayerKind>,
    owners: Vec<usize>,
    top_k: usize,
    hidden: usize,
    /// The stream that entered the current layer, and its norms; empty between layers.
    resid_in: Vec<f32>,
    norm_in: Vec<f64>,
    scratch: Vec<f32>,
}

impl CounterTap {
    pub(crate) fn new(config: &Config, batch: &Batch) -> Self {
        let row = || LayerRow::new(config.num_experts, config.num_attention_heads);
        let layers = config.num_hidden_layers;
        Self {
            rows: batch.sequences().iter().map(|_| (0..layers).map(|_| row()).collect()).collect(),
            margins: vec![vec![0; MARGIN_BINS]; layers],
            kinds: config.layer_types.clone(),
            owners: owners(batch),
            top_k: config.num_experts_per_tok,
            hidden: config.hidden_size,
            resid_in: Vec::new(),
            norm_in: Vec::new(),
            scratch: Vec::new(),
        }
    }

    /// The row of a flat token.
    fn row(&mut self, token: usize, layer: usize) -> &mut LayerRow {
        &mut self.rows[self.owners[token]][layer]
    }

    fn enter(&mut self, r: &Record<'_>) {
        self.resid_in.resize(self.owners.len() * self.hidden, 0.0);
        self.norm_in.resize(self.owners.len(), 0.0);
        let start = r.first_token * self.hidden;
        self.resid_in[start..start + r.values.len()].copy_from_slice(r.values);
        for (i, h) in r.values.chunks(self.hidden).enumerate() {
            self.norm_in[r.first_token + i] = norm(h);
        }
    }

    fn importance(&mut self, r: &Record<'_>, sum: Sum) {
        for (i, u) in r.values.chunks(self.hidden).enumerate() {
            let token = r.first_token + i;
            // Nothing is a share of a stream of zeros.
            let entered = self.norm_in[token];
            let share = if entered == 0.0 { 0.0 } else { norm(u) / entered };
            self.row(token, r.layer).sums[sum as usize] += share;
        }
    }

    fn heads(&mut self, r: &Record<'_>) {
        for (i, norms) in r.values.chunks(r.shape[1]).enumerate() {
            let row = self.row(r.first_token + i, r.layer);
            row.heads.iter_mut().zip(norms).for_each(|(sum, v)| *sum += f64::from(*v));
        }
    }

    fn router(&mut self, r: &Record<'_>) {
        let experts = r.shape[1];
        for (i, logits) in r.values.chunks(experts).enumerate() {
            if self.top_k < experts {
                let bin = (margin(logits, self.top_k, &mut self.scratch) * MARGIN_BINS_PER_LOGIT)
                    .clamp(0.0, (MARGIN_BINS - 1) as f64) as usize;
                self.margins[r.layer][bin] += 1;
            }
            let row = &mut self.rows[self.owners[r.first_token + i]][r.layer];
            row.sums[Sum::TokenEntropy as usize] += softmax_into(logits, &mut row.probability);
        }
    }

    fn selected(&mut self, r: &Record<'_>) {
        let k = r.shape[1];
        let experts = r.experts.unwrap_or_default();
        for (i, (ids, gates)) in experts.chunks(k).zip(r.values.chunks(k)).enumerate() {
            let row = self.row(r.first_token + i, r.layer);
            let total: f64 = gates.iter().map(|g| f64::from(*g)).sum();
            for (id, gate) in ids.iter().zip(gates) {
                let gate = f64::from(*gate);
                row.counts[*id as usize] += 1;
                row.gates[*id as usize] += gate;
                row.sums[Sum::GateEntropy as usize] += plogp(gate / total);
            }
        }
    }

    fn leave(&mut self, r: &Record<'_>) {
        for (i, out) in r.values.chunks(self.hidden).enumerate() {
            let token = r.first_token + i;
            let entered = &self.resid_in[token * self.hidden..(token + 1) * self.hidden];
            let cosine = dot(entered, out) / (self.norm_in[token] * norm(out)).max(1e-300);
            self.row(token, r.layer).sums[Sum::Influence as usize] += 1.0 - cosine;
        }
        // Many taps wait while one of them is in a layer.
        if r.first_token + r.shape[0] == self.owners.len() {
            self.resid_in = Vec::new();
        }
    }
}

impl Tap for CounterTap {
    fn wants(&self, site: Site, layer: usize) -> bool {
        match site {
            Site::MixerHeads => {
                self.kinds.get(layer).is_some_and(|kind| *kind != LayerKind::LinearAttention)
            }
            Site::ResidIn
            | Site::MixerOut
            | Site::RouterLogits
            | Site::TopK
            | Site::ExpertOut
            | Site::SharedOut
            | Site::ResidOut => true,
            _ => false,
        }
    }

    fn record(&mut self, r: &Record<'_>) {
        match r.site {
            Site::ResidIn => self.enter(r),
            Site::MixerOut => self.importance(r, Sum::Mixer),
            Site::MixerHeads => self.heads(r),
            Site::RouterLogits => self.router(r),
            Site::TopK => self.selected(r),
            Site::ExpertOut => self.importance(r, Sum::Routed),
            Site::SharedOut => self.importance(r, Sum::Shared),
            Site::ResidOut => self.leave(r),
            _ => {}
        }
    }
}

/// z_(k) - z_(k+1) of the logits in falling order.
fn margin(logits: &[f32], k: usize, scratch: &mut Vec<f32>) -> f64 {
    scratch.clear();
    scratch.extend_from_slice(logits);
    let (first, next, _) = scratch.select_nth_unstable_by(k, |a, b| b.total_cmp(a));
    let kth = first.iter().copied().fold(f32::INFINITY, f32::min);
    f64::from(kth) - f64::from(*next)
}

/// Adds the softmax to `sums`; returns its entropy in bits, log2 Z - mean exponent.
fn softmax_into(logits: &[f32], sums: &mut [f64]) -> f64 {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let z: f64 = logits.iter().map(|v| f64::from((v - max).exp())).sum();
    let mut mean = 0.0;
    for (v, sum) in logits.iter().zip(sums) {
        let p = f64::from((v - max).exp()) / z;
        *sum += p;
        // far below, `v - max` may be infinite
        mean += if p > 0.0 { p * f64::from(v - max) } else { 0.0 };
    }
    (z.ln() - mean) / std::f64::consts::LN_2
}

/// Full softmax of a row of logits.
pub(crate) fn softmax(logits: &[f32], out: &mut [f32]) {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    out.iter_mut().zip(logits).for_each(|(p, v)| *p = (v - max).exp());
    let z: f32 = out.iter().sum();
    out.iter_mut().for_each(|p| *p /= z);
}

/// -p log2 p.
fn plogp(p: f64) -> f64 {
    if p > 0.0 { -p * p.log2() } else { 0.0 }
}

/// Dot product in f32 lanes, summed in f64.
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f64 {
    let mut lanes = [0.0_f32; 16];
    let (x, y) = (a.as_chunks::<16>(), b.as_chunks::<16>());
    for (x, y) in x.0.iter().zip(y.0) {
        for i in 0..16 {
            lanes[i] += x[i] * y[i];
        }
    }
    let rest: f64 = x.1.iter().zip(y.1).map(|(x, y)| f64::from(x * y)).sum();
    lanes.iter().map(|v| f64::from(*v)).sum::<f64>() + rest
}

/// L2 norm.
pub(crate) fn norm(v: &[f32]) -> f64 {
    dot(v, v).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entropies_and_margins_by_hand() {
        let mut p = vec![0.0; 4];
        assert!((softmax_into(&[1.0; 4], &mut p) - 2.0).abs() < 1e-6);
        assert!(p.iter().all(|p| (p - 0.25).abs() < 1e-7));
        let m = margin(&[0.5, 3.0, -1.0, 2.0], 2, &mut Vec::new());
        assert!((m - 1.5).abs() < 1e-6);
        assert!((norm(&[3.0, 4.0]) - 5.0).abs() < 1e-6);
    }
}
