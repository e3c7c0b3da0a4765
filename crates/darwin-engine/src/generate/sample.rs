//! Which token comes next.

use crate::Error;
use crate::kernels::argmax;
use darwin_core::keyed::{Key, Rng};
use std::borrow::Cow;

/// Candidates that are sorted at first where the most likely ones are asked for by their share.
const SORTED_AT_FIRST: usize = 256;

/// How tokens are drawn: transformers' processors, in its order. The draw of a token is keyed by
/// (seed, sequence, position), so that it depends on nothing else in the call.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// Logits are divided by this; 0 takes the most likely token.
    pub temperature: f32,
    /// Only so many of the most likely tokens are drawn from (those as likely as the last of them
    /// too); 0 for all.
    pub top_k: usize,
    /// Only the most likely tokens that have this share of the probability together; 1 for all.
    pub top_p: f32,
    /// Only tokens that have at least this share of the most likely one's probability; 0 for all.
    pub min_p: f32,
    /// Logits of tokens that came before, in the prompt too, are divided by this where they are
    /// positive and multiplied where they are negative (arXiv 1909.05858); 1 for none.
    pub repetition_penalty: f32,
    /// The seed.
    pub seed: u64,
}

impl Default for Sampling {
    /// Greedy decoding.
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            seed: 0,
        }
    }
}

impl Sampling {
    /// Checks the numbers' ranges.
    ///
    /// # Errors
    /// [`Error::Sampling`] naming the number.
    pub fn check(&self) -> Result<(), Error> {
        let share = "between 0 and 1";
        for (name, value, holds, needed) in [
            ("temperature", self.temperature, self.temperature >= 0.0, "0 (greedy) or above"),
            ("top_p", self.top_p, (0.0..=1.0).contains(&self.top_p), share),
            ("min_p", self.min_p, (0.0..=1.0).contains(&self.min_p), share),
            (
                "repetition_penalty",
                self.repetition_penalty,
                self.repetition_penalty > 0.0,
                "above 0",
            ),
        ] {
            if !holds || !value.is_finite() {
                return Err(Error::Sampling { name, found: value, needed });
            }
        }
        Ok(())
    }

    /// The tokens to draw from with their scores, in an order that depends on nothing else.
    pub(crate) fn candidates(&self, history: &[&[u32]], logits: &[f32]) -> Vec<(u32, f32)> {
        let logits = self.penalised(history, logits);
        let scores = logits.iter().map(|x| x / self.temperature);
        let mut all: Vec<(u32, f32)> = (0..).zip(scores).collect();
        let mut sorted = 0;
        if self.top_k > 0 && self.top_k < all.len() {
            sort_to(&mut all, &mut sorted, self.top_k);
            let least = all[self.top_k - 1].1;
            let ties = all[self.top_k..].iter().filter(|(_, score)| *score == least).count();
            sort_to(&mut all, &mut sorted, self.top_k + ties);
            all.truncate(self.top_k + ties);
        }
        if self.top_p < 1.0 {
            top_p(&mut all, &mut sorted, f64::from(self.top_p));
        }
        if self.min_p > 0.0 {
            let most = largest(&all);
            // as a share of the largest probability: their sum falls out
            all.retain(|(_, score)| f64::from(score - most).exp() >= f64::from(self.min_p));
            sorted = sorted.min(all.len());
        }
        if sorted > 0 {
            let whole = all.len();
            sort_to(&mut all, &mut sorted, whole);
        }
        all
    }

    fn penalised<'l>(&self, history: &[&[u32]], logits: &'l [f32]) -> Cow<'l, [f32]> {
        let penalty = self.repetition_penalty;
        if penalty == 1.0 {
            return Cow::Borrowed(logits);
        }
        let mut ids = history.concat();
        ids.sort_unstable();
        ids.dedup();
        let mut logits = logits.to_vec();
        for id in ids {
            if let Some(logit) = logits.get_mut(id as usize) {
                *logit = if *logit < 0.0 { *logit * penalty } else { *logit / penalty };
            }
        }
        Cow::Owned(logits)
    }
}

/// Draws the tokens of one sequence.
#[derive(Clone, Debug)]
pub(super) struct Sampler {
    sampling: Sampling,
    key: Key,
}

impl Sampler {
    pub(super) fn new(sampling: Sampling, sequence: u64) -> Self {
        let key = Key::new(sampling.seed, &["token", &sequence.to_string()]);
        Self { sampling, key }
    }

    /// The token that follows a prompt and new tokens.
    pub(super) fn pick(&self, prompt: &[u32], new: &[u32], logits: &[f32]) -> u32 {
        let history = [prompt, new];
        if self.sampling.temperature == 0.0 {
            return argmax(&self.sampling.penalised(&history, logits)) as u32;
        }
        let candidates = self.sampling.candidates(&history, logits);
        let most = largest(&candidates);
        let weight = |score: f32| f64::from(score - most).exp();
        let total: f64 = candidates.iter().map(|(_, score)| weight(*score)).sum();
        let mut left = Rng::new(self.key, new.len() as u64).uniform() * total;
        for (id, score) in &candidates {
            left -= weight(*score);
            if left < 0.0 {
                return *id;
            }
        }
        // rounding has left a rest, or logits are no numbers
        candidates.iter().min_by(|a, b| order(a, b)).map_or(0, |(id, _)| *id)
    }
}

fn largest(all: &[(u32, f32)]) -> f32 {
    all.iter().map(|(_, score)| *score).fold(f32::NEG_INFINITY, f32::max)
}

/// By falling score, then by id.
fn order(a: &(u32, f32), b: &(u32, f32)) -> std::cmp::Ordering {
    b.1.total_cmp(&a.1).then(a.0.cmp(&b.0))
}

/// Brings the first `n` into order, of which the first `sorted` are in it.
fn sort_to(all: &mut [(u32, f32)], sorted: &mut usize, n: usize) {
    let n = n.min(all.len());
    if n <= *sorted {
        return;
    }
    let rest = &mut all[*sorted..];
    let more = n - *sorted;
    if more < rest.len() {
        rest.select_nth_unstable_by(more, order);
    }
    rest[..more].sort_unstable_by(order);
    *sorted = n;
}

/// Keeps the most likely tokens until they have a share of `p` together, one at least.
fn top_p(all: &mut Vec<(u32, f32)>, sorted: &mut usize, p: f64) {
    let most = largest(all);
    let weight = |score: f32| f64::from(score - most).exp();
    let total: f64 = all.iter().map(|(_, score)| weight(*score)).sum();
    let (mut before, mut kept) = (0.0, 0);
    while kept < all.len() && (kept == 0 || before < p * total) {
        if kept == *sorted {
            sort_to(all, sorted, (2 * kept).max(SORTED_AT_FIRST));
        }
        before += weight(all[kept].1);
        kept += 1;
    }
    all.truncate(kept);
    *sorted = kept.min(*sorted);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn golden() -> Value {
        let path = "../darwin-testkit/fixtures/golden/sampling.json";
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
    }

    fn numbers(list: &Value) -> Vec<f32> {
        list.as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32).collect()
    }

    /// transformers' processors (tools/oracle/sampling.py).
    #[test]
    fn what_is_left_equals_transformers() {
        let golden = golden();
        let history: Vec<u32> = numbers(&golden["history"]).iter().map(|x| *x as u32).collect();
        for case in golden["cases"].as_array().unwrap() {
            let number = |key: &str| case[key].as_f64().unwrap() as f32;
            let sampling = Sampling {
                temperature: number("temperature"),
                top_k: number("top_k") as usize,
                top_p: number("top_p"),
                min_p: number("min_p"),
                repetition_penalty: number("repetition_penalty"),
                seed: 0,
            };
            let logits = numbers(&golden["logits"][case["logits"].as_str().unwrap()]);
            let mut left = sampling.candidates(&[&history[..4], &history[4..]], &logits);
            left.sort_by_key(|(id, _)| *id);
            let ids: Vec<f32> = left.iter().map(|(id, _)| *id as f32).collect();
            assert_eq!(ids, numbers(&case["left"]), "{case}");
            for ((_, found), wanted) in left.iter().zip(numbers(&case["scores"])) {
                assert!((found - wanted).abs() <= 1e-6 * wanted.abs().max(1.0), "{case}");
            }
        }
    }

    /// Pearson's statistic of many draws against the probabilities they should have.
    #[test]
    fn draws_have_their_probabilities() {
        let logits: Vec<f32> = (0..40).map(|i| ((i * 17 % 40) as f32 / 9.0).sin() * 2.0).collect();
        for sampling in [
            Sampling { temperature: 1.0, seed: 3, ..Sampling::default() },
            Sampling { temperature: 0.7, top_k: 12, seed: 4, ..Sampling::default() },
            Sampling { temperature: 1.4, top_p: 0.8, min_p: 0.1, seed: 5, ..Sampling::default() },
        ] {
            let left = sampling.candidates(&[], &logits);
            let weights: Vec<f64> = left.iter().map(|(_, s)| f64::from(*s).exp()).collect();
            let total: f64 = weights.iter().sum();
            let n = 20_000;
            let mut counts = vec![0_u32; logits.len()];
            for i in 0..n {
                // over sequences and positions alike
                let (sequence, position) = (i / 100, i % 100);
                let new = vec![0; position];
                let sampler = Sampler::new(sampling, sequence as u64);
                counts[sampler.pick(&[1], &new, &logits) as usize] += 1;
            }
            let mut statistic = 0.0;
            for ((id, _), weight) in left.iter().zip(&weights) {
                let expected = weight / total * n as f64;
                assert!(expected > 5.0, "enough draws");
                statistic += (f64::from(counts[*id as usize]) - expected).powi(2) / expected;
                counts[*id as usize] = 0;
            }
            assert!(counts.iter().all(|count| *count == 0), "only what is left is drawn");
            // mean and deviation of chi-square with so many degrees of freedom
            let degrees = (left.len() - 1) as f64;
            let deviations = (statistic - degrees) / (2.0 * degrees).sqrt();
            assert!(deviations.abs() < 3.0, "{sampling:?}: {statistic} of {degrees}");
        }
    }

    /// A vocabulary larger than what is sorted at first.
    #[test]
    fn large_vocabularies_are_cut_alike() {
        let logits: Vec<f32> =
            (0..5000).map(|i| ((i * 7919 % 5000) as f32).sqrt() / 20.0).collect();
        let p = Sampling { temperature: 1.0, top_p: 0.6, ..Sampling::default() };
        let left = p.candidates(&[], &logits);
        let mut order: Vec<f64> = logits.iter().map(|x| f64::from(*x).exp()).collect();
        order.sort_by(|a, b| b.total_cmp(a));
        let (total, mut sum) = (order.iter().sum::<f64>(), 0.0);
        let wanted = order.iter().take_while(|w| {
            let before = sum;
            sum += **w;
            before < 0.6_f64 * total
        });
        assert!(left.len() > 2 * SORTED_AT_FIRST && left.is_sorted_by(|a, b| a.1 >= b.1));
        assert!(left.len().abs_diff(wanted.count()) <= 1);
    }

    #[test]
    fn logits_that_are_no_numbers_do_not_panic() {
        for temperature in [0.0, 1.0] {
            let sampling = Sampling { temperature, top_k: 3, top_p: 0.5, ..Sampling::default() };
            for odd in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let id = Sampler::new(sampling, 0).pick(&[1], &[], &[odd; 9]);
                assert!(id < 9);
            }
        }
    }
}
