//! Runs in a box.

use super::{advance, ellipsoid, isotropic, sphere};
use crate::cma::{Cma, CmaError, Covariance, Options};

fn boxed(bounds: Vec<(f64, f64)>) -> Options {
    Options { bounds, seed: 7, ..Options::default() }
}

#[test]
fn candidates_never_leave_the_box() {
    let bounds = vec![(0.0, 1.0), (-1e6, 1e6), (0.4, 0.6), (0.499, 0.501)];
    let mut cma = isotropic(4, boxed(bounds.clone()));
    for _ in 0..60 {
        for x in advance(&mut cma, |x| -sphere(x)) {
            let inside = x.iter().zip(&bounds).all(|(v, (low, high))| low <= v && v <= high);
            assert!(inside, "{x:?}");
        }
    }
    let mean = cma.mean();
    assert!(mean.iter().zip(&bounds).all(|(v, (low, high))| low <= v && v <= high));
}

#[test]
fn optimum_at_the_bounds_is_reached() {
    // the optimum of the shifted ellipsoid lies beyond the corner (2, 2, 2, 2)
    let mut cma = isotropic(4, boxed(vec![(-1.0, 2.0); 4]));
    let beyond = |x: &[f64]| ellipsoid(&x.iter().map(|v| v - 3.0).collect::<Vec<_>>());
    while cma.stop().is_empty() && cma.generation() < 1000 {
        advance(&mut cma, beyond);
    }
    let best = cma.best().unwrap();
    assert!(best.x.iter().all(|v| (v - 2.0).abs() < 1e-4), "{best:?}");
    assert!(best.fitness - beyond(&[2.0; 4]) < 1e-3);
}

#[test]
fn optimum_inside_is_found_as_precisely_as_without_bounds() {
    let inner = |x: &[f64]| ellipsoid(&x.iter().map(|v| v - 0.3).collect::<Vec<_>>());
    let mut cma = isotropic(5, boxed(vec![(-1.0, 2.0); 5]));
    while cma.stop().is_empty() && cma.generation() < 2000 {
        advance(&mut cma, inner);
    }
    assert!(cma.best().unwrap().fitness < 1e-9);
}

#[test]
fn standard_deviations_stay_below_a_third_of_the_range() {
    let bounds = vec![(0.0, 1.0), (0.0, 10.0)];
    let start = Cma::new(&[0.5, 5.0], Covariance::Isotropic, 50.0, boxed(bounds)).unwrap();
    assert!((start.stds()[0] - 1.0 / 3.0).abs() < 1e-12);
    assert!((start.stds()[1] - 10.0 / 3.0).abs() < 1e-12);
    let mut cma = start;
    for _ in 0..50 {
        advance(&mut cma, |x| x[0] - 5.0 * x[1]);
        assert!(cma.stds()[0] < 1.0 / 3.0 + 1e-9 && cma.stds()[1] < 10.0 / 3.0 + 1e-9);
    }
}

#[test]
fn a_mean_outside_is_refused() {
    let bounds = boxed(vec![(0.0, 1.0), (0.0, 1.0)]);
    let outside = Cma::new(&[0.5, 1.5], Covariance::Isotropic, 0.1, bounds);
    let expected = CmaError::Outside { index: 1, value: 1.5, low: 0.0, high: 1.0 };
    assert_eq!(outside.unwrap_err(), expected);
}
