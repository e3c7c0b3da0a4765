//! The formula: one factorised system for all maps with the same inputs.

use crate::linalg::{Cholesky, product};
use darwin_engine::grams::Gram;
use darwin_merge::RegMean;

/// `G_F + b G_M + r I`, factorised, and `b G_M`.
pub(crate) struct Balance {
    inputs: usize,
    factor: Cholesky,
    mother: Vec<f64>,
}

impl Balance {
    /// Of both parents' matrices; none where they say too little: a parent's has fewer tokens than
    /// inputs, or nothing keeps the system from being singular.
    pub(crate) fn new(father: &Gram, mother: &Gram, settings: &RegMean) -> Option<Self> {
        let inputs = father.inputs();
        if [father, mother].iter().any(|gram| gram.tokens() < inputs as u64) {
            return None;
        }
        let mut sum = reduced(father, settings.off_diagonal);
        let mut mother = reduced(mother, settings.off_diagonal);
        mother.iter_mut().for_each(|v| *v *= settings.b);
        sum.iter_mut().zip(&mother).for_each(|(sum, v)| *sum += v);
        sum.iter_mut().step_by(inputs + 1).for_each(|v| *v += settings.ridge);
        Some(Self { inputs, factor: Cholesky::new(sum, inputs)?, mother })
    }

    /// Solves rows of weights (any number, inputs), from the father's and the mother's, into `out`.
    /// It is `W_F + (W_M - W_F) b G_M A^-1`, which is the formula and leaves equal parents as they
    /// are.
    pub(crate) fn solve(&self, father: &[f32], mother: &[f32], out: &mut [f32]) {
        let pairs = mother.iter().zip(father);
        let delta: Vec<f64> = pairs.map(|(m, f)| f64::from(*m) - f64::from(*f)).collect();
        let mut moved = product(&delta, &self.mother, self.inputs, self.inputs);
        self.factor.solve(&mut moved);
        for ((out, father), moved) in out.iter_mut().zip(father).zip(moved) {
            *out = (f64::from(*father) + moved) as f32;
        }
    }
}

/// Elements beside the diagonal times a factor, then scaled to a mean of 1 on the diagonal.
fn reduced(gram: &Gram, off_diagonal: f64) -> Vec<f64> {
    let n = gram.inputs();
    let trace: f64 = gram.values().iter().step_by(n + 1).sum();
    let scale = if trace > 0.0 { n as f64 / trace } else { 0.0 };
    let mut values: Vec<f64> = gram.values().iter().map(|v| v * scale * off_diagonal).collect();
    let diagonal = values.iter_mut().step_by(n + 1).zip(gram.values().iter().step_by(n + 1));
    diagonal.for_each(|(to, v)| *to = v * scale);
    values
}
