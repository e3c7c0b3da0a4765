//! Tests of whole runs: against pycma's numbers ([`golden`], [`peer`]) and of what runs promise.

mod bounded;
mod golden;
mod injection;
mod peer;
mod promises;

use super::{Cma, Covariance, Options};

pub(super) fn sphere(x: &[f64]) -> f64 {
    x.iter().map(|v| v * v).sum()
}

pub(super) fn ellipsoid(x: &[f64]) -> f64 {
    let exponent = |i: usize| 6.0 * i as f64 / (x.len() - 1) as f64;
    x.iter().enumerate().map(|(i, v)| 10_f64.powf(exponent(i)) * v * v).sum()
}

pub(super) fn rosenbrock(x: &[f64]) -> f64 {
    x.windows(2).map(|w| 100.0 * (w[0] * w[0] - w[1]).powi(2) + (w[0] - 1.0).powi(2)).sum()
}

/// One generation.
pub(super) fn advance(cma: &mut Cma, function: impl Fn(&[f64]) -> f64) -> Vec<Vec<f64>> {
    assert!(cma.generation() < 10_000, "the run does not end");
    let candidates = cma.ask();
    let fitness: Vec<f64> = candidates.iter().map(|x| function(x)).collect();
    cma.tell(&candidates, &fitness).unwrap();
    candidates
}

pub(super) fn isotropic(n: usize, options: Options) -> Cma {
    Cma::new(&vec![0.5; n], Covariance::Isotropic, 0.3, options).unwrap()
}

pub(super) fn assert_close(what: &str, found: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (i, (a, b)) in found.iter().zip(expected).enumerate() {
        let close = (a - b).abs() <= tolerance * b.abs().max(1.0);
        assert!(close, "{what}[{i}] is {a}, not {b}");
    }
}
