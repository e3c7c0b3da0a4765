//! Father, mother and child over the same samples, side by side.

use super::Family;
use crate::Error;
use crate::broken::{Broken, called};
use crate::estimate::mean;
use crate::pass::{LogSumExp, Meter, answer_nll, answer_positions, full_pass, stop_if};
use crate::profile::counters::{SampleRow, has_experts};
use crate::profile::tap::CounterTap;
use crate::sample::{Sample, batch_of, batches, owners};
use darwin_core::files::Estimate;
use darwin_core::{Cancel, Progress};
use darwin_engine::{Config, Model, Record, Site, State, Tap};

/// Most tokens of a batch, and most values of residual stream that a batch keeps per model.
const BATCH_TOKENS: usize = 4096;
const KEPT_VALUES: usize = 1 << 25;
/// The child's number.
const CHILD: usize = 2;
/// Positions whose logits of three models are held at once.
const POSITIONS_AT_ONCE: usize = 256;

/// What the three models did, sample by sample. Index 0 is the father, 1 the mother, 2 the child.
pub(super) struct Observed {
    pub(super) rows: [Vec<SampleRow>; 3],
    pub(super) num_experts: usize,
    pub(super) top_k: usize,
    pub(super) full_attention: Vec<bool>,
    /// Per layer, sums over tokens: Jaccard with father, with mother, distance from the segment.
    layer_sums: Vec<[f64; 3]>,
    tokens: u64,
    /// Per sample, means over answer positions: KL(father || child), KL(mother || child).
    kl: [Vec<f64>; 2],
    /// Per sample, share of answer positions with the parent's top token.
    same_top: [Vec<f64>; 2],
}

impl Observed {
    pub(super) fn num_layers(&self) -> usize {
        self.layer_sums.len()
    }

    pub(super) fn has_experts(&self, layer: usize) -> bool {
        has_experts(&self.rows[2], layer)
    }

    pub(super) fn num_samples(&self) -> usize {
        self.rows[0].len()
    }

    pub(super) fn tokens(&self) -> u64 {
        self.tokens
    }

    pub(super) fn kl(&self) -> [Estimate; 2] {
        self.kl.each_ref().map(|samples| mean(samples))
    }

    pub(super) fn same_top(&self) -> [Estimate; 2] {
        self.same_top.each_ref().map(|samples| mean(samples))
    }

    /// Mean Jaccard index of the child's selected experts with the father's and the mother's.
    pub(super) fn jaccard(&self, layer: usize) -> Option<[f64; 2]> {
        let n = self.tokens as f64;
        let [father, mother, _] = self.layer_sums[layer];
        self.has_experts(layer).then_some([father / n, mother / n])
    }

    /// Mean distance of the child's output from the segment between the parents' outputs, over
    /// the segment's length.
    pub(super) fn off_segment(&self, layer: usize) -> f64 {
        self.layer_sums[layer][2] / self.tokens as f64
    }
}

/// Runs all three over all samples, up to the first value of the child's that is not finite: the
/// inner error.
///
/// # Errors
/// [`Error::NotFinite`] where a parent computes such a value; whatever the engine brings.
pub(super) fn observe(
    family: &Family<'_>,
    samples: &[Sample],
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<Result<Observed, Broken>, Error> {
    let subjects = [("father", family.father), ("mother", family.mother), ("child", family.child)];
    let models = [family.father.model, family.mother.model, family.child.model];
    let config = models[0].config();
    let layers = config.num_hidden_layers;
    let mut observed = Observed {
        rows: Default::default(),
        num_experts: config.num_experts,
        top_k: config.num_experts_per_tok,
        full_attention: config.layer_types.iter().map(|k| k.name() != "linear_attention").collect(),
        layer_sums: vec![[0.0; 3]; layers],
        tokens: 0,
        kl: Default::default(),
        same_top: Default::default(),
    };
    let limit = (KEPT_VALUES / (config.hidden_size * layers).max(1)).clamp(64, BATCH_TOKENS);
    let total: usize = samples.iter().map(|s| s.ids.len()).sum();
    progress.start("health check", total as u64, "tokens");
    for batch in batches(samples, limit) {
        stop_if(cancel)?;
        if let Some((model, broken)) = observed.add(models, batch)? {
            progress.finish();
            let (role, subject) = subjects[model];
            return match model {
                CHILD => Ok(Err(broken)),
                _ => Err(Error::broken(&called(role, &subject.reference.name), broken)),
            };
        }
        progress.advance(batch.iter().map(|s| s.ids.len() as u64).sum());
    }
    progress.finish();
    Ok(Ok(observed))
}

impl Observed {
    /// Runs a batch; the first model that computes what is not finite, and where.
    fn add(
        &mut self,
        models: [&Model; 3],
        batch: &[Sample],
    ) -> Result<Option<(usize, Broken)>, Error> {
        let mut states = Vec::new();
        let mut traces = Vec::new();
        for (i, model) in models.into_iter().enumerate() {
            let mut tap = Trace::new(model.config(), batch);
            let state = match full_pass(model, batch, &mut tap, &mut Meter::default()) {
                Err(Error::Engine(darwin_engine::Error::NotFinite(found))) => {
                    let sample = format!("sample {}", batch[found.sequence].id);
                    return Ok(Some((i, Broken::of_pass(&found, &sample))));
                }
                state => state?,
            };
            let nll = answer_nll(model, &state, batch);
            for ((sample, layers), nll) in
                batch.iter().zip(std::mem::take(&mut tap.counters.rows)).zip(nll)
            {
                let (id, domain) = (sample.id.clone(), sample.domain.clone());
                let row = SampleRow { id, domain, tokens: sample.ids.len() as u32, nll, layers };
                if let Some(broken) = Broken::of_row(&row) {
                    return Ok(Some((i, broken)));
                }
                self.rows[i].push(row);
            }
            states.push(state);
            traces.push(tap);
        }
        self.tokens += batch.iter().map(|s| s.ids.len() as u64).sum::<u64>();
        let width = models[0].config().hidden_size;
        for (layer, sums) in self.layer_sums.iter_mut().enumerate() {
            for i in 0..2 {
                sums[i] +=
                    jaccard(&traces[i].experts[layer], &traces[2].experts[layer], self.top_k);
            }
            let [f, m, c] = [0, 1, 2].map(|i| &traces[i].resid_out[layer]);
            sums[2] += off_segment(f, m, c, width);
        }
        self.add_divergence(models, &states, batch);
        Ok(None)
    }

    /// Next-token distributions at the positions that predict the answers.
    fn add_divergence(&mut self, models: [&Model; 3], states: &[State], batch: &[Sample]) {
        let (positions, _) = answer_positions(batch);
        let vocab = models[0].config().vocab_size;
        let mut kl = [vec![0.0; positions.len()], vec![0.0; positions.len()]];
        let mut same = kl.clone();
        for (r, run) in positions.chunks(POSITIONS_AT_ONCE).enumerate() {
            let logits = [0, 1, 2].map(|i| models[i].logits(&states[i], run));
            for j in 0..run.len() {
                let row = |i: usize| &logits[i][j * vocab..(j + 1) * vocab];
                for parent in 0..2 {
                    let at = r * POSITIONS_AT_ONCE + j;
                    kl[parent][at] = divergence(row(parent), row(2));
                    same[parent][at] = f64::from(u8::from(top(row(parent)) == top(row(2))));
                }
            }
        }
        let mut start = 0;
        for sample in batch {
            let end = start + sample.answer().len();
            if end == start {
                continue; // no answer is no agreement
            }
            for parent in 0..2 {
                self.kl[parent].push(mean(&kl[parent][start..end]).value);
                self.same_top[parent].push(mean(&same[parent][start..end]).value);
            }
            start = end;
        }
    }
}

/// The counters of a profile, and what the models are compared by.
struct Trace {
    counters: CounterTap,
    /// Per layer (tokens, hidden).
    resid_out: Vec<Vec<f32>>,
    /// Per layer (tokens, k), each token's ids sorted.
    experts: Vec<Vec<u32>>,
}

impl Trace {
    fn new(config: &Config, samples: &[Sample]) -> Self {
        let batch = batch_of(samples);
        let layers = config.num_hidden_layers;
        let tokens = batch.tokens();
        debug_assert_eq!(owners(&batch).len(), tokens);
        Self {
            counters: CounterTap::new(config, &batch),
            resid_out: vec![vec![0.0; tokens * config.hidden_size]; layers],
            experts: vec![vec![0; tokens * config.num_experts_per_tok]; layers],
        }
    }
}

impl Tap for Trace {
    fn wants(&self, site: Site, layer: usize) -> bool {
        self.counters.wants(site, layer)
    }

    fn record(&mut self, r: &Record<'_>) {
        self.counters.record(r);
        let start = r.first_token * r.shape[1];
        match r.site {
            Site::ResidOut => {
                self.resid_out[r.layer][start..start + r.values.len()].copy_from_slice(r.values);
            }
            Site::TopK => {
                let ids = r.experts.unwrap_or_default();
                let kept = &mut self.experts[r.layer][start..start + ids.len()];
                kept.copy_from_slice(ids);
                kept.chunks_mut(r.shape[1].max(1)).for_each(<[u32]>::sort_unstable);
            }
            _ => {}
        }
    }
}

/// Sum over tokens of |A and B| / |A or B|.
fn jaccard(a: &[u32], b: &[u32], k: usize) -> f64 {
    let one = |(x, y): (&[u32], &[u32])| {
        let common = x.iter().filter(|e| y.binary_search(e).is_ok()).count();
        common as f64 / (x.len() + y.len() - common) as f64
    };
    a.chunks(k.max(1)).zip(b.chunks(k.max(1))).map(one).sum()
}

/// Sum over tokens of the child's distance from the segment father-mother, over the segment's
/// length (at least a millionth of the father's norm, so that equal parents make no infinities).
fn off_segment(father: &[f32], mother: &[f32], child: &[f32], width: usize) -> f64 {
    let tokens = father.chunks(width).zip(mother.chunks(width)).zip(child.chunks(width));
    tokens
        .map(|((f, m), c)| {
            let (mut ff, mut dd, mut cd, mut cc) = (0.0, 0.0, 0.0, 0.0);
            for ((f, m), c) in f.iter().zip(m).zip(c) {
                let (f, m, c) = (f64::from(*f), f64::from(*m), f64::from(*c));
                ff += f * f;
                dd += (m - f) * (m - f);
                cd += (c - f) * (m - f);
                cc += (c - f) * (c - f);
            }
            let along = if dd > 0.0 { (cd / dd).clamp(0.0, 1.0) } else { 0.0 };
            let square = cc - 2.0 * along * cd + along * along * dd;
            let distance = if square < 0.0 { 0.0 } else { square.sqrt() };
            let floor = 1e-6 * ff.sqrt();
            if distance <= floor { 0.0 } else { distance / dd.sqrt().max(floor) }
        })
        .sum()
}

/// KL(p || q) of two rows of logits, nats; NaN where one is not finite.
fn divergence(p: &[f32], q: &[f32]) -> f64 {
    let (sum_p, sum_q) = (LogSumExp::of(p), LogSumExp::of(q));
    let terms = p.iter().zip(q).map(|(a, b)| {
        let loss = sum_p.loss(*a);
        (-loss).exp() * (sum_q.loss(*b) - loss)
    });
    let sum = terms.sum::<f64>();
    // Rounding may leave less than 0. `max` would make 0 of NaN.
    if sum < 0.0 { 0.0 } else { sum }
}

fn top(row: &[f32]) -> usize {
    let mut best = 0;
    for (i, v) in row.iter().enumerate() {
        if *v > row[best] {
            best = i;
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_divergence_of_what_is_not_finite_is_not_zero() {
        let row = [1.0, 2.0, -3.0];
        assert_eq!(divergence(&row, &row), 0.0);
        assert!((divergence(&[1e38; 4], &[-1e38; 4])).abs() < 1e-12, "both are uniform");
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            assert!(divergence(&row, &[1.0, bad, 0.0]).is_nan(), "{bad}");
            assert!(divergence(&[1.0, bad, 0.0], &row).is_nan(), "{bad}");
        }
        let zero = [0.0; 2];
        assert!(off_segment(&zero, &[1.0, 0.0], &[f32::NAN, 0.0], 2).is_nan());
    }
}
