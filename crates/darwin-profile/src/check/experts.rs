//! Dead experts: inherited with the router, or new (method 2.1, 5).

use super::observe::Observed;
use super::{Family, finding};
use crate::Error;
use crate::profile::counters::SampleRow;
use crate::profile::loads::Loads;
use darwin_checkpoint::{TensorSource, read_tensor};
use darwin_core::files::{Finding, Severity};

/// Dead experts of father, mother and child per layer; `None` in a dense layer and where a model's
/// sample is too small.
pub(super) fn dead(observed: &Observed) -> Vec<Option<[Vec<usize>; 3]>> {
    (0..observed.num_layers())
        .map(|layer| {
            let of = |i: usize| loads(observed, i, layer)?.dead();
            Some([of(0)?, of(1)?, of(2)?])
        })
        .collect()
}

/// Relative loads of the child's experts.
pub(super) fn relative_load(observed: &Observed, layer: usize) -> Vec<f64> {
    loads(observed, 2, layer).map(|l| l.relative().to_vec()).unwrap_or_default()
}

fn loads(observed: &Observed, model: usize, layer: usize) -> Option<Loads> {
    let rows: Vec<&SampleRow> = observed.rows[model].iter().collect();
    observed
        .has_experts(layer)
        .then(|| Loads::new(&rows, layer, observed.num_experts, observed.top_k))
}

/// New and inherited dead experts of every layer. Only the routers of layers with experts that are
/// dead in a parent too are read again.
pub(super) fn findings(
    family: &Family<'_>,
    dead: &[Option<[Vec<usize>; 3]>],
) -> Result<Vec<Finding>, Error> {
    let mut findings = Vec::new();
    for (layer, dead) in dead.iter().enumerate() {
        let Some(dead) = dead else { continue };
        let [father, mother, child] = dead;
        let (new, known): (Vec<usize>, Vec<usize>) =
            child.iter().copied().partition(|j| !father.contains(j) && !mother.contains(j));
        if !new.is_empty() {
            findings.push(describe(layer, &new, "new_dead", "dead in neither parent", None));
        }
        if known.is_empty() {
            continue;
        }
        let Some(supplier) = router_supplier(family, layer)? else { continue };
        let inherited: Vec<usize> =
            known.into_iter().filter(|j| dead[supplier].contains(j)).collect();
        if !inherited.is_empty() {
            let parent = ["father", "mother"][supplier];
            let alive = inherited.iter().filter(|j| !dead[1 - supplier].contains(j)).count();
            findings.push(describe(layer, &inherited, "inherited_dead", parent, Some(alive)));
        }
    }
    Ok(findings)
}

/// The parent that a layer's router is nearest to (0 father, 1 mother): it supplied the router,
/// whoever merged.
fn router_supplier(family: &Family<'_>, layer: usize) -> Result<Option<usize>, Error> {
    let name = format!("layers.{layer}.mlp.gate.weight");
    let read = |source: &dyn TensorSource| {
        let id = source.manifest().find(&name);
        id.map(|id| read_tensor(source, id)).transpose()
    };
    let child = read(family.child.source)?;
    let parents = [read(family.father.source)?, read(family.mother.source)?];
    let (Some(child), [Some(father), Some(mother)]) = (child, parents) else {
        return Ok(None);
    };
    let distance = |parent: &[f32]| -> f64 {
        child.iter().zip(parent).map(|(a, b)| f64::from(a - b).powi(2)).sum()
    };
    Ok(Some(usize::from(distance(&mother) < distance(&father))))
}

/// `alive_elsewhere`: of inherited dead experts, how many live in the other parent.
fn describe(
    layer: usize,
    experts: &[usize],
    check: &str,
    whose: &str,
    alive_elsewhere: Option<usize>,
) -> Finding {
    let list: Vec<String> = experts.iter().map(usize::to_string).collect();
    let (severity, text, advice) = match alive_elsewhere {
        None => (
            Severity::Warn,
            format!("L{layer} new dead experts {}: {whose}", list.join(", ")),
            "take router and routed experts of this layer from the same parent",
        ),
        Some(alive) => (
            if alive > 0 { Severity::Warn } else { Severity::Note },
            format!(
                "L{layer} inherited dead experts {}: dead in the {whose}, who supplied the router; {alive} of them live in the other parent",
                list.join(", ")
            ),
            "take router rows together with the experts from the parent where they live",
        ),
    };
    Finding {
        layer: Some(layer),
        component: Some("routed".to_owned()),
        size: Some(experts.len() as f64),
        ..finding(severity, check, text, advice)
    }
}
