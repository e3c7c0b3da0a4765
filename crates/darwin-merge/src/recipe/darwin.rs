//! The namespace `darwin:`: shares per layer and component, routers, units, copies
//! (method 2.2, 3.1).

use super::{LayerSpec, RegMean};
use crate::Numerics;
use darwin_checkpoint::{ExpertLayout, Role, Unit};
use darwin_core::{Density, LayerIdx, Share};
use std::collections::BTreeMap;

/// A group of tensors that has a share of its own (method 3.1's table).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// `embed_tokens`, `lm_head`, the final norm.
    Embed,
    /// Linear attention, with the input norm of its layer.
    LinearAttn,
    /// Full attention, with the input norm of its layer.
    SelfAttn,
    /// The routed experts (or the dense MLP), with the norm before them.
    Routed,
    /// The shared expert and its gate.
    Shared,
    /// The router, where its mode is `blend`.
    Router,
}

impl Part {
    /// All parts with the names used in recipes.
    pub const ALL: [(Self, &'static str); 6] = [
        (Self::Embed, "embed"),
        (Self::LinearAttn, "linear_attn"),
        (Self::SelfAttn, "self_attn"),
        (Self::Routed, "routed"),
        (Self::Shared, "shared"),
        (Self::Router, "router"),
    ];

    /// The name used in recipes.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(part, _)| *part == self).map_or("?", |(_, name)| name)
    }

    /// The parts behind a recipe's key: a part, or `attn` and `ffn` for both kinds.
    #[must_use]
    pub fn from_key(key: &str) -> Vec<Self> {
        match key {
            "attn" => vec![Self::LinearAttn, Self::SelfAttn],
            "ffn" => vec![Self::Routed, Self::Shared],
            _ => Self::ALL.iter().filter(|(_, name)| *name == key).map(|(part, _)| *part).collect(),
        }
    }

    /// The part that decides a tensor's share (method 3.1's table); `None` for vision, MTP and
    /// what has no role. `full_attention` is the kind of the tensor's layer.
    #[must_use]
    pub fn of(role: Role, canonical: &str, full_attention: bool) -> Option<Self> {
        let mixer = if full_attention { Self::SelfAttn } else { Self::LinearAttn };
        match role {
            Role::Embedding | Role::Head => Some(Self::Embed),
            Role::LinearAttention => Some(Self::LinearAttn),
            Role::Attention => Some(Self::SelfAttn),
            Role::RoutedExpert | Role::Mlp => Some(Self::Routed),
            Role::SharedExpert => Some(Self::Shared),
            Role::Router => Some(Self::Router),
            Role::Norm if canonical == "norm.weight" => Some(Self::Embed),
            Role::Norm if canonical.contains(".input_layernorm.") => Some(mixer),
            Role::Norm => Some(Self::Routed),
            Role::Vision | Role::Mtp | Role::Other => None,
        }
    }
}

/// How a block's share and a component's share act together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Blocks {
    /// A block's share wins for all its tensors.
    #[default]
    Override,
    /// Components act inside the block as offsets in logit space from the default:
    /// `t = sigmoid(logit t_block + logit t_component - logit default)` (method 3.1).
    Compose,
}

/// The shares of some layers.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerShares {
    /// The layers.
    pub layers: LayerSpec,
    /// Their share, where no component says otherwise.
    pub t: Option<Share>,
    /// Shares of single components in them.
    pub components: BTreeMap<Part, Share>,
    /// Densities of the task vectors in them, where they differ from `darwin.density`.
    pub density: Option<Densities>,
}

/// The share of the mother, per layer and component: `darwin.t`.
#[derive(Clone, Debug, PartialEq)]
pub struct Shares {
    /// Where nothing else decides.
    pub default: Share,
    /// Per component, in all layers.
    pub components: BTreeMap<Part, Share>,
    /// How `layers` and `components` act together.
    pub blocks: Blocks,
    /// Per block of layers; the first entry that holds a layer decides.
    pub layers: Vec<LayerShares>,
}

impl Shares {
    /// One share for everything.
    #[must_use]
    pub fn uniform(t: Share) -> Self {
        Self {
            default: t,
            components: BTreeMap::new(),
            blocks: Blocks::default(),
            layers: Vec::new(),
        }
    }

    /// The densities that a block gives a layer.
    pub(crate) fn density(&self, layer: Option<(LayerIdx, usize)>) -> Option<Densities> {
        self.block(layer).and_then(|entry| entry.density)
    }

    fn block(&self, layer: Option<(LayerIdx, usize)>) -> Option<&LayerShares> {
        let (layer, num_layers) = layer?;
        self.layers.iter().find(|entry| entry.layers.contains(layer, num_layers))
    }

    /// The share of a part in a layer (`None` outside the layers), and the rule that gave it.
    #[must_use]
    pub fn resolve(&self, part: Part, layer: Option<(LayerIdx, usize)>) -> (Share, &'static str) {
        let component = self.components.get(&part).copied();
        let block = self.block(layer);
        if let Some(t) = block.and_then(|entry| entry.components.get(&part)) {
            return (*t, "t of the component in its block");
        }
        match (block.and_then(|entry| entry.t), component) {
            (Some(t), Some(component)) if self.blocks == Blocks::Compose => (
                compose(t, component, self.default),
                "t of the block composed with the component's",
            ),
            (Some(t), _) => (t, "t of the block"),
            (None, Some(component)) => (component, "t of the component"),
            (None, None) => (self.default, "default t"),
        }
    }
}

fn compose(block: Share, component: Share, default: Share) -> Share {
    let logit = |t: Share| (t.get() / (1.0 - t.get())).ln();
    let sum = logit(block) + logit(component) - logit(default);
    // 0 and 1 have infinite logits; where they contradict each other the block wins.
    Share::new(1.0 / (1.0 + (-sum).exp())).unwrap_or(block)
}

/// One of the two parents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parent {
    /// The structural parent.
    Father,
    /// The other one.
    Mother,
}

impl Parent {
    /// The name used in recipes.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Father => "father",
            Self::Mother => "mother",
        }
    }
}

/// Where a block's routers come from (method 2.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RouterMode {
    /// Copied from the father.
    #[default]
    Father,
    /// Copied from the mother.
    Mother,
    /// Averaged by the router's own share.
    Blend,
    /// Each row moves with its expert: averaged by the share of the layer's routed experts.
    RowWithExpert,
    /// Solved by least squares from activations of both parents, as RegMean solves every map.
    Calibrated,
}

impl RouterMode {
    /// All modes with the names used in recipes.
    pub const ALL: [(Self, &'static str); 5] = [
        (Self::Father, "father"),
        (Self::Mother, "mother"),
        (Self::Blend, "blend"),
        (Self::RowWithExpert, "row_with_expert"),
        (Self::Calibrated, "calibrated"),
    ];

    /// The name used in recipes.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(mode, _)| *mode == self).map_or("?", |(_, name)| name)
    }
}

/// The router mode of some layers.
#[derive(Clone, Debug, PartialEq)]
pub struct RouterRule {
    /// The layers.
    pub layers: LayerSpec,
    /// Where their routers come from.
    pub from: RouterMode,
}

/// Tensors that are copied from one parent instead of being merged.
#[derive(Clone, Debug, PartialEq)]
pub struct CopyRule {
    /// Substring of the tensor's name.
    pub filter: Option<String>,
    /// Only in these layers.
    pub layers: Option<LayerSpec>,
    /// Only this part.
    pub part: Option<Part>,
    /// From whom.
    pub from: Parent,
}

/// Densities of the two task vectors, for methods that drop elements.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Densities {
    /// Of the father's task vector.
    pub father: Density,
    /// Of the mother's.
    pub mother: Density,
}

/// What is put into the structural parent's order before models are merged (method 1.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    /// Routed experts, with their router rows and biases.
    Experts,
}

impl Align {
    /// All choices with the names used in recipes.
    pub const ALL: [(Self, &'static str); 1] = [(Self::Experts, "experts")];

    /// The name used in recipes.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Experts => "experts",
        }
    }
}

/// The whole namespace `darwin:`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Darwin {
    /// Whose config, tokenizer, layout, vision and MTP the child gets.
    pub structure: Option<String>,
    /// The father of `t`.
    pub father: Option<String>,
    /// The mother of `t`.
    pub mother: Option<String>,
    /// The share of the mother.
    pub t: Option<Shares>,
    /// Densities of the task vectors.
    pub density: Option<Densities>,
    /// How RegMean and calibrated routers are solved.
    pub regmean: Option<RegMean>,
    /// Routers; the first rule that holds a layer decides, else the father's is copied.
    pub router: Vec<RouterRule>,
    /// What norms, angles, thresholds are taken over.
    pub unit: Option<Unit>,
    /// What is aligned before the merge.
    pub align: Option<Align>,
    /// Copies; the first rule that holds a tensor decides.
    pub copy: Vec<CopyRule>,
    /// Seed of the masks.
    pub seed: Option<u64>,
    /// Whose rounding, masks and dtype rules; native unless set.
    pub numerics: Option<Numerics>,
    /// How routed experts are written; as in the structural parent unless set.
    pub layout: Option<ExpertLayout>,
    /// Only the language model is written, with names and config of its own class.
    pub text_only: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(t: f64) -> Share {
        Share::new(t).unwrap()
    }

    #[test]
    fn composition_mirrors_when_the_parents_are_swapped() {
        for (b, c, d) in [(0.5988, 0.32, 0.8), (0.9, 0.59, 0.8), (0.1, 0.5, 0.3)] {
            let t = compose(share(b), share(c), share(d)).get();
            let mirrored = compose(share(1.0 - b), share(1.0 - c), share(1.0 - d)).get();
            assert!((t + mirrored - 1.0).abs() < 1e-12);
        }
        assert!((compose(share(0.7), share(0.4), share(0.4)).get() - 0.7).abs() < 1e-12);
        assert_eq!(compose(share(1.0), share(0.0), share(0.4)).get(), 1.0);
    }

    #[test]
    fn the_table_of_method_3_1() {
        let part = |name: &str, full| Part::of(darwin_checkpoint::role_of(name).0, name, full);
        assert_eq!(part("layers.3.input_layernorm.weight", true), Some(Part::SelfAttn));
        assert_eq!(part("layers.0.input_layernorm.weight", false), Some(Part::LinearAttn));
        assert_eq!(part("layers.0.post_attention_layernorm.weight", false), Some(Part::Routed));
        assert_eq!(part("norm.weight", false), Some(Part::Embed));
        assert_eq!(part("visual.pos_embed.weight", false), None);
    }
}
