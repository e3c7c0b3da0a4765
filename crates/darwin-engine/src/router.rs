//! The router: which experts a token goes to, and with what gates.

use crate::config::{RouterForm, RouterGroups, RouterScores};
use crate::finite::first_not_finite;
use crate::kernels::{
    LogTotal, Matrix, largest, log_total, multiply, sigmoids, softmax, softmax_of_falling,
};
use crate::team::Team;
use crate::weights::Loader;
use crate::{Config, Error};
use std::sync::Arc;

/// Weights of one layer.
#[derive(Clone, Debug)]
pub(crate) struct Router {
    /// (experts, hidden)
    pub(crate) gate: Matrix,
    /// (experts), for the choice alone; empty where there is none
    e_score_correction_bias: Arc<[f32]>,
}

impl Router {
    pub(crate) fn load(l: &Loader<'_>, config: &Config, prefix: &str) -> Result<Self, Error> {
        let name = |tensor: &str| format!("{prefix}mlp.gate.{tensor}");
        let gate = l.matrix(&name("weight"))?;
        let e_score_correction_bias = match config.router.bias {
            true => l.vector(&name("e_score_correction_bias"), |b| b)?,
            false => Arc::default(),
        };
        Ok(Self { gate, e_score_correction_bias })
    }

    /// Router logits (tokens, experts) of normed hidden states.
    pub(crate) fn logits(&self, team: Team<'_>, x: &[f32], out: &mut [f32]) {
        let hidden = self.gate.depth();
        multiply(team, x.len() / hidden, x, hidden, self.gate.panels(), out, self.gate.columns());
    }

    /// The `k` experts of each row of logits, by falling gate. An expert whose logit is negative
    /// infinity is not chosen. Uses the logits up.
    ///
    /// # Errors
    /// The first row without `k` finite values to choose from, and the value that came in place of
    /// one. Of every other row the experts are distinct and below their number.
    pub(crate) fn select(
        &self,
        form: &RouterForm,
        logits: &mut [f32],
        experts: &mut [u32],
        gates: &mut [f32],
        k: usize,
    ) -> Result<(), (usize, f32)> {
        let num_experts = self.gate.columns();
        if *form == RouterForm::softmax(form.normalised) {
            return select_likely(form.normalised, num_experts, logits, experts, gates, k);
        }
        let mut scores = logits.to_vec();
        match form.scores {
            RouterScores::Softmax => {
                scores.chunks_exact_mut(num_experts).for_each(|row| softmax(row, num_experts, 1.0));
            }
            RouterScores::Sigmoid => sigmoids(&mut scores),
        }
        let rows = logits.chunks_exact_mut(num_experts).zip(scores.chunks_exact(num_experts));
        for (choice, scores) in rows {
            self.to_choice(form, choice, scores, k);
        }
        choose(num_experts, logits, experts, gates, k)?;
        let rows = gates.chunks_exact_mut(k).zip(experts.chunks_exact_mut(k));
        for ((gates, experts), scores) in rows.zip(scores.chunks_exact(num_experts)) {
            to_gates(form, scores, experts, gates);
        }
        Ok(())
    }

    /// From a row of logits to what is compared: scores and biases, negative infinity for what
    /// cannot be chosen.
    fn to_choice(&self, form: &RouterForm, choice: &mut [f32], scores: &[f32], k: usize) {
        for (expert, (choice, score)) in choice.iter_mut().zip(scores).enumerate() {
            if *choice > f32::NEG_INFINITY {
                let bias = self.e_score_correction_bias.get(expert);
                *choice = score + bias.copied().unwrap_or(0.0);
            }
        }
        if let Some(groups) = form.groups {
            keep_groups(groups, choice, k);
        }
    }
}

/// The `k` largest logits of each row, falling, and their gates: the softmax over all experts, or
/// over the chosen ones where gates sum to 1.
fn select_likely(
    normalised: bool,
    num_experts: usize,
    logits: &mut [f32],
    experts: &mut [u32],
    gates: &mut [f32],
    k: usize,
) -> Result<(), (usize, f32)> {
    if normalised {
        choose(num_experts, logits, experts, gates, k)?;
        softmax_of_falling(gates, k);
        return Ok(());
    }
    let totals: Vec<LogTotal> = logits.chunks_exact(num_experts).map(log_total).collect();
    choose(num_experts, logits, experts, gates, k)?;
    for (row, total) in gates.chunks_exact_mut(k).zip(totals) {
        row.iter_mut().for_each(|gate| *gate = total.log_probability(*gate).exp() as f32);
    }
    Ok(())
}

/// The `k` largest values of each row, falling, in `values`, and the experts they belong to.
///
/// # Errors
/// The first row in which one of them is not finite, and that value. A finite value is taken from
/// the row at most once and is found where it stands, so the experts of all other rows are distinct.
fn choose(
    num_experts: usize,
    rows: &mut [f32],
    experts: &mut [u32],
    values: &mut [f32],
    k: usize,
) -> Result<(), (usize, f32)> {
    largest(rows, num_experts, values, experts, k);
    first_not_finite(values, k).map_or(Ok(()), Err)
}

/// Rules out the experts of all groups but the best, the first of equals. Where interventions leave
/// the best groups with less than `k` experts, all groups stay.
fn keep_groups(groups: RouterGroups, choice: &mut [f32], k: usize) {
    let size = choice.len() / groups.count;
    let value = |group: &[f32]| {
        let mut best: Vec<f32> = group.to_vec();
        best.sort_unstable_by(|a, b| b.total_cmp(a));
        best[..groups.best].iter().sum::<f32>()
    };
    let values: Vec<f32> = choice.chunks_exact(size).map(value).collect();
    let mut order: Vec<usize> = (0..groups.count).collect();
    order.sort_by(|a, b| values[*b].total_cmp(&values[*a]));
    let (kept, others) = order.split_at(groups.kept);
    let of_group = |group: &usize| group * size..(group + 1) * size;
    let open = kept.iter().flat_map(of_group).filter(|e| choice[*e] > f32::NEG_INFINITY).count();
    if open >= k {
        others.iter().flat_map(of_group).for_each(|e| choice[e] = f32::NEG_INFINITY);
    }
}

/// The gates of a row's chosen experts, and both by falling gate.
fn to_gates(form: &RouterForm, scores: &[f32], experts: &mut [u32], gates: &mut [f32]) {
    let mut chosen: Vec<(f32, u32)> = experts.iter().map(|e| (scores[*e as usize], *e)).collect();
    chosen.sort_by(|a, b| b.0.total_cmp(&a.0));
    let total = chosen.iter().map(|(score, _)| score).sum::<f32>() + 1e-20;
    let scale = if form.normalised { form.scaling / total } else { form.scaling };
    for ((score, expert), (gate, at)) in chosen.iter().zip(gates.iter_mut().zip(experts)) {
        (*gate, *at) = (score * scale, *expert);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn router(bias: &[f32], experts: usize) -> Router {
        Router {
            gate: Matrix::pack(&vec![0.0; experts], experts, 1),
            e_score_correction_bias: bias.into(),
        }
    }

    fn select(form: RouterForm, bias: &[f32], logits: &[f32], k: usize) -> (Vec<u32>, Vec<f32>) {
        let mut logits = logits.to_vec();
        let (mut experts, mut gates) = (vec![0; k], vec![0.0; k]);
        let router = router(bias, logits.len());
        router.select(&form, &mut logits, &mut experts, &mut gates, k).unwrap();
        (experts, gates)
    }

    #[test]
    fn selection_is_falling_and_keeps_the_first_of_equals() {
        let rows = [[0.0, 2.0, 1.0, 2.0, f32::NEG_INFINITY], [5.0, 6.0, 7.0, 8.0, 9.0]];
        let expected = [[1, 3, 2], [4, 3, 2]];
        for (row, expected) in rows.iter().zip(expected) {
            let (experts, gates) = select(RouterForm::softmax(true), &[], row, 3);
            assert_eq!(experts, expected);
            assert!((gates.iter().sum::<f32>() - 1.0).abs() < 1e-6);
            let (experts, parts) = select(RouterForm::softmax(false), &[], row, 3);
            assert_eq!(experts, expected);
            let total: f32 = row.iter().map(|l| l.exp()).sum();
            for ((gate, part), expert) in gates.iter().zip(&parts).zip(&experts) {
                assert!((part - row[*expert as usize].exp() / total).abs() < 1e-6);
                assert!((gate / gates[0] - part / parts[0]).abs() < 1e-5);
            }
            // the general way gives the same
            let doubled = RouterForm { scaling: 2.0, ..RouterForm::softmax(false) };
            let (experts, twice) = select(doubled, &[], row, 3);
            assert_eq!(experts, expected);
            assert!(twice.iter().zip(&parts).all(|(a, b)| (a - 2.0 * b).abs() < 1e-6));
        }
    }

    #[test]
    fn a_bias_moves_the_choice_and_not_the_gates() {
        let form =
            RouterForm { scores: RouterScores::Sigmoid, bias: true, ..RouterForm::softmax(false) };
        let (experts, gates) = select(form, &[0.9, 0.0, 0.0, 0.0], &[-1.0, 0.0, 1.0, 2.0], 2);
        assert_eq!(experts, [3, 0], "by falling gate, though 0 was chosen first");
        let sigmoid = |x: f32| 1.0 / (1.0 + (-x).exp());
        assert!((gates[0] - sigmoid(2.0)).abs() < 1e-6 && (gates[1] - sigmoid(-1.0)).abs() < 1e-6);
    }

    /// Rows that hold NaN, infinities and too few experts that may be chosen, in every width of the
    /// kernel: an error with the row, or distinct experts below their number.
    #[test]
    fn a_row_without_enough_finite_values_is_an_error() {
        let forms = [
            RouterForm::softmax(true),
            RouterForm::softmax(false),
            RouterForm { scores: RouterScores::Sigmoid, ..RouterForm::softmax(true) },
            RouterForm {
                groups: Some(RouterGroups { count: 1, kept: 1, best: 1 }),
                ..RouterForm::softmax(false)
            },
        ];
        let odd = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY];
        for experts in [4, 5, 8, 12, 32, 60, 64, 65, 128] {
            let good = |i: usize| (i * 7 % 13) as f32;
            for form in forms {
                for odd in odd {
                    for open in [0, 1, 2, 3] {
                        // the second row has `open` finite values
                        let mut logits: Vec<f32> = (0..3 * experts).map(good).collect();
                        for (i, logit) in logits[experts..2 * experts].iter_mut().enumerate() {
                            if i * open / experts == (i + 1) * open / experts {
                                *logit = odd;
                            }
                        }
                        let (mut ids, mut gates) = (vec![9; 6], vec![0.0; 6]);
                        let done = router(&[], experts).select(
                            &form,
                            &mut logits,
                            &mut ids,
                            &mut gates,
                            2,
                        );
                        let masked = odd == f32::NEG_INFINITY && open >= 2;
                        match done {
                            Ok(()) => {
                                assert!(odd != f32::NEG_INFINITY || masked, "{experts} {open}");
                                for pair in ids.chunks(2) {
                                    assert!(pair[0] != pair[1], "{form:?} {odd} {experts} {open}");
                                    assert!(pair.iter().all(|id| (*id as usize) < experts));
                                }
                            }
                            Err((row, value)) => {
                                assert!(row == 1 && !value.is_finite() && !masked);
                            }
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn experts_come_from_the_best_groups() {
        let by = |best| RouterForm {
            groups: Some(RouterGroups { count: 3, kept: 1, best }),
            ..RouterForm::softmax(false)
        };
        let logits = [5.0, 0.0, 4.0, 4.5, 3.0, 1.0];
        assert_eq!(select(by(1), &[], &logits, 2).0, [0, 1], "the group of the best expert");
        let masked = [f32::NEG_INFINITY, 0.0, f32::NEG_INFINITY, 4.5, 3.0, 1.0];
        assert_eq!(select(by(1), &[], &masked, 2).0, [3, 4], "too few are left in any group");
        let sigmoid = RouterForm { scores: RouterScores::Sigmoid, ..by(2) };
        assert_eq!(select(sigmoid, &[], &logits, 2).0, [3, 2], "the group of the two best");
    }
}
