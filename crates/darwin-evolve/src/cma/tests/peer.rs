//! As many evaluations as pycma needs (`tools/oracle/pycma.py`, 20 seeds, cma 4.5.0).

use super::{ellipsoid, rosenbrock, sphere};
use crate::cma::{Cma, Covariance, Options};
use serde::Deserialize;

#[derive(Deserialize)]
struct File {
    statistics: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    function: String,
    start: Vec<f64>,
    sigma0: f64,
    target: f64,
    failed: usize,
    quartile_1: f64,
    median: f64,
    quartile_3: f64,
}

/// The medians of 20 runs scatter by about 0.3 interquartile ranges (1.25 sd / sqrt(20), both
/// sides): one range apart is more than three standard errors.
#[test]
fn medians_equal_pycma() {
    let text = include_str!("../../../../darwin-testkit/fixtures/golden/cma/statistics.json");
    let file: File = serde_json::from_str(text).unwrap();
    for case in file.statistics {
        let mut evaluations: Vec<usize> =
            (1..=20).filter_map(|seed| evaluations_to_target(&case, seed)).collect();
        assert!(20 - evaluations.len() <= case.failed + 1, "{}", case.function);
        evaluations.sort_unstable();
        let median = evaluations[evaluations.len() / 2] as f64;
        let range = (case.quartile_3 - case.quartile_1).max(0.05 * case.median);
        let apart = (median - case.median).abs();
        assert!(apart <= range, "{}: median {median}, pycma {}", case.function, case.median);
    }
}

fn evaluations_to_target(case: &Case, seed: u64) -> Option<usize> {
    let function = match case.function.as_str() {
        "sphere" => sphere,
        "ellipsoid" => ellipsoid,
        "rosenbrock" => rosenbrock,
        other => unreachable!("unknown function {other}"),
    };
    let options = Options { seed, ..Options::default() };
    let mut cma = Cma::new(&case.start, Covariance::Isotropic, case.sigma0, options).unwrap();
    while cma.stop().is_empty() && cma.evaluations() < 50_000 {
        super::advance(&mut cma, function);
        if cma.best().is_some_and(|best| best.fitness <= case.target) {
            return Some(cma.evaluations());
        }
    }
    None
}
