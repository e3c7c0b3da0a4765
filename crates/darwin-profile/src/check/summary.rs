//! A health check as a table for the terminal.

use darwin_core::files::{Health, Severity, Verdict};
use std::fmt::Write;

/// The verdict, what was found, and one line per layer.
#[must_use]
pub fn health_summary(health: &Health) -> String {
    let mut text = String::new();
    let verdict = match health.verdict {
        Verdict::Pass => "pass",
        Verdict::Warn => "warn",
        Verdict::Fail => "FAIL",
    };
    let _ = writeln!(text, "{}: {verdict}", health.child.name);
    for finding in &health.findings {
        let mark = match finding.severity {
            Severity::Note => "note",
            Severity::Warn => "warn",
            Severity::Fail => "FAIL",
        };
        let _ = writeln!(text, "  {mark}  {}\n        try: {}", finding.text, finding.advice);
    }
    let _ = writeln!(
        text,
        "\nlayer  mixer F/M/child      routed F/M/child     jaccard F/M   off segment"
    );
    for layer in &health.layers {
        let three = |name: &str| {
            let values = layer.importance.get(name).map(|v| v.map(|e| e.value));
            values.map_or("-".to_owned(), |[f, m, c]| format!("{f:.3} {m:.3} {c:.3}"))
        };
        let jaccard =
            layer.router_jaccard.map_or("-".to_owned(), |[f, m]| format!("{f:.2} {m:.2}"));
        let _ = writeln!(
            text,
            "{:>5}  {:<19}  {:<19}  {:<12}  {:.3}",
            layer.layer,
            three("mixer"),
            three("routed"),
            jaccard,
            layer.off_segment
        );
    }
    let [kf, km] = health.kl;
    let [tf, tm] = health.same_top;
    let _ = writeln!(
        text,
        "\nnext token: KL from father {:.3} ± {:.3}, from mother {:.3} ± {:.3} nats; same top token {:.1} % and {:.1} %",
        kf.value,
        1.96 * kf.se,
        km.value,
        1.96 * km.se,
        100.0 * tf.value,
        100.0 * tm.value
    );
    text
}
