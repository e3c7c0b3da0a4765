//! How large the child is, from the shapes in its manifest.

use crate::run::Run;
use crate::words::magnitude;
use darwin_core::files::ManifestLine;

/// Parameters of the text model, embedding and head included, vision and MTP left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Size {
    pub(crate) total: u64,
    /// Used for one token; absent where the number of experts is not known.
    pub(crate) active: Option<u64>,
}

impl Size {
    /// `5.0 M parameters (1.9 M active)`.
    pub(crate) fn words(self) -> String {
        let active = self.active.filter(|a| *a < self.total);
        let active = active.map(|a| format!(" ({} active per token)", magnitude(a)));
        format!("{} parameters{}", magnitude(self.total), active.unwrap_or_default())
    }
}

/// The size of the child, where there is a manifest.
pub(crate) fn size(run: &Run) -> Option<Size> {
    let manifest = run.manifest.as_ref().ok()?;
    let profile = [&run.child, &run.father, &run.mother].into_iter().find_map(|p| p.as_ref().ok());
    let experts = profile.map(|p| (p.num_experts as u64, p.num_experts_per_tok as u64));
    let text = manifest.tensors.iter().filter(|t| t.role != "vision" && t.role != "mtp");
    let (mut routed, mut rest) = (0, 0);
    for line in text {
        let elements = elements(line, experts.map(|(e, _)| e));
        *(if line.role == "routed_expert" { &mut routed } else { &mut rest }) += elements;
    }
    let active = experts.filter(|(e, _)| *e > 0).map(|(e, k)| rest + routed * k / e);
    Some(Size { total: routed + rest, active })
}

/// Elements of a line; a line for a group of per-expert tensors (`…experts.*.…`) with the shape
/// of one expert counts once for each expert.
pub(crate) fn elements(line: &ManifestLine, experts: Option<u64>) -> u64 {
    let one: u64 = line.shape.iter().map(|d| *d as u64).product();
    let group = line.tensor.contains(".experts.*.") && line.shape.len() == 2;
    if group { one * experts.unwrap_or(1) } else { one }
}
