//! Routers of both parents on the same tokens (method 1.5).

use crate::estimate::ratio;
use crate::profile::tap::softmax;
use crate::sample::owners;
use darwin_core::files::Estimate;
use darwin_engine::{Batch, Config, Record, Site, Tap};

/// What one model's router did with a batch in a layer.
pub(crate) struct RouterTap {
    /// (tokens, k), each token's ids sorted.
    selected: Vec<u32>,
    /// (tokens, experts), full softmax.
    probability: Vec<f32>,
    k: usize,
    experts: usize,
}

impl RouterTap {
    pub(crate) fn new(config: &Config, tokens: usize) -> Self {
        let (k, experts) = (config.num_experts_per_tok, config.num_experts);
        let (selected, probability) = (vec![0; tokens * k], vec![0.0; tokens * experts]);
        Self { selected, probability, k, experts }
    }
}

impl Tap for RouterTap {
    fn wants(&self, site: Site, _: usize) -> bool {
        matches!(site, Site::RouterLogits | Site::TopK)
    }

    fn record(&mut self, r: &Record<'_>) {
        let start = r.first_token * r.shape[1];
        if r.site == Site::TopK {
            let ids = r.experts.unwrap_or_default();
            let kept = &mut self.selected[start..start + ids.len()];
            kept.copy_from_slice(ids);
            kept.chunks_mut(r.shape[1].max(1)).for_each(<[u32]>::sort_unstable);
        } else {
            let kept = &mut self.probability[start..start + r.values.len()];
            let rows = kept.chunks_mut(r.shape[1]).zip(r.values.chunks(r.shape[1]));
            rows.for_each(|(p, logits)| softmax(logits, p));
        }
    }
}

/// Per-sample sums over all batches: rows\[sample\]\[layer\] = (Jaccard, KL in bits).
#[derive(Default)]
pub(crate) struct RouterSums {
    rows: Vec<Vec<[f64; 2]>>,
    tokens: Vec<f64>,
    /// Where the rows of each batch of the sweep begin.
    first: Vec<usize>,
}

impl RouterSums {
    /// Makes room for the batches of a sweep.
    pub(crate) fn begin(&mut self, batches: &[Batch], layers: usize) {
        self.first.clear();
        for batch in batches {
            self.first.push(self.rows.len());
            self.rows.extend(batch.sequences().iter().map(|_| vec![[0.0; 2]; layers]));
            self.tokens.extend(batch.sequences().iter().map(|s| s.ids.len() as f64));
        }
    }

    /// A layer of a batch of the sweep, by father and mother.
    pub(crate) fn add(
        &mut self,
        batch: &Batch,
        number: usize,
        layer: usize,
        [father, mother]: &[RouterTap; 2],
    ) {
        let (k, e) = (father.k, father.experts);
        for (token, owner) in owners(batch).into_iter().enumerate() {
            let sets = [father, mother].map(|t| &t.selected[token * k..][..k]);
            let p = [father, mother].map(|t| &t.probability[token * e..][..e]);
            let sums = &mut self.rows[self.first[number] + owner][layer];
            sums[0] += jaccard(sets[0], sets[1]);
            sums[1] += kl_bits(p[0], p[1]);
        }
    }

    /// Mean Jaccard index and mean KL(p_F || p_M) of a layer.
    pub(crate) fn layer(&self, layer: usize) -> [Estimate; 2] {
        [0, 1].map(|i| {
            let sums: Vec<f64> = self.rows.iter().map(|r| r[layer][i]).collect();
            ratio(&sums, &self.tokens)
        })
    }
}

/// |A and B| / |A or B| of two sorted sets.
fn jaccard(a: &[u32], b: &[u32]) -> f64 {
    let common = a.iter().filter(|x| b.binary_search(x).is_ok()).count();
    common as f64 / (a.len() + b.len() - common).max(1) as f64
}

fn kl_bits(p: &[f32], q: &[f32]) -> f64 {
    let parts = p.iter().zip(q).filter(|(p, _)| **p > 0.0);
    let sum: f64 =
        parts.map(|(p, q)| f64::from(*p) * (f64::from(*p) / f64::from(*q).max(1e-30)).log2()).sum();
    if sum < 0.0 { 0.0 } else { sum }
}
