//! The parts of a model: the one vocabulary of recipes, profiles, derivatives and reports.

use crate::{ExpertIdx, LayerIdx, OutOfRange};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// A part of a model (method 0, 3.1). Four are parts of every decoder layer, three lie outside the
/// layers. Vision towers and multi-token prediction are no parts: they are never blended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// The token embedding.
    Embed,
    /// Linear or full attention, with the input norm of its layer.
    Mixer,
    /// The routed experts or the dense feed-forward block, with the norm before them.
    Routed,
    /// The shared expert with its gate.
    Shared,
    /// The router with its biases.
    Router,
    /// The final norm.
    Norm,
    /// The output head.
    #[serde(rename = "lm_head")]
    Head,
}

impl Part {
    /// All parts, from the input to the output.
    pub const ALL: [Self; 7] = [
        Self::Embed,
        Self::Mixer,
        Self::Routed,
        Self::Shared,
        Self::Router,
        Self::Norm,
        Self::Head,
    ];

    /// The parts of a decoder layer.
    pub const OF_LAYER: [Self; 4] = [Self::Mixer, Self::Routed, Self::Shared, Self::Router];

    /// The name used in files and tables.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Embed => "embed",
            Self::Mixer => "mixer",
            Self::Routed => "routed",
            Self::Shared => "shared",
            Self::Router => "router",
            Self::Norm => "norm",
            Self::Head => "lm_head",
        }
    }

    /// Whether every decoder layer has one of its own.
    #[must_use]
    pub fn is_of_layer(self) -> bool {
        Self::OF_LAYER.contains(&self)
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Part {
    type Err = OutOfRange;
    fn from_str(name: &str) -> Result<Self, OutOfRange> {
        Self::ALL.into_iter().find(|part| part.name() == name).ok_or_else(|| OutOfRange {
            what: "a part",
            found: format!("`{name}`"),
            allowed: "embed, mixer, routed, shared, router, norm, lm_head",
        })
    }
}

/// The finest part of a model that a share can belong to: a tensor, a matrix of one routed expert,
/// or the row of one expert in a router. Sums over groups are the derivatives of coarser shares.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Group {
    /// The part that it belongs to.
    pub part: Part,
    /// Its decoder layer; none for embedding, head and final norm.
    pub layer: Option<LayerIdx>,
    /// The canonical name of the tensor: `layers.3.mlp.experts.down_proj`, `lm_head.weight`.
    pub tensor: Arc<str>,
    /// The routed expert, for its matrices and for its row of the router (and its bias there).
    pub expert: Option<ExpertIdx>,
}

impl fmt::Display for Group {
    /// `layers.3 routed expert 7 down_proj`, `lm_head`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(layer) = self.layer else { return f.write_str(self.part.name()) };
        write!(f, "layers.{layer} {}", self.part)?;
        if let Some(expert) = self.expert {
            write!(f, " expert {expert}")?;
        }
        let head = format!("layers.{layer}.");
        let name = self.tensor.strip_prefix(&head).unwrap_or(&self.tensor);
        let name = name.strip_prefix("mlp.").unwrap_or(name);
        let name = name.strip_prefix("experts.").unwrap_or(name);
        write!(f, " {}", name.strip_suffix(".weight").unwrap_or(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_files() {
        for part in Part::ALL {
            assert_eq!(part.name().parse::<Part>().unwrap(), part);
            let json = serde_json::to_string(&part).unwrap();
            assert_eq!(json, format!("\"{}\"", part.name()));
            assert_eq!(serde_json::from_str::<Part>(&json).unwrap(), part);
        }
        let key: std::collections::BTreeMap<Part, u8> =
            serde_json::from_str(r#"{"mixer":2,"lm_head":3}"#).unwrap();
        assert_eq!(key[&Part::Mixer] + key[&Part::Head], 5);
        assert!("attn".parse::<Part>().is_err());
    }

    #[test]
    fn groups_are_read_aloud() {
        let group = |part, layer: Option<usize>, tensor: &str, expert: Option<usize>| {
            let (layer, expert) = (layer.map(LayerIdx), expert.map(ExpertIdx));
            Group { part, layer, tensor: tensor.into(), expert }.to_string()
        };
        let down = "layers.3.mlp.experts.down_proj";
        assert_eq!(
            group(Part::Routed, Some(3), down, Some(7)),
            "layers.3 routed expert 7 down_proj"
        );
        let gate = "layers.0.mlp.gate.weight";
        assert_eq!(group(Part::Router, Some(0), gate, Some(1)), "layers.0 router expert 1 gate");
        let norm = "layers.0.input_layernorm.weight";
        assert_eq!(group(Part::Mixer, Some(0), norm, None), "layers.0 mixer input_layernorm");
        assert_eq!(group(Part::Head, None, "lm_head.weight", None), "lm_head");
    }
}
