//! From per-item results to scores by domain.

use crate::{Evaluation, ItemResult, ItemSet};
use darwin_core::Domain;
use darwin_core::files::{DomainScore, Estimate, GoalGain, ModelScores, Protection, Scored};
use darwin_core::stats::{mcnemar_exact, mean_se, normal_cdf};
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

/// What is wanted of a child.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Wants {
    /// What a domain weighs in the goal.
    pub weights: BTreeMap<Domain, f64>,
    /// What each protected domain may lose to the father.
    pub margins: BTreeMap<Domain, f64>,
}

/// One model's line of `scores.json`; with the parents' evaluations on the same items also the
/// exact McNemar p against the better parent of every domain, the goal's gain over the better parent
/// and the losses of protected domains, all paired by item (method 6).
#[must_use]
pub fn model_scores(
    name: &str,
    recipe_sha256: &str,
    items: &ItemSet,
    e: &Evaluation,
    parents: Option<([&Evaluation; 2], &Wants)>,
) -> ModelScores {
    let domains = by_domain(items, e);
    let protected = parents.map(|([father, _], wants)| protected(items, e, father, wants));
    ModelScores {
        goal: parents.and_then(|(parents, wants)| goal(items, e, parents, wants)),
        protected: protected.unwrap_or_default(),
        name: name.to_owned(),
        recipe_sha256: recipe_sha256.to_owned(),
        mean: mean_accuracy(&domains),
        domains,
        p_against_better_parent: parents
            .map(|(parents, _)| p_values(items, e, parents))
            .unwrap_or_default(),
    }
}

/// Differences of right answers, item by item, of every domain.
fn differences(items: &ItemSet, a: &Evaluation, b: &Evaluation) -> BTreeMap<Domain, Estimate> {
    let mut found: BTreeMap<Domain, Vec<f64>> = BTreeMap::new();
    for (item, (a, b)) in items.items().iter().zip(a.results.iter().zip(&b.results)) {
        found.entry(item.domain.clone()).or_default().push(a.right() - b.right());
    }
    found.into_iter().map(|(domain, d)| (domain, estimate(&d))).collect()
}

/// The weighted mean of estimates by domain; their errors are independent.
fn weighted(wants: &Wants, of: &BTreeMap<Domain, Estimate>) -> Option<Estimate> {
    let known = wants.weights.iter().filter_map(|(d, w)| Some((*w, of.get(d)?)));
    let known: Vec<(f64, &Estimate)> = known.filter(|(w, _)| *w > 0.0).collect();
    let total: f64 = known.iter().map(|(w, _)| w).sum();
    let value = known.iter().map(|(w, e)| w * e.value).sum::<f64>() / total;
    let squares: f64 = known.iter().map(|(w, e)| (w * e.se).powi(2)).sum();
    (total > 0.0).then_some(Estimate { value, se: squares.sqrt() / total })
}

fn goal(
    items: &ItemSet,
    e: &Evaluation,
    parents: [&Evaluation; 2],
    wants: &Wants,
) -> Option<GoalGain> {
    let accuracy = |e: &Evaluation| {
        let of = |score: &DomainScore| Estimate { value: score.exact.accuracy(), se: 0.0 };
        let scores = by_domain(items, e);
        weighted(wants, &scores.iter().map(|(d, s)| (d.clone(), of(s))).collect())
    };
    let [father, mother] = parents.map(accuracy);
    let mother_is_better = mother?.value > father?.value;
    let better = parents[usize::from(mother_is_better)];
    Some(GoalGain {
        score: accuracy(e)?.value,
        better_parent: if mother_is_better { "mother" } else { "father" }.to_owned(),
        gain: weighted(wants, &differences(items, e, better))?,
    })
}

fn protected(
    items: &ItemSet,
    e: &Evaluation,
    father: &Evaluation,
    wants: &Wants,
) -> BTreeMap<Domain, Protection> {
    let differences = differences(items, e, father);
    let of = |(domain, margin): (&Domain, &f64)| {
        let (difference, margin) = (*differences.get(domain)?, *margin);
        let above = difference.value + margin;
        let z = if above == 0.0 { 0.0 } else { above / difference.se };
        Some((domain.clone(), Protection { difference, margin, p_inferior: normal_cdf(-z) }))
    };
    wants.margins.iter().filter_map(of).collect()
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
        let [math, code] = ["math", "code"].map(|name| name.parse::<Domain>().unwrap());
        let wants = Wants {
            weights: [(math.clone(), 3.0), (code.clone(), 1.0)].into(),
            margins: [(code.clone(), 0.02)].into(),
        };
        let scores = model_scores("child", "", &set, &none, Some(([&none, &all], &wants)));
        assert!(scores.p_against_better_parent.values().all(|p| *p < 1e-4));
        let goal = scores.goal.unwrap();
        assert_eq!((goal.better_parent.as_str(), goal.gain.value), ("mother", -1.0));
        assert_eq!(scores.protected[&code].p_inferior, 0.0);
        // Half the items of one domain of the goal: paired, weighted, with an error.
        let half = evaluation(|i: usize| i.is_multiple_of(4), 40);
        let scores = model_scores("child", "", &set, &half, Some(([&none, &none], &wants)));
        let goal = scores.goal.unwrap();
        assert_eq!((goal.better_parent.as_str(), goal.gain.value), ("father", 0.375));
        assert!((goal.gain.se - 0.75 * (0.25_f64 / 19.0).sqrt()).abs() < 1e-12);
        let worse = model_scores("child", "", &set, &none, Some(([&all, &all], &wants)));
        assert_eq!(worse.protected[&code].p_inferior, 1.0);
        assert!((model_scores("c", "", &set, &all, None).mean.value - 1.0).abs() < 1e-12);
    }
}
