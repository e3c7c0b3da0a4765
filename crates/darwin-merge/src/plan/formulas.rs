//! Methods that look at all inputs at once, with their parameters (mergekit 0.1.5, `merge_methods/`).

use super::check::Problems;
use super::lower::{Lowering, Target};
use super::weights::Row;
use super::{Input, Operation, TaskVector};
use crate::methods::Rule;
use crate::methods::axis::Axis;
use crate::methods::formula::Formula;
use crate::methods::span::Span;
use darwin_checkpoint::{Problem, Unit};
use darwin_core::files::Setting;
use std::collections::BTreeMap;

/// Columns of a unit whose products are held in memory: 9 MiB in each of the blocks of a pass.
const MAX_COLUMNS: usize = 1 << 17;

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
                let axis = if value("filter_wise")? != 0.0 { Axis::Rows } else { Axis::Whole };
                Formula::Span { rule: Span::ModelStock, axis }
            }
            Rule::Nuslerp => {
                let flatten = value("nuslerp_flatten")? != 0.0;
                let axis = match (flatten, value("nuslerp_row_wise")? != 0.0) {
                    (true, _) => Axis::Whole,
                    (false, false) => Axis::Rows,
                    (false, true) => self.columns(target, problems)?,
                };
                let weights = [rows.first()?.weight, rows.get(1)?.weight];
                Formula::Span { rule: Span::nuslerp(weights), axis }
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
                Formula::Span { rule: Span::Multislerp { weights, eps }, axis: Axis::Whole }
            }
            Rule::Karcher => {
                let (max_iter, tol) = (value("max_iter")?, value("tol")?);
                if max_iter.fract() != 0.0 {
                    problems.push(Problem::new(
                        format!(
                            "`max_iter` of tensor `{}` is {max_iter}, allowed is a whole number",
                            target.info.name
                        ),
                        "write one number: a gradient gives fractions, which mergekit refuses, too",
                    ));
                    return None;
                }
                let rule = Span::Karcher { max_iter: max_iter as usize, tol };
                Formula::Span { rule, axis: Axis::Whole }
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

    /// The columns of a unit: runs along its first dimension. A coefficient each is held in memory.
    fn columns(&self, target: &Target<'_>, problems: &mut Problems) -> Option<Axis> {
        let info = &target.info;
        let of_expert = info.experts().is_some() && self.recipe.darwin.unit == Some(Unit::Expert);
        let shape = &info.shape[usize::from(of_expert)..];
        let columns = match shape {
            [] | [_] => 1,
            [_, rest @ ..] => rest.iter().product::<usize>().max(1),
        };
        if columns <= MAX_COLUMNS {
            return Some(Axis::Columns(columns));
        }
        problems.push(Problem::new(
            format!(
                "`nuslerp` of `{}` with `nuslerp_row_wise: true` has {columns} columns across its \
                 first dimension, at most {MAX_COLUMNS} are possible",
                info.name
            ),
            "for routed experts write `darwin: {unit: expert}`, else `nuslerp_row_wise: false`",
        ));
        None
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
