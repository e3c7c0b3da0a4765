//! Tensor accounting and norm drift (method 5): what can be said without a forward pass.

use super::weights::Watched;
use super::{Family, Loaded, finding};
use crate::Error;
use crate::estimate::above;
use darwin_checkpoint::Error::NotFinite;
use darwin_checkpoint::{Dtype, Role, TensorInfo, TensorSource};
use darwin_core::files::{Finding, Severity};
use darwin_engine::Model;
use std::collections::BTreeMap;

/// A matrix this many times heavier than in both parents, or lighter, has drifted.
const DRIFT: f64 = 1.5;

/// Compares the child's tensors with the structural parent's from their headers, then loads the
/// child, each weight being read once. A child that fails without a forward pass comes back as its
/// findings: of another shape than the father, or with NaN or infinities among its weights.
///
/// # Errors
/// Whatever loading the child brings, non-finite weights excepted: they are findings.
pub fn preflight(
    child: &dyn TensorSource,
    father: &dyn TensorSource,
) -> Result<Result<Loaded, Vec<Finding>>, Error> {
    let mut findings = account(child, father);
    let failed = |findings: &[Finding]| findings.iter().any(|f| f.severity == Severity::Fail);
    let watched = Watched::new(child);
    let load = || match Model::load(&watched.source()) {
        Ok(model) => Ok(Some(model)),
        Err(darwin_engine::Error::Weights(NotFinite { .. })) => Ok(None),
        Err(error) => Err(error),
    };
    let model = if failed(&findings) { None } else { load()? };
    let weights = watched.finish()?;
    findings.extend(weights.findings(child.manifest()));
    Ok(match model {
        Some(model) if !failed(&findings) => Ok(Loaded { model, weights }),
        _ => Err(findings),
    })
}

pub(super) fn account(child: &dyn TensorSource, father: &dyn TensorSource) -> Vec<Finding> {
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
        component: tensor.part().map(|part| part.name().to_owned()),
        ..finding
    }
}

/// Matrices whose norm lies far outside the parents'.
pub(super) fn norm_drift(family: &Family<'_>) -> Vec<Finding> {
    let child = family.child.source;
    let mut findings = Vec::new();
    for (id, info) in child.manifest().ids().zip(child.manifest().tensors()) {
        let matrix = info.rows() > 1 && info.cols() > 1 && info.dtype.is_mergeable();
        let parents = [family.father.source, family.mother.source]
            .map(|parent| parent.manifest().find(&info.name));
        let [Some(father), Some(mother)] = parents else { continue };
        if !matrix {
            continue;
        }
        let [of_child, of_father, of_mother] = family.weights;
        let norms = (of_child.norm(id), of_father.norm(father), of_mother.norm(mother));
        let (Some(c), Some(f), Some(m)) = norms else { continue };
        let (low, high) = (f.min(m), f.max(m));
        if above(c, DRIFT * high) || above(low / DRIFT, c) {
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
    findings
}
