//! Methods that look at all inputs at once, with their parameters (mergekit.md 2.1).

use super::check::Problems;
use super::lower::{Lowering, Target};
use super::weights::Row;
use super::{Input, Operation, TaskVector};
use crate::methods::Rule;
use crate::methods::formula::Formula;
use crate::methods::span::Span;
use darwin_checkpoint::Problem;
use darwin_core::files::Setting;
use std::collections::BTreeMap;

impl Lowering<'_> {
    pub(super) fn formula(
        &self,
        rule: Rule,
        target: &Target<'_>,
        rows: &[Row],
        settings: &mut BTreeMap<String, Setting>,
        problems: &mut Problems,
    ) -> Option<Operation> {
        let anchored = rule != Rule::Karcher && target.scope.base.is_some();
        let base = if anchored { Some(self.base(target, problems)?) } else { None };
        let models = rows.iter().map(|row| row.input);
        let inputs: Vec<Input> = base.into_iter().chain(models).collect();
        let averages = matches!(rule, Rule::Multislerp | Rule::Karcher);
        let formula = self.bound(rule, target, rows, settings, problems)?;
        Some(match rows {
            [only] if averages => Operation::Copy(only.input),
            _ => Operation::Formula { inputs, formula, anchored },
        })
    }

    /// The formula with its parameters.
    fn bound(
        &self,
        rule: Rule,
        target: &Target<'_>,
        rows: &[Row],
        settings: &mut BTreeMap<String, Setting>,
        problems: &mut Problems,
    ) -> Option<Formula> {
        let mut value = |name: &str| self.shared(target, name, settings, problems);
        let formula = match rule {
            Rule::ModelStock => {
                Formula::Span { rule: Span::ModelStock, by_row: value("filter_wise")? != 0.0 }
            }
            Rule::Nuslerp => {
                let flatten = value("nuslerp_flatten")? != 0.0;
                if value("nuslerp_row_wise")? != 0.0 && !flatten {
                    problems.push(Problem::new(
                        format!(
                            "`nuslerp` of `{}`: `nuslerp_row_wise: true` takes angles between \
                             columns, which is not supported",
                            target.info.name
                        ),
                        "write `nuslerp_row_wise: false`, which takes them between rows",
                    ));
                    return None;
                }
                let weights = [rows.first()?.weight, rows.get(1)?.weight];
                Formula::Span { rule: Span::nuslerp(weights), by_row: !flatten }
            }
            Rule::Multislerp => {
                let eps = value("eps")?;
                let normalize = value("normalize_weights")? != 0.0;
                let sum: f64 = rows.iter().map(|row| row.weight).sum();
                if normalize && sum == 0.0 {
                    problems.push(Problem::new(
                        format!("the weights of tensor `{}` sum to 0", target.info.name),
                        "give other weights, or write `normalize_weights: false`",
                    ));
                    return None;
                }
                let divisor = if normalize { sum } else { 1.0 };
                let weights = rows.iter().map(|row| row.weight / divisor).collect();
                Formula::Span { rule: Span::Multislerp { weights, eps }, by_row: false }
            }
            Rule::Karcher => {
                let (max_iter, tol) = (value("max_iter")? as usize, value("tol")?);
                Formula::Span { rule: Span::Karcher { max_iter, tol }, by_row: false }
            }
            Rule::NearSwap => Formula::NearSwap { t: value("t")? },
            Rule::Ram => Formula::Ram { epsilon: value("epsilon")?, plus: None },
            Rule::RamPlus => {
                let plus = Some([value("r")?, value("alpha")?]);
                Formula::Ram { epsilon: value("epsilon")?, plus }
            }
            Rule::Sce => Formula::Sce { select: value("select_topk")? },
            Rule::Fusion => Formula::Fusion,
        };
        Some(formula)
    }

    /// Chances of `density - epsilon` to `density + epsilon` lie between 0 and 1.
    pub(super) fn check_chances(
        &self,
        target: &Target<'_>,
        vectors: &[TaskVector],
        problems: &mut Problems,
    ) -> Option<()> {
        let fits = |v: &&TaskVector| {
            let whole = v.density <= 0.0 || v.density >= 1.0;
            whole || v.density - v.margin > 0.0 && v.density + v.margin < 1.0
        };
        let Some(vector) = vectors.iter().find(|v| !fits(v)) else { return Some(()) };
        problems.push(Problem::new(
            format!(
                "`{}` of `{}`: the density {} and epsilon {} give chances of {} to {}",
                self.recipe.method.name,
                target.info.name,
                vector.density,
                vector.margin,
                vector.density - vector.margin,
                vector.density + vector.margin
            ),
            "choose a smaller `epsilon`, so that they lie between 0 and 1",
        ));
        None
    }
}
