//! The share of the mother in every tensor, read from `child/manifest.json`: what was done, not
//! what was asked for.

use darwin_core::files::{Action, InputRef, ManifestLine, MergeManifest, SourceRef};

/// Which parent a model of the manifest is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Parent {
    Father,
    Mother,
}

/// Tells father from mother in the manifest, by the roles that it records.
#[derive(Debug, Default)]
pub(crate) struct Names(Vec<(String, Parent)>);

impl Names {
    /// The names that the manifest gives to the parents.
    pub(crate) fn of(manifest: &MergeManifest) -> Self {
        let parent = |(name, input): (&String, &InputRef)| {
            let parent = match input.role.as_str() {
                "father" => Parent::Father,
                "mother" => Parent::Mother,
                _ => return None,
            };
            Some((name.clone(), parent))
        };
        Self(manifest.inputs.iter().filter_map(parent).collect())
    }

    /// The parent behind a name.
    pub(crate) fn parent(&self, model: &str) -> Option<Parent> {
        self.0.iter().find(|(name, _)| name == model).map(|(_, parent)| *parent)
    }

    /// The mother's shares in an output tensor, from the least to the most: of its experts, where
    /// they have shares of their own. `None` where they cannot be told.
    pub(crate) fn range(&self, line: &ManifestLine) -> Option<[f64; 2]> {
        let number = |name: &str| line.parameters.get(name)?.value.as_f64();
        match (line.action, number("t_min"), number("t_max")) {
            (Action::Blend, Some(low), Some(high)) => Some([low, high]),
            _ => self.share(line).map(|t| [t, t]),
        }
    }

    /// The mother's share in an output tensor, the mean over its experts where they have shares of
    /// their own; `None` where it cannot be told.
    pub(crate) fn share(&self, line: &ManifestLine) -> Option<f64> {
        match line.action {
            Action::Copy | Action::Passthrough => {
                match self.parent(&line.sources.first()?.model)? {
                    Parent::Father => Some(0.0),
                    Parent::Mother => Some(1.0),
                }
            }
            Action::Blend => self.blended(line),
        }
    }

    fn blended(&self, line: &ManifestLine) -> Option<f64> {
        if is_solved(line) {
            return None;
        }
        let given = line.parameters.get("t").or_else(|| line.parameters.get("t_mean"));
        if let Some(t) = given.and_then(|s| s.value.as_f64()) {
            let from_mother = line.method == "slerp"
                && self.parent(&line.sources.first()?.model) == Some(Parent::Mother);
            return Some(if from_mother { 1.0 - t } else { t });
        }
        let weight = |parent: Parent| {
            let source = line.sources.iter().find(|s| self.parent(&s.model) == Some(parent));
            source.and_then(weight_of)
        };
        match (weight(Parent::Father), weight(Parent::Mother)) {
            (Some(f), Some(m)) if f + m != 0.0 => Some(m / (f + m)),
            (None, Some(m)) => Some(m),
            (Some(f), None) => Some(1.0 - f),
            _ => None,
        }
    }
}

/// Whether a tensor was solved from activations: it has a share only where these said too little.
pub(crate) fn is_solved(line: &ManifestLine) -> bool {
    line.method == "regmean"
}

fn weight_of(source: &SourceRef) -> Option<f64> {
    source.parameters.get("weight")?.value.as_f64()
}

/// The decoder layer in a tensor's name: `…layers.3.…`.
pub(crate) fn layer_of(tensor: &str) -> Option<usize> {
    if tensor.starts_with("mtp.") || tensor.contains(".mtp.") || tensor.contains("visual.") {
        return None;
    }
    let rest = tensor.split_once("layers.")?.1;
    rest.split('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_solved_has_no_share() {
        let line = |method: &str| -> ManifestLine {
            serde_json::from_value(serde_json::json!({
                "tensor": "model.layers.0.self_attn.o_proj.weight", "role": "attention",
                "action": "blend", "method": method, "unit": "tensor",
                "parameters": {"t": {"value": 0.5}},
                "sources": [{"model": "f", "tensor": "a"}, {"model": "m", "tensor": "a"}],
                "reason": "a test", "dtype": "BF16", "shape": [2, 2],
            }))
            .expect("a line")
        };
        let names = Names(vec![("f".to_owned(), Parent::Father), ("m".to_owned(), Parent::Mother)]);
        assert_eq!(names.share(&line("linear")), Some(0.5));
        assert_eq!(names.share(&line("regmean")), None);
        assert_eq!(names.range(&line("regmean")), None);
    }

    #[test]
    fn layers_are_found_in_names() {
        assert_eq!(layer_of("model.language_model.layers.12.mlp.gate.weight"), Some(12));
        assert_eq!(layer_of("model.layers.0.mlp.experts.*.up_proj.weight"), Some(0));
        assert_eq!(layer_of("mtp.layers.0.mlp.gate.weight"), None);
        assert_eq!(layer_of("lm_head.weight"), None);
    }
}
