//! Tensor accounting, finite weights, norm drift (method 5): what can be said without a forward
//! pass.

use super::{Family, finding};
use crate::Error;
use darwin_checkpoint::{Dtype, Role, TensorId, TensorInfo, TensorSource};
use darwin_core::files::{Finding, Severity};
use std::collections::BTreeMap;

/// Rows read at once, in values.
const TILE_VALUES: usize = 1 << 20;
/// A matrix this many times heavier than in both parents, or lighter, has drifted.
const DRIFT: f64 = 1.5;

/// Compares the child's tensors with the structural parent's and looks for NaN and infinities;
/// nothing needs to be loaded.
///
/// # Errors
/// Whatever reading the child brings, non-finite weights excepted: they are findings.
pub fn preflight(
    child: &dyn TensorSource,
    father: &dyn TensorSource,
) -> Result<Vec<Finding>, Error> {
    let mut findings = account(child, father);
    for (id, info) in child.manifest().ids().zip(child.manifest().tensors()) {
        if !info.dtype.is_mergeable() {
            continue;
        }
        if let Some(problem) = not_finite(child, id)? {
            let place = info.layer.map_or(String::new(), |l| format!("L{l} "));
            findings.push(Finding {
                layer: info.layer.map(|l| l.0),
                component: info.role.component().map(|c| c.name().to_owned()),
                ..finding(
                    Severity::Fail,
                    "nan",
                    format!("{place}{}: {problem}", info.role.name()),
                    "merge again; if it comes back, a parent is damaged",
                )
            });
        }
    }
    Ok(findings)
}

/// A sentence about the first NaN or infinity of a tensor. Checkpoints refuse to read such a weight,
/// other sources hand it out.
fn not_finite(source: &dyn TensorSource, id: TensorId) -> Result<Option<String>, Error> {
    let (mut passed, mut first) = (0, None);
    let read = for_tiles(source, id, &mut |tile| {
        if first.is_none() {
            let place = tile.iter().position(|v| !v.is_finite());
            first = place.map(|i| (passed + i, tile[i]));
        }
        passed += tile.len();
    });
    match read {
        Ok(()) => Ok(first.map(|(element, value)| {
            let name = &source.manifest().get(id).name;
            format!("`{name}` holds {value} at element {element}")
        })),
        Err(error @ darwin_checkpoint::Error::NotFinite { .. }) => Ok(Some(error.to_string())),
        Err(error) => Err(error.into()),
    }
}

fn account(child: &dyn TensorSource, father: &dyn TensorSource) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut absent_parts = [(Role::Vision, 0_usize), (Role::Mtp, 0)];
    let has = |role| child.manifest().tensors().iter().any(|t| t.role == role);
    for expected in father.manifest().tensors() {
        match child.manifest().find(&expected.name).map(|id| child.manifest().get(id)) {
            Some(found) => findings.extend(differs(expected, found)),
            None => {
                let part = absent_parts.iter_mut().find(|(role, _)| *role == expected.role);
                match part {
                    // A child without any vision or MTP was made so on purpose: one warning.
                    Some((role, count)) if !has(*role) => *count += 1,
                    _ => findings.push(lost(expected)),
                }
            }
        }
    }
    findings.extend(changed_dtypes(child, father));
    for (role, count) in absent_parts.into_iter().filter(|(_, count)| *count > 0) {
        let text = format!("the child has none of the father's {count} {} tensors", role.name());
        let advice = "fine for a text-only child; its config must not promise them";
        findings.push(finding(Severity::Warn, "accounting", text, advice));
    }
    for extra in child.manifest().tensors() {
        if father.manifest().find(&extra.name).is_none() {
            let text = format!("`{}` is in the child and not in the father", extra.name);
            let advice = "loaders may skip or refuse it: check which tool added it";
            findings.push(finding(Severity::Warn, "accounting", text, advice));
        }
    }
    findings
}

fn lost(expected: &TensorInfo) -> Finding {
    let text = format!("`{}` is missing in the child", expected.name);
    let advice = "the tool that merged dropped it: loaders will initialise it at random";
    place(expected, finding(Severity::Fail, "accounting", text, advice))
}

fn differs(expected: &TensorInfo, found: &TensorInfo) -> Option<Finding> {
    (expected.shape != found.shape).then(|| {
        let text = format!(
            "`{}` has shape {:?} in the child, {:?} in the father",
            expected.name, found.shape, expected.shape
        );
        let advice = "the child cannot load with the father's config";
        place(expected, finding(Severity::Fail, "accounting", text, advice))
    })
}

/// One note for each change of dtype, however many tensors it met.
fn changed_dtypes(child: &dyn TensorSource, father: &dyn TensorSource) -> Vec<Finding> {
    let mut changes: BTreeMap<(Dtype, Dtype), Vec<&str>> = BTreeMap::new();
    for expected in father.manifest().tensors() {
        let found = child.manifest().find(&expected.name).map(|id| child.manifest().get(id).dtype);
        if let Some(found) = found.filter(|found| *found != expected.dtype) {
            changes.entry((found, expected.dtype)).or_default().push(&expected.name);
        }
    }
    let note = |((found, expected), names): ((Dtype, Dtype), Vec<&str>)| {
        let text = format!(
            "{} tensors are {found} in the child, {expected} in the father: `{}`{}",
            names.len(),
            names[0],
            if names.len() > 1 { ", …" } else { "" }
        );
        finding(Severity::Note, "accounting", text, "fine if the dtype was changed on purpose")
    };
    changes.into_iter().map(note).collect()
}

fn place(tensor: &TensorInfo, finding: Finding) -> Finding {
    Finding {
        layer: tensor.layer.map(|l| l.0),
        component: tensor.role.component().map(|c| c.name().to_owned()),
        ..finding
    }
}

/// Matrices whose norm lies far outside the parents'.
pub(super) fn norm_drift(family: &Family<'_>) -> Result<Vec<Finding>, Error> {
    let child = family.child.source;
    let mut findings = Vec::new();
    for (id, info) in child.manifest().ids().zip(child.manifest().tensors()) {
        let matrix = info.rows() > 1 && info.cols() > 1 && info.dtype.is_mergeable();
        let parents = [family.father.source, family.mother.source].map(|parent| {
            let id = parent.manifest().find(&info.name)?;
            Some((parent, id))
        });
        let [Some(father), Some(mother)] = parents else { continue };
        if !matrix {
            continue;
        }
        let Some(c) = norm(child, id)? else { continue };
        let (Some(f), Some(m)) = (norm(father.0, father.1)?, norm(mother.0, mother.1)?) else {
            continue;
        };
        let (low, high) = (f.min(m), f.max(m));
        if c > DRIFT * high || c < low / DRIFT {
            let text = format!(
                "norm drift: `{}` has norm {c:.3}, its parents {f:.3} and {m:.3}",
                info.name
            );
            let advice = "check lambda and density of the task vectors";
            let found = finding(Severity::Warn, "norm_drift", text, advice);
            findings.push(Finding {
                size: Some(c / high.max(f64::MIN_POSITIVE)),
                ..place(info, found)
            });
        }
    }
    Ok(findings)
}

/// The L2 norm of a tensor; `None` where it is not finite (which is another finding).
fn norm(source: &dyn TensorSource, id: TensorId) -> Result<Option<f64>, Error> {
    let mut sum = 0.0;
    let read = for_tiles(source, id, &mut |tile| {
        sum += tile.iter().map(|v| f64::from(*v) * f64::from(*v)).sum::<f64>();
    });
    match read {
        Ok(()) => Ok(Some(f64::sqrt(sum)).filter(|norm| norm.is_finite())),
        Err(darwin_checkpoint::Error::NotFinite { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn for_tiles(
    source: &dyn TensorSource,
    id: TensorId,
    visit: &mut dyn FnMut(&[f32]),
) -> Result<(), darwin_checkpoint::Error> {
    let plan = source.prepare(id)?;
    let step = (TILE_VALUES / plan.cols.max(1)).max(1);
    let mut tile = Vec::new();
    for start in (0..plan.rows).step_by(step) {
        let rows = start..(start + step).min(plan.rows);
        tile.resize(rows.len() * plan.cols, 0.0);
        source.read_tile(&plan, rows, &mut tile)?;
        visit(&tile);
    }
    Ok(())
}
