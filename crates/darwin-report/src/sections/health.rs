//! The health check's findings (method 5).

use super::verdict::verdict_word;
use crate::run::{Part, Run};
use crate::words::estimate;
use darwin_core::files::{Finding, Health, Severity};
use serde::Serialize;

/// The section.
#[derive(Debug, Serialize)]
pub(crate) struct Checkup {
    pub(crate) verdict: &'static str,
    pub(crate) findings: Vec<Row>,
    pub(crate) checks: Vec<(String, String)>,
    pub(crate) nll: Vec<(String, [String; 3])>,
    pub(crate) kl: [String; 2],
    pub(crate) same_top: [String; 2],
}

/// One finding.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) severity: &'static str,
    pub(crate) check: String,
    pub(crate) place: String,
    pub(crate) text: String,
    pub(crate) advice: String,
}

/// Makes the section.
pub(crate) fn checkup(run: &Run) -> Part<Checkup> {
    run.health.as_ref().map(body).map_err(Clone::clone)
}

fn body(health: &Health) -> Checkup {
    let mut findings: Vec<&Finding> = health.findings.iter().collect();
    findings.sort_by_key(|f| std::cmp::Reverse(f.severity));
    let nll = health.nll.iter().map(|(d, e)| (d.to_string(), e.map(estimate)));
    Checkup {
        verdict: verdict_word(health.verdict),
        findings: findings.into_iter().map(row).collect(),
        checks: health.checks.iter().map(|(k, v)| (k.replace('_', " "), v.clone())).collect(),
        nll: nll.collect(),
        kl: health.kl.map(estimate),
        same_top: health.same_top.map(estimate),
    }
}

fn row(finding: &Finding) -> Row {
    let layer = finding.layer.map(|l| format!("layer {l}"));
    let domain = finding.domain.as_ref().map(ToString::to_string);
    let place = [layer, finding.component.clone(), domain];
    Row {
        severity: match finding.severity {
            Severity::Note => "note",
            Severity::Warn => "warn",
            Severity::Fail => "fail",
        },
        check: finding.check.replace('_', " "),
        place: place.into_iter().flatten().collect::<Vec<_>>().join(", "),
        text: finding.text.clone(),
        advice: finding.advice.clone(),
    }
}
