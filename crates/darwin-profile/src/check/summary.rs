//! A health check as a table for the terminal.

use crate::estimate::shown;
use darwin_core::Part;
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
    if health.layers.is_empty() {
        text.push_str("\nnothing that takes a forward pass was measured\n");
        return text;
    }
    let _ = writeln!(
        text,
        "\nlayer  mixer F/M/child      routed F/M/child     jaccard F/M   off segment"
    );
    for layer in &health.layers {
        let three = |part: Part| {
            let values = layer.importance.get(&part).map(|v| v.map(|e| e.value));
            values.map_or("-".to_owned(), |three| three.map(|v| shown(v, 3)).join(" "))
        };
        let jaccard =
            layer.router_jaccard.map_or("-".to_owned(), |both| both.map(|j| shown(j, 2)).join(" "));
        let _ = writeln!(
            text,
            "{:>5}  {:<19}  {:<19}  {:<12}  {}",
            layer.layer,
            three(Part::Mixer),
            three(Part::Routed),
            jaccard,
            shown(layer.off_segment, 3)
        );
    }
    let [kf, km] = health.kl;
    let [tf, tm] = health.same_top;
    let _ = writeln!(
        text,
        "\nnext token: KL from father {} ± {}, from mother {} ± {} nats; same top token {} % and {} %",
        shown(kf.value, 3),
        shown(1.96 * kf.se, 3),
        shown(km.value, 3),
        shown(1.96 * km.se, 3),
        shown(100.0 * tf.value, 1),
        shown(100.0 * tm.value, 1)
    );
    text
}
