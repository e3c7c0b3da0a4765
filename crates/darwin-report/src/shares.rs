//! The share of the mother in every tensor, read from `child/manifest.json`: what was done, not
//! what was asked for.

use crate::run::Run;
use darwin_core::files::{Action, ManifestLine, MergeManifest, SourceRef};

/// Which parent a model of the manifest is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Parent {
    Father,
    Mother,
}

/// Tells father from mother in the manifest: by the hash of config and headers, else by name.
#[derive(Debug, Default)]
pub(crate) struct Names {
    father: Vec<String>,
    mother: Vec<String>,
}

impl Names {
    /// The names that the manifest gives to the parents of the run.
    pub(crate) fn of(run: &Run, manifest: &MergeManifest) -> Self {
        let (father, mother) = parents(run);
        let names = |known: &[(String, String)], word: &str| {
            let mut names = vec![word.to_owned()];
            names.extend(known.iter().map(|(name, _)| name.clone()));
            let by_hash = manifest.inputs.iter().filter(|(_, hash)| {
                known.iter().any(|(_, known)| !known.is_empty() && known == *hash)
            });
            names.extend(by_hash.map(|(name, _)| name.clone()));
            names
        };
        Self { father: names(&father, "father"), mother: names(&mother, "mother") }
    }

    /// The parent behind a name; the last part of a path decides where nothing else does.
    pub(crate) fn parent(&self, model: &str) -> Option<Parent> {
        let last = model.trim_end_matches('/').rsplit('/').next().unwrap_or(model);
        let is = |names: &[String], name: &str| names.iter().any(|n| n == name);
        for name in [model, last] {
            match (is(&self.father, name), is(&self.mother, name)) {
                (true, false) => return Some(Parent::Father),
                (false, true) => return Some(Parent::Mother),
                _ => {}
            }
        }
        None
    }

    /// The mother's share in an output tensor; `None` where it cannot be told.
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
        if let Some(t) = line.parameters.get("t").and_then(|s| s.value.as_f64()) {
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

/// (name, hash) of every mention of the father and of the mother in the run.
#[expect(clippy::type_complexity, reason = "two lists of pairs, used once")]
fn parents(run: &Run) -> (Vec<(String, String)>, Vec<(String, String)>) {
    let (mut father, mut mother) = (Vec::new(), Vec::new());
    let mut add = |f: Option<&darwin_core::files::ModelRef>, m: Option<&_>| {
        father.extend(f.map(|r| (r.name.clone(), r.headers_sha256.clone())));
        mother.extend(
            m.map(|r: &darwin_core::files::ModelRef| (r.name.clone(), r.headers_sha256.clone())),
        );
    };
    let profile = |p: &'_ crate::run::Part<darwin_core::files::Profile>| {
        p.as_ref().ok().map(|p| p.model.clone())
    };
    add(profile(&run.father).as_ref(), profile(&run.mother).as_ref());
    if let Ok(c) = &run.comparison {
        add(Some(&c.father), Some(&c.mother));
    }
    if let Ok(h) = &run.health {
        add(Some(&h.father), Some(&h.mother));
    }
    (father, mother)
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
    fn layers_are_found_in_names() {
        assert_eq!(layer_of("model.language_model.layers.12.mlp.gate.weight"), Some(12));
        assert_eq!(layer_of("model.layers.0.mlp.experts.*.up_proj.weight"), Some(0));
        assert_eq!(layer_of("mtp.layers.0.mlp.gate.weight"), None);
        assert_eq!(layer_of("lm_head.weight"), None);
    }
}
