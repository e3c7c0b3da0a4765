//! Injected candidates (arXiv 1110.4181) and candidates from outside.

use super::{advance, isotropic, sphere};
use crate::cma::linalg::norm;
use crate::cma::{Cma, CmaError, Options};

/// How far the mean went in the first generation, in units of the first sigma.
fn mean_step(cma: &Cma, before: &[f64]) -> f64 {
    norm(&cma.mean().iter().zip(before).map(|(a, b)| (a - b) / 0.3).collect::<Vec<_>>())
}

#[test]
fn injected_candidates_replace_samples_and_come_first() {
    let mut cma = isotropic(3, Options::default());
    let injected = vec![vec![0.0; 3], vec![9.0; 3]];
    let candidates = cma.ask_with(&injected).unwrap();
    assert_eq!(candidates.len(), cma.parameters().popsize);
    assert_eq!(candidates[..2], injected);
}

#[test]
fn a_far_injection_moves_the_mean_by_a_likely_length() {
    let far = vec![1e6; 4];
    let start = isotropic(4, Options::default());
    let longest = 2.0 + 8.0 / 6.0;
    for injected in [vec![], vec![far]] {
        let mut cma = start.clone();
        let candidates = cma.ask_with(&injected).unwrap();
        let nearness = |x: &Vec<f64>| sphere(&x.iter().map(|v| v - 1e6).collect::<Vec<_>>());
        let fitness: Vec<f64> = candidates.iter().map(nearness).collect();
        cma.tell(&candidates, &fitness).unwrap();
        assert!(mean_step(&cma, &start.mean()) < longest);
        assert!(cma.sigma() < 0.3 * 1_f64.exp() + 1e-12);
    }
}

/// A bad injected candidate counts for nothing: its place does not matter.
#[test]
fn a_bad_injection_does_no_harm() {
    let told = |injected: Vec<f64>| {
        let mut cma = isotropic(4, Options::default());
        let candidates = cma.ask_with(&[injected]).unwrap();
        let mut fitness: Vec<f64> = candidates.iter().map(|x| sphere(x)).collect();
        fitness[0] = 1e9;
        cma.tell(&candidates, &fitness).unwrap();
        cma
    };
    let (mut near, far) = (told(vec![0.6; 4]), told(vec![40.0, 0.5, 0.5, -70.0]));
    assert_eq!((near.mean(), near.covariance()), (far.mean(), far.covariance()));
    assert_eq!(near.sigma(), far.sigma());
    while near.stop().is_empty() {
        advance(&mut near, sphere);
    }
    assert!(near.best().unwrap().fitness < 1e-9);
}

#[test]
fn injecting_the_optimum_speeds_the_run_up() {
    let generations = |known: &[Vec<f64>]| {
        let mut cma = isotropic(6, Options { seed: 3, ..Options::default() });
        while sphere(&cma.mean()) > 1e-6 {
            let candidates = cma.ask_with(known).unwrap();
            let fitness: Vec<f64> = candidates.iter().map(|x| sphere(x)).collect();
            cma.tell(&candidates, &fitness).unwrap();
            assert!(cma.generation() < 10_000, "the run does not end");
        }
        cma.generation()
    };
    assert!(generations(&[vec![0.0; 6]]) < generations(&[]));
}

#[test]
fn order_of_telling_does_not_matter() {
    let mut straight = isotropic(5, Options::default());
    let mut turned = straight.clone();
    let candidates = straight.ask_with(&[vec![0.1; 5]]).unwrap();
    assert_eq!(turned.ask_with(&[vec![0.1; 5]]).unwrap(), candidates);
    let tell = |cma: &mut Cma, candidates: &[Vec<f64>]| {
        let fitness: Vec<f64> = candidates.iter().map(|x| sphere(x)).collect();
        cma.tell(candidates, &fitness).unwrap();
    };
    tell(&mut straight, &candidates);
    let backwards: Vec<Vec<f64>> = candidates.into_iter().rev().collect();
    tell(&mut turned, &backwards);
    assert_eq!(straight.state.mean, turned.state.mean);
    assert_eq!(straight.covariance(), turned.covariance());
}

#[test]
fn bad_injections_are_refused_and_change_nothing() {
    let options = Options { bounds: vec![(0.0, 1.0); 2], ..Options::default() };
    let mut cma = isotropic(2, options);
    let before = cma.clone();
    let many = vec![vec![0.5; 2]; 7];
    assert_eq!(
        cma.ask_with(&many).unwrap_err(),
        CmaError::TooManyInjected { found: 7, popsize: 6 }
    );
    assert!(matches!(cma.ask_with(&[vec![0.5]]), Err(CmaError::Dimension { .. })));
    assert!(matches!(cma.ask_with(&[vec![0.5, 2.0]]), Err(CmaError::Outside { .. })));
    assert!(matches!(cma.ask_with(&[vec![f64::NAN, 0.0]]), Err(CmaError::NotFinite { .. })));
    let asked = cma.ask();
    assert!(matches!(cma.tell(&asked[1..], &[0.0; 5]), Err(CmaError::Population { .. })));
    assert!(matches!(cma.tell(&asked, &[0.0; 5]), Err(CmaError::Population { .. })));
    assert_eq!((cma.generation(), cma.mean()), (before.generation(), before.mean()));
}
