//! Function loss: a domain where the child is worse than both parents (method 5).

use super::finding;
use super::observe::Observed;
use crate::estimate::{above, mean};
use darwin_core::Domain;
use darwin_core::files::{Estimate, Finding, Severity};
use std::collections::{BTreeMap, BTreeSet};

/// Standard errors that count.
const STANDARD_ERRORS: f64 = 3.0;

fn domains(observed: &Observed) -> BTreeSet<&Domain> {
    observed.rows[0].iter().map(|r| &r.domain).collect()
}

/// Nats per answer by domain: father, mother, child.
pub(super) fn nll(observed: &Observed) -> BTreeMap<Domain, [Estimate; 3]> {
    let of = |domain: &Domain, i: usize| {
        let rows = observed.rows[i].iter().filter(|r| r.domain == *domain);
        mean(&rows.map(|r| r.nll).collect::<Vec<_>>())
    };
    domains(observed).into_iter().map(|d| (d.clone(), [0, 1, 2].map(|i| of(d, i)))).collect()
}

pub(super) fn findings(observed: &Observed) -> Vec<Finding> {
    let scores = nll(observed);
    domains(observed)
        .into_iter()
        .filter_map(|domain| {
            let losses = [0, 1].map(|parent| paired(observed, domain, parent));
            let lost = losses
                .iter()
                .all(|d| above(d.value, STANDARD_ERRORS * d.se) && above(d.value, 0.0));
            lost.then(|| describe(domain, &scores[domain], losses))
        })
        .collect()
}

/// The child's NLL minus a parent's, item by item.
fn paired(observed: &Observed, domain: &Domain, parent: usize) -> Estimate {
    let pairs = observed.rows[2].iter().zip(&observed.rows[parent]);
    let differences: Vec<f64> =
        pairs.filter(|(c, _)| c.domain == *domain).map(|(c, p)| c.nll - p.nll).collect();
    mean(&differences)
}

fn describe(domain: &Domain, nll: &[Estimate; 3], losses: [Estimate; 2]) -> Finding {
    let [father, mother, child] = nll.map(|e| e.value);
    let nearer = if losses[0].value <= losses[1].value { losses[0] } else { losses[1] };
    let text = format!(
        "function loss in {domain}: {child:.3} nats per answer, father {father:.3}, mother {mother:.3} \
         (worse than the better-fitting parent by {:.3} ± {:.3})",
        nearer.value, nearer.se
    );
    let advice =
        "move t towards the parent that is better here, or protect the domain in the search";
    Finding {
        domain: Some(domain.clone()),
        size: Some(nearer.value),
        ..finding(Severity::Fail, "function_loss", text, advice)
    }
}
