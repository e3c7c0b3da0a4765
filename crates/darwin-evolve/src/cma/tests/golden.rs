//! Against pycma's own numbers (`tools/oracle/pycma.py`, cma 4.5.0).

use super::super::state::Pending;
use super::assert_close;
use crate::cma::{Cma, Covariance, Options, Parameters, StopReason};
use serde::Deserialize;

#[derive(Deserialize)]
struct ParametersFile {
    parameters: Vec<Strategy>,
}

#[derive(Deserialize)]
struct Strategy {
    n: usize,
    popsize: usize,
    mu: usize,
    mu_eff: f64,
    weights: Vec<f64>,
    weights_not_active: Vec<f64>,
    cc: f64,
    cs: f64,
    c1: f64,
    cmu: f64,
    damps: f64,
    chi_n: f64,
}

#[test]
fn parameters_equal_pycma() {
    let text = include_str!("../../../../darwin-testkit/fixtures/golden/cma/parameters.json");
    let file: ParametersFile = serde_json::from_str(text).unwrap();
    assert!(file.parameters.len() >= 3);
    for expected in file.parameters {
        let popsize = crate::cma::default_popsize(expected.n);
        assert_eq!(popsize, expected.popsize);
        let p = Parameters::new(expected.n, popsize, true);
        assert_eq!(p.mu, expected.mu);
        let found = [p.mueff, p.cc, p.cs, p.c1, p.cmu, p.damps];
        let Strategy { mu_eff, cc, cs, c1, cmu, damps, .. } = expected;
        assert_close("constants", &found, &[mu_eff, cc, cs, c1, cmu, damps], 1e-9);
        // pycma approximates it above 6 coordinates, this is exact
        assert_close("chi_n", &[p.chi_n], &[expected.chi_n], 1e-5);
        assert_close("weights", &p.weights, &expected.weights, 1e-9);
        let passive = Parameters::new(expected.n, popsize, false);
        assert_close("passive", &passive.weights, &expected.weights_not_active, 1e-9);
    }
}

#[derive(Deserialize)]
struct TrajectoriesFile {
    trajectories: Vec<Trajectory>,
}

#[derive(Deserialize)]
struct Trajectory {
    active: bool,
    initial: Distribution,
    strategy: Popsize,
    generations: Vec<Generation>,
}

#[derive(Deserialize)]
struct Popsize {
    popsize: usize,
}

#[derive(Deserialize)]
struct Generation {
    x: Vec<Vec<f64>>,
    f: Vec<f64>,
    #[serde(flatten)]
    after: Distribution,
}

#[derive(Deserialize)]
#[expect(non_snake_case, reason = "the names of the file")]
struct Distribution {
    mean: Vec<f64>,
    sigma: f64,
    C: Vec<Vec<f64>>,
    pc: Vec<f64>,
    ps: Vec<f64>,
}

impl Distribution {
    fn compare(&self, cma: &Cma, tolerance: f64) {
        assert_close("mean", &cma.mean(), &self.mean, tolerance);
        assert_close("sigma", &[cma.sigma()], &[self.sigma], tolerance);
        assert_close("C", &cma.covariance().concat(), &self.C.concat(), tolerance);
        assert_close("pc", &cma.state.path_c, &self.pc, tolerance);
        assert_close("ps", &cma.state.path_sigma, &self.ps, tolerance);
    }
}

#[test]
fn states_after_tells_equal_pycma() {
    let text = include_str!("../../../../darwin-testkit/fixtures/golden/cma/trajectories.json");
    let file: TrajectoriesFile = serde_json::from_str(text).unwrap();
    assert!(file.trajectories.iter().any(|t| t.active));
    assert!(file.trajectories.iter().any(|t| !t.active));
    for run in file.trajectories {
        let Distribution { mean, sigma, C: covariance, .. } = &run.initial;
        let popsize = Some(run.strategy.popsize);
        let options = Options { popsize, active: run.active, ..Options::default() };
        let covariance = Covariance::Full(covariance.clone());
        let mut cma = Cma::new(mean, covariance, *sigma, options).unwrap();
        run.initial.compare(&cma, 1e-12);
        for generation in &run.generations {
            cma.state.pending = asked(&generation.x);
            cma.tell(&generation.x, &generation.f).unwrap();
            generation.after.compare(&cma, 1e-9);
        }
        assert_eq!(cma.stop(), Vec::<StopReason>::new());
    }
}

/// The recorded candidates, as if this run had asked them: pycma's were its own samples, which it
/// does not shorten.
fn asked(candidates: &[Vec<f64>]) -> Vec<Pending> {
    let own = |x: &Vec<f64>| Pending { x: x.clone(), search: x.clone(), injected: false };
    candidates.iter().map(own).collect()
}
