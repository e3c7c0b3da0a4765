//! The plan for people: `--dry-run`.

use super::Plan;
use darwin_core::files::{Action, ManifestLine, Setting};
use std::collections::BTreeMap;

impl Plan {
    /// The plan as lines of text: a line for each output tensor with its parameters, defaults
    /// marked, then what is left out, notes and sizes.
    #[must_use]
    pub fn describe(&self) -> Vec<String> {
        let mut lines: Vec<String> =
            self.lines.iter().map(|line| describe_line(&line.record)).collect();
        lines.extend(self.left_out.iter().map(|(t, why)| format!("left out  {t}: {why}")));
        lines.extend(self.notes.iter().map(|note| format!("note: {note}")));
        let mark = |given: bool| if given { "" } else { " (default)" };
        lines.push(format!(
            "seed {}{}; unit {}{}; numerics {}{}",
            self.seed.unwrap_or(0),
            mark(self.seed.is_some()),
            self.unit.unwrap_or_default().name(),
            mark(self.unit.is_some()),
            self.numerics.name(),
            mark(self.numerics_given)
        ));
        lines.push(format!(
            "{} tensors; reads {}, writes {}",
            self.lines.len(),
            size(self.read_bytes()),
            size(self.written_bytes())
        ));
        lines
    }
}

fn describe_line(line: &ManifestLine) -> String {
    let action = match line.action {
        Action::Blend => line.method.as_str(),
        Action::Copy => "copy",
        Action::Passthrough => "passthrough",
    };
    let sources: Vec<String> = line
        .sources
        .iter()
        .map(|source| match settings(&source.parameters) {
            text if text.is_empty() => source.model.clone(),
            text => format!("{} ({text})", source.model),
        })
        .collect();
    let shared = settings(&line.parameters);
    let shared = if shared.is_empty() { String::new() } else { format!(" [{shared}]") };
    format!(
        "{action:<15} {} {} {:?} <- {}{shared}; unit {}; {}",
        line.tensor,
        line.dtype,
        line.shape,
        sources.join(" + "),
        line.unit,
        line.reason
    )
}

fn settings(settings: &BTreeMap<String, Setting>) -> String {
    let items: Vec<String> = settings
        .iter()
        .map(|(name, setting)| {
            let mark = if setting.default { " (default)" } else { "" };
            format!("{name} {}{mark}", setting.value)
        })
        .collect();
    items.join(", ")
}

/// Bytes for people.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["B", "KiB", "MiB", "GiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}
