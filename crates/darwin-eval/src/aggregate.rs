//! From per-item results to scores by domain.

use crate::{Evaluation, ItemResult, ItemSet};
use darwin_core::Domain;
use darwin_core::files::{DomainScore, Estimate, ModelScores, Scored};
use darwin_core::stats::{mcnemar_exact, mean_se};
use std::collections::BTreeMap;

/// The mean of some samples with its standard error; a single one has no spread, which is written
/// as 0.
#[must_use]
pub fn estimate(samples: &[f64]) -> Estimate {
    if samples.is_empty() {
        return Estimate::default();
    }
    let found = mean_se(samples);
    Estimate { value: found.value, se: if samples.len() < 2 { 0.0 } else { found.se } }
}

/// The results of every domain, in the order of the items.
fn grouped<'e>(items: &ItemSet, e: &'e Evaluation) -> BTreeMap<Domain, Vec<&'e ItemResult>> {
    let mut groups: BTreeMap<Domain, Vec<&ItemResult>> = BTreeMap::new();
    for (item, result) in items.items().iter().zip(&e.results) {
        groups.entry(item.domain.clone()).or_default().push(result);
    }
    groups
}

fn scored(answers: impl Iterator<Item = Option<bool>>) -> Scored {
    let known: Vec<bool> = answers.flatten().collect();
    Scored { n: known.len(), correct: known.iter().filter(|right| **right).count() }
}

/// Every domain's score: exact match in the main format with the direct one beside it.
#[must_use]
pub fn by_domain(items: &ItemSet, e: &Evaluation) -> BTreeMap<Domain, DomainScore> {
    let score = |results: Vec<&ItemResult>| DomainScore {
        exact: scored(results.iter().map(|r| r.exact)),
        direct: Some(scored(results.iter().map(|r| r.direct))).filter(|s| s.n > 0),
        nll: estimate(&results.iter().map(|r| r.nll).collect::<Vec<_>>()),
        unclosed: results.iter().filter(|r| r.closed == Some(false)).count(),
    };
    grouped(items, e).into_iter().map(|(domain, results)| (domain, score(results))).collect()
}

/// Whether each item was answered exactly, in the order of the items.
#[must_use]
pub fn correct(e: &Evaluation) -> Vec<bool> {
    e.results.iter().map(|r| r.exact == Some(true)).collect()
}

/// One model's line of `scores.json`; with the parents' evaluations on the same items also the
/// exact McNemar p against the better parent of every domain (method 6).
#[must_use]
pub fn model_scores(
    name: &str,
    recipe_sha256: &str,
    items: &ItemSet,
    e: &Evaluation,
    parents: Option<[&Evaluation; 2]>,
) -> ModelScores {
    let domains = by_domain(items, e);
    ModelScores {
        name: name.to_owned(),
        recipe_sha256: recipe_sha256.to_owned(),
        mean: mean_accuracy(&domains),
        domains,
        p_against_better_parent: parents.map(|p| p_values(items, e, p)).unwrap_or_default(),
    }
}

/// The mean of the domains' accuracies; binomial variances add up.
fn mean_accuracy(domains: &BTreeMap<Domain, DomainScore>) -> Estimate {
    let known: Vec<Scored> = domains.values().map(|d| d.exact).filter(|s| s.n > 0).collect();
    let count = known.len().max(1) as f64;
    let value = known.iter().map(|s| s.accuracy()).sum::<f64>() / count;
    let variance: f64 =
        known.iter().map(|s| s.accuracy() * (1.0 - s.accuracy()) / s.n as f64).sum();
    Estimate { value, se: variance.sqrt() / count }
}

fn p_values(items: &ItemSet, e: &Evaluation, parents: [&Evaluation; 2]) -> BTreeMap<Domain, f64> {
    let (child, f, m) = (grouped(items, e), grouped(items, parents[0]), grouped(items, parents[1]));
    let right = |r: &[&ItemResult]| r.iter().filter(|r| r.exact == Some(true)).count();
    child
        .into_iter()
        .filter_map(|(domain, results)| {
            let (f, m) = (f.get(&domain)?, m.get(&domain)?);
            let better = if right(m) > right(f) { m } else { f };
            Some((domain, mcnemar(&results, better)))
        })
        .collect()
}

fn mcnemar(a: &[&ItemResult], b: &[&ItemResult]) -> f64 {
    let only = |x: &[&ItemResult], y: &[&ItemResult]| {
        let pairs = x.iter().zip(y);
        pairs.filter(|(x, y)| x.exact == Some(true) && y.exact == Some(false)).count() as u64
    };
    mcnemar_exact(only(a, b), only(b, a))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Format, Item};
    use darwin_core::Split;
    use darwin_engine::Cost;

    fn items(n: usize) -> ItemSet {
        let item = |i: usize| Item {
            id: i.to_string(),
            domain: if i.is_multiple_of(2) { "math" } else { "code" }.parse().unwrap(),
            family: String::new(),
            question: i.to_string(),
            target: String::new(),
            trace: None,
            formats: vec![Format::Direct],
        };
        ItemSet::from_items((0..n).map(item).collect(), Split::Test)
    }

    fn evaluation(right: impl Fn(usize) -> bool, n: usize) -> Evaluation {
        let result = |i| ItemResult { nll: i as f64, exact: Some(right(i)), ..Default::default() };
        Evaluation { results: (0..n).map(result).collect(), cost: Cost::default() }
    }

    #[test]
    fn domains_are_scored_apart() {
        let set = items(8);
        let scores = by_domain(&set, &evaluation(|i: usize| i.is_multiple_of(2), 8));
        let math = &scores[&"math".parse().unwrap()];
        assert_eq!(math.exact, Scored { n: 4, correct: 4 });
        assert!((math.nll.value - 3.0).abs() < 1e-12);
        assert!(math.direct.is_none());
        assert_eq!(scores[&"code".parse().unwrap()].exact.correct, 0);
    }

    #[test]
    fn the_better_parent_is_chosen_per_domain() {
        let set = items(40);
        let all = evaluation(|_| true, 40);
        let none = evaluation(|_| false, 40);
        let scores = model_scores("child", "", &set, &none, Some([&none, &all]));
        assert!(scores.p_against_better_parent.values().all(|p| *p < 1e-4));
        assert!((model_scores("c", "", &set, &all, None).mean.value - 1.0).abs() < 1e-12);
    }
}
