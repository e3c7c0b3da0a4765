//! Profiles and comparisons as tables for a terminal.

use darwin_core::Part;
use darwin_core::files::{Comparison, Estimate, LayerComparison, LayerProfile, Profile};
use std::fmt::Write;

/// A profile: one line per layer.
#[must_use]
pub fn profile_summary(profile: &Profile) -> String {
    let c = &profile.calibration;
    let mut text = format!(
        "{} ({}): {} layers, {} of {} experts a token; {} samples, {} tokens ({})\n\n",
        profile.model.name,
        profile.model.architecture,
        profile.layers.len(),
        profile.num_experts_per_tok,
        profile.num_experts,
        c.samples,
        c.tokens,
        c.split
    );
    text.push_str(
        "layer kind    dead cold hot  token H  load H  deff   mixer  routed shared  BI     \n",
    );
    for layer in &profile.layers {
        let _ = writeln!(text, "{}", profile_line(layer));
    }
    let needed = profile.layers.iter().filter_map(|l| l.experts.as_ref()?.undecidable).max();
    if let Some(needed) = needed {
        let _ = writeln!(text, "\n?: undecidable, needs about {needed} tokens");
    }
    let golden: Vec<String> =
        profile.golden_layers.iter().map(|(probe, layer)| format!("{probe} L{layer}")).collect();
    if !golden.is_empty() {
        let _ = writeln!(
            text,
            "\ngolden layers (literal; largest near the output whatever the model): {}",
            golden.join(", ")
        );
    }
    let _ = writeln!(text, "\n{}", nll_lines("nats per answer", &[("", &profile.nll)]));
    let _ = writeln!(text, "cost: {} forward tokens", profile.forward_tokens);
    text
}

fn profile_line(layer: &LayerProfile) -> String {
    let experts = layer.experts.as_ref();
    let count = |n: Option<usize>| n.map_or_else(|| "-".to_owned(), |n| n.to_string());
    let decidable = experts.filter(|e| e.undecidable.is_none());
    let undecidable = experts.is_some() && decidable.is_none();
    let dead = if undecidable { "?".to_owned() } else { count(decidable.map(|e| e.dead.len())) };
    let routing = layer.routing.as_ref();
    let number = |v: Option<f64>| v.map_or_else(|| "-".to_owned(), |v| format!("{v:.2}"));
    let importance = |part: Part| {
        layer.importance.get(&part).map_or_else(|| "-".to_owned(), |e| format!("{:.3}", e.value))
    };
    format!(
        "L{:<4} {:<7} {:>4} {:>4} {:>3}  {:>7}  {:>6}  {:>4}   {:<6} {:<6} {:<6}  {:.3}",
        layer.layer,
        layer.kind.trim_end_matches("_attention"),
        dead,
        count(experts.map(|e| e.cold.len())),
        count(experts.map(|e| e.hot.len())),
        number(routing.map(|r| r.token_entropy.value)),
        number(routing.map(|r| r.load_entropy)),
        experts.map_or_else(|| "-".to_owned(), |e| format!("{:.1}", e.deff)),
        importance(Part::Mixer),
        importance(Part::Routed),
        importance(Part::Shared),
        layer.block_influence.value
    )
}

/// A comparison: one line per layer. Above zero = mother better.
#[must_use]
pub fn comparison_summary(comparison: &Comparison) -> String {
    let mut text = format!(
        "father {}, mother {}; {} samples, {} tokens\n\n",
        comparison.father.name,
        comparison.mother.name,
        comparison.calibration.samples,
        comparison.calibration.tokens
    );
    text.push_str("advantage of the mother, nats per answer (above 0: mother better)\n");
    text.push_str("layer delta   rank   jaccard KL     advantage           components\n");
    for layer in &comparison.layers {
        let _ = writeln!(text, "{}", comparison_line(layer));
    }
    let parents = [("father", &comparison.father_nll), ("mother", &comparison.mother_nll)];
    let _ = writeln!(text, "\n{}", nll_lines("nats per answer", &parents));
    let ranks: Vec<String> = comparison
        .rank_correlations
        .iter()
        .map(|(name, rho)| format!("{name} {rho:+.2}"))
        .collect();
    if !ranks.is_empty() {
        let _ = writeln!(text, "rank correlation with the advantage: {}", ranks.join(", "));
    }
    for flag in &comparison.flags {
        let _ = writeln!(text, "! {flag}");
    }
    let _ = writeln!(text, "cost: {} forward tokens", comparison.forward_tokens);
    text
}

fn comparison_line(layer: &LayerComparison) -> String {
    let largest = layer.deltas.values().map(|d| d.relative).fold(0.0, f64::max);
    let rank = layer.deltas.values().map(|d| d.effective_rank).fold(0.0, f64::max);
    let number = |e: Option<Estimate>| e.map_or_else(|| "-".into(), |e| format!("{:.3}", e.value));
    let parts: Vec<String> = layer
        .advantage
        .components
        .iter()
        .map(|(part, a)| format!("{part} {:+.3} ± {:.3}", a.value, a.se))
        .collect();
    format!(
        "L{:<4} {largest:<7.3} {rank:<6.1} {:<7} {:<6} {:<19} {}",
        layer.layer,
        number(layer.jaccard),
        number(layer.router_kl),
        format!("{:+.4} ± {:.4}", layer.advantage.total.value, layer.advantage.total.se),
        parts.join("; ")
    )
}

type Nll<'a> = &'a std::collections::BTreeMap<darwin_core::Domain, Estimate>;

/// Domains side by side, one line per model.
fn nll_lines(title: &str, models: &[(&str, Nll<'_>)]) -> String {
    let lines = models.iter().map(|(name, nll)| {
        let values: Vec<String> =
            nll.iter().map(|(d, e)| format!("{d} {:.3} ± {:.3}", e.value, e.se)).collect();
        format!("{title} {name}{}{}", if name.is_empty() { "" } else { ": " }, values.join(", "))
    });
    lines.collect::<Vec<_>>().join("\n")
}
