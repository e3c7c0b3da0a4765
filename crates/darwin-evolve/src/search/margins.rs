//! What a protected domain may lose on the proxy's scale (method 3.3): its margin is one of accuracy.

use crate::job::{Answer, Tally};
use darwin_core::Domain;

/// A translated margin is at most so many times the margin.
const MOST: f64 = 4.0;

/// What the baselines beside the father gained over him: on the proxy, and in accuracy.
#[derive(Clone, Debug, Default)]
pub(super) struct Baselines {
    answers: [Vec<Answer>; 3],
}

impl Baselines {
    pub(super) fn tell(&mut self, phase: usize, answers: &[Answer]) {
        self.answers[phase] = answers.iter().skip(1).cloned().collect();
    }

    /// The loss on the proxy where the accuracy falls by the margin, on the straight line from the
    /// father to a baseline that loses as much accuracy or more: the most cautious of them, for too
    /// large a margin breaks a promise. The margin itself where there is none.
    pub(super) fn translated(&self, domain: &Domain, margin: f64) -> f64 {
        let losses = (0..self.answers[0].len()).filter_map(|i| {
            let of = |phase: usize| self.tally(phase, i, domain);
            let accuracy = match (of(1), of(2)) {
                (Some(a), Some(b)) => a.and(&b),
                (one, other) => one.or(other)?,
            };
            Some((-accuracy.gain.value, -of(0)?.gain.value))
        });
        let enough = losses.filter(|(accuracy, proxy)| *accuracy >= margin && *proxy > 0.0);
        let ratios = enough.map(|(accuracy, proxy)| proxy / accuracy.max(f64::MIN_POSITIVE));
        margin * ratios.reduce(f64::min).map_or(1.0, |ratio| ratio.clamp(1.0, MOST))
    }

    fn tally(&self, phase: usize, baseline: usize, domain: &Domain) -> Option<Tally> {
        let scored = self.answers[phase].get(baseline)?.outcome.as_ref().ok()?;
        scored.domains.get(domain).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::Scored;
    use darwin_core::files::Estimate;

    fn answer(gain: f64, n: usize) -> Answer {
        let gain = Estimate { value: gain, se: 0.01 };
        let domains = [(domain(), Tally { n, score: 0.5, gain })].into();
        Answer { tokens: 1, outcome: Ok(Scored { domains, slopes: None }) }
    }

    fn domain() -> Domain {
        "language".parse().expect("a domain")
    }

    fn translated(baselines: [[f64; 3]; 2]) -> f64 {
        let mut all = Baselines::default();
        for phase in 0..3 {
            let of = |baseline: &[f64; 3]| answer(baseline[phase], 100);
            let answers: Vec<Answer> =
                std::iter::once(answer(0.0, 100)).chain(baselines.iter().map(of)).collect();
            all.tell(phase, &answers);
        }
        all.translated(&domain(), 0.02)
    }

    #[test]
    fn a_margin_is_what_the_most_cautious_baseline_says() {
        let mother = [-0.28, -0.15, -0.15];
        let by_mother = 0.02 * 0.28 / 0.15;
        assert!((translated([mother, [-0.10, -0.05, -0.03]]) - by_mother).abs() < 1e-12);
        // Losses of 6 points on the proxy where the accuracy falls by 4.
        assert!((translated([mother, [-0.06, -0.05, -0.03]]) - 0.03).abs() < 1e-12);
        // A baseline that loses less than the margin says nothing.
        assert!((translated([mother, [-0.01, -0.01, -0.01]]) - by_mother).abs() < 1e-12);
        // Nothing known, a proxy that loses less, one that loses wildly more.
        assert_eq!(translated([[0.0; 3]; 2]), 0.02);
        assert_eq!(translated([[-0.01, -0.1, -0.1]; 2]), 0.02);
        assert!((translated([[-0.9, -0.03, -0.03]; 2]) - 0.08).abs() < 1e-12);
    }
}
