//! What every run promises: determinism, exact resumption, ranks only, sound failures.

use super::{advance, ellipsoid, isotropic, rosenbrock, sphere};
use crate::cma::{Cma, CmaError, Covariance, Options, StopReason};
use darwin_core::keyed::{Key, Rng};

fn seeded(seed: u64) -> Options {
    Options { seed, ..Options::default() }
}

#[test]
fn equal_options_make_equal_runs_and_others_do_not() {
    let first = |options: Options| isotropic(4, options).ask();
    assert_eq!(first(seeded(5)), first(seeded(5)));
    assert_ne!(first(seeded(5)), first(seeded(6)));
    let named = Options { stream: vec!["guided".into()], ..seeded(5) };
    assert_ne!(first(seeded(5)), first(named));
}

/// Saved as JSON before an ask and between ask and tell, a run goes on bit by bit.
#[test]
fn a_saved_run_goes_on_exactly() {
    let options = Options { bounds: vec![(-2.0, 2.0); 5], ..seeded(9) };
    let mut straight = isotropic(5, options);
    let mut resumed = straight.clone();
    for generation in 0..40 {
        let injected = if generation == 0 { vec![vec![-1.0; 5], vec![2.0; 5]] } else { vec![] };
        let expected = straight.ask_with(&injected).unwrap();
        resumed = through_json(&resumed);
        let candidates = resumed.ask_with(&injected).unwrap();
        assert_eq!(candidates, expected);
        let mut fitness: Vec<f64> = candidates.iter().map(|x| rosenbrock(x)).collect();
        fitness[3] = f64::NAN;
        resumed = through_json(&resumed);
        straight.tell(&expected, &fitness).unwrap();
        resumed.tell(&candidates, &fitness).unwrap();
        assert_eq!(straight.stop(), resumed.stop());
    }
    assert_eq!(straight, resumed);
}

fn through_json(cma: &Cma) -> Cma {
    serde_json::from_str(&serde_json::to_string(cma).unwrap()).unwrap()
}

#[test]
fn damaged_saves_are_refused() {
    let mut cma = isotropic(2, seeded(1));
    advance(&mut cma, sphere);
    let whole = serde_json::to_value(&cma).unwrap();
    for (place, lie) in [
        ("/state/sigma", "-1.0"),
        ("/state/path_c", "[0.0]"),
        ("/state/covariance/values", "[1.0]"),
        ("/state/eigen/lengths", "[0.0, 1.0]"),
        ("/state/mean", "[0.0, 0.0, 0.0]"),
        ("/state/pending", r#"[{"x": [0.0, 0.0], "search": [0.0, 0.0], "injected": false}]"#),
        ("/options/popsize", "1"),
        ("/options/bounds", "[[1.0, 0.0], [0.0, 1.0]]"),
    ] {
        let mut value = whole.clone();
        *value.pointer_mut(place).unwrap() = serde_json::from_str(lie).unwrap();
        assert!(serde_json::from_value::<Cma>(value).is_err(), "{place} = {lie}");
    }
}

/// Any rising transform of the fitness leaves the run as it is.
#[test]
fn only_ranks_matter() {
    let mut rng = Rng::new(Key::new(4, &["transforms"]), 0);
    for seed in 0..20 {
        let (a, b, c) = (10_f64.powf(6.0 * rng.uniform() - 3.0), rng.normal(), rng.uniform());
        let transform = |f: f64| a * (f + c).ln() + b;
        let mut plain = isotropic(4, seeded(seed));
        let mut transformed = plain.clone();
        for _ in 0..15 {
            let candidates = advance(&mut plain, ellipsoid);
            assert_eq!(advance(&mut transformed, |x| transform(ellipsoid(x))), candidates);
        }
        assert_eq!(plain.state.mean, transformed.state.mean);
        assert_eq!(plain.sigma(), transformed.sigma());
        assert_eq!(plain.covariance(), transformed.covariance());
    }
}

#[test]
fn failed_candidates_rank_last() {
    for failure in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        let half = |x: &[f64]| if x[0] < 0.2 { failure } else { sphere(x) };
        let large = |x: &[f64]| if x[0] < 0.2 { 1e30 } else { sphere(x) };
        let (mut failing, mut plain) = (isotropic(6, seeded(2)), isotropic(6, seeded(2)));
        let candidates = advance(&mut failing, half);
        assert_eq!(candidates, advance(&mut plain, large));
        let failed = candidates.iter().filter(|x| x[0] < 0.2).count();
        assert!((1..=plain.parameters().popsize / 2).contains(&failed));
        assert_eq!(failing.state.mean, plain.state.mean);
        assert_eq!(failing.covariance(), plain.covariance());
        for _ in 0..200 {
            advance(&mut failing, half);
        }
        let best = failing.best().unwrap();
        assert!((best.fitness - 0.04).abs() < 1e-3, "{best:?}");
    }
}

#[test]
fn failed_parents_make_no_step_and_failed_generations_none() {
    let mut cma = isotropic(3, seeded(1));
    let (mean, covariance) = (cma.mean(), cma.covariance());
    advance(&mut cma, |_| f64::NAN);
    assert_eq!((cma.mean(), cma.covariance(), cma.sigma()), (mean.clone(), covariance, 0.3));
    assert_eq!((cma.generation(), cma.best()), (1, None));
    let candidates = cma.ask();
    let mut fitness = vec![f64::NAN; candidates.len()];
    fitness[2] = 1.0;
    cma.tell(&candidates, &fitness).unwrap();
    let weight = cma.parameters().weights[0];
    let moved = mean.iter().zip(&candidates[2]).map(|(m, x)| m + weight * (x - m));
    super::assert_close("mean", &cma.mean(), &moved.collect::<Vec<_>>(), 1e-12);
    assert_eq!(cma.best().unwrap().evaluations, candidates.len() + 3);
}

#[test]
fn a_warm_start_keeps_mean_and_shape() {
    let mut first = isotropic(6, seeded(3));
    while first.stop().is_empty() && first.best().is_none_or(|best| best.fitness > 1e-3) {
        advance(&mut first, ellipsoid);
    }
    let mut second = Cma::warm_started(&first, first.sigma(), seeded(4)).unwrap();
    assert_eq!((second.mean(), second.stds()), (first.mean(), first.stds()));
    assert_eq!(second.covariance(), first.covariance());
    assert_eq!((second.generation(), second.best()), (0, None));
    let wider = Cma::warm_started(&first, 2.0 * first.sigma(), seeded(4)).unwrap();
    assert!((wider.stds()[0] / first.stds()[0] - 2.0).abs() < 1e-12);
    let wide = first.stds().into_iter().fold(0.0, f64::max);
    let mut cold = Cma::new(&first.mean(), Covariance::Isotropic, wide, seeded(4)).unwrap();
    let evaluations = |cma: &mut Cma| {
        while cma.best().is_none_or(|best| best.fitness > 1e-9) {
            advance(cma, ellipsoid);
        }
        cma.evaluations()
    };
    assert!(evaluations(&mut second) < evaluations(&mut cold));
}

#[test]
fn starts_that_make_no_sense_are_refused() {
    let start = |mean: &[f64], covariance: Covariance, sigma: f64| {
        Cma::new(mean, covariance, sigma, seeded(1)).unwrap_err()
    };
    let isotropic = || Covariance::Isotropic;
    assert!(matches!(start(&[f64::NAN], isotropic(), 1.0), CmaError::NotFinite { .. }));
    assert!(matches!(start(&[], isotropic(), 1.0), CmaError::Size { .. }));
    assert!(matches!(start(&[0.0], isotropic(), 0.0), CmaError::Sigma(_)));
    assert!(matches!(start(&[0.0], isotropic(), f64::INFINITY), CmaError::Sigma(_)));
    for variances in [vec![1.0, 0.0], vec![1.0, -1.0], vec![f64::NAN, 1.0]] {
        let error = start(&[0.0, 0.0], Covariance::Diagonal(variances), 1.0);
        assert_eq!(error, CmaError::NotPositiveDefinite);
    }
    let indefinite = Covariance::Full(vec![vec![1.0, 2.0], vec![2.0, 1.0]]);
    assert_eq!(start(&[0.0, 0.0], indefinite, 1.0), CmaError::NotPositiveDefinite);
    let ragged = Covariance::Full(vec![vec![1.0], vec![2.0, 1.0]]);
    assert!(matches!(start(&[0.0, 0.0], ragged, 1.0), CmaError::Dimension { .. }));
}

#[test]
fn samples_have_the_covariance_they_were_given() {
    let rows = vec![vec![2.0, 0.8], vec![0.8, 0.5]];
    let options = Options { popsize: Some(20_000), ..seeded(1) };
    let mut cma = Cma::new(&[1.0, -1.0], Covariance::Full(rows.clone()), 0.5, options).unwrap();
    let samples = cma.ask();
    let deviation = |x: &[f64], i: usize| x[i] - [1.0, -1.0][i];
    for (i, j) in [(0, 0), (0, 1), (1, 1)] {
        let sum: f64 = samples.iter().map(|x| deviation(x, i) * deviation(x, j)).sum();
        let expected = 0.25 * rows[i][j];
        assert!((sum / 20_000.0 - expected).abs() < 0.02, "{i} {j}: {sum}");
    }
}

#[test]
fn reasons_to_stop() {
    let stops = |function: fn(&[f64]) -> f64, sigma: f64| {
        let mut cma = Cma::new(&[0.5; 3], Covariance::Isotropic, sigma, seeded(1)).unwrap();
        assert!(cma.stop().is_empty());
        while cma.stop().is_empty() && cma.generation() < 3000 {
            advance(&mut cma, function);
        }
        cma.stop()
    };
    assert!(stops(sphere, 0.3).contains(&StopReason::TolFun));
    assert_eq!(stops(|_| 1.0, 0.3), [StopReason::TolFun]);
    assert!(stops(|x| x[0], 0.3).contains(&StopReason::TolXUp));
    assert!(stops(|x| sphere(x).powf(0.1), 0.3).contains(&StopReason::TolX));
    let narrow = |x: &[f64]| x[0].powi(2) + 1e16 * x[1].powi(2) + x[2].powi(2);
    assert!(stops(narrow, 0.3).contains(&StopReason::Condition));
    let text = serde_json::to_string(&StopReason::TolXUp).unwrap();
    assert_eq!(text, r#""tol_x_up""#);
}

/// Values of two kinds: the range stays, but three quarters of the candidates are equal.
#[test]
fn a_plateau_is_flat_after_two_generations() {
    let mut cma = isotropic(3, seeded(1));
    for reasons in [vec![], vec![StopReason::FlatFitness]] {
        let candidates = cma.ask();
        let mut fitness = vec![1.0; candidates.len()];
        fitness[0] = 2.0;
        cma.tell(&candidates, &fitness).unwrap();
        assert_eq!(cma.stop(), reasons);
    }
}

/// Noise on top of a constant: neither history improves.
#[test]
fn pure_noise_stagnates() {
    let mut rng = Rng::new(Key::new(8, &["noise"]), 0);
    let mut cma = isotropic(3, Options { bounds: vec![(0.0, 1.0); 3], ..seeded(1) });
    while cma.stop().is_empty() && cma.generation() < 5000 {
        let candidates = cma.ask();
        let fitness: Vec<f64> = candidates.iter().map(|_| rng.uniform()).collect();
        cma.tell(&candidates, &fitness).unwrap();
    }
    assert!(cma.stop().contains(&StopReason::Stagnation), "{:?}", cma.stop());
    assert!(cma.stds().iter().all(|std| *std > 1e-6));
}

#[test]
fn one_coordinate_is_enough() {
    let mut cma = isotropic(1, seeded(1));
    while cma.stop().is_empty() {
        advance(&mut cma, sphere);
    }
    assert!(cma.best().unwrap().fitness < 1e-9);
}
