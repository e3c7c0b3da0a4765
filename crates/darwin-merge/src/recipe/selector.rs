//! What a share in a recipe is for: a part of the model, or the mixers of one kind.

use darwin_checkpoint::{Role, TensorInfo};
use darwin_core::{OutOfRange, Part};
use serde::{Deserialize, Serialize};

/// The kind of a layer's mixer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MixerKind {
    /// Linear attention (Gated DeltaNet).
    Linear,
    /// Full attention.
    Full,
}

/// A key of `components:` in a recipe; its name stands for it in files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Selector {
    /// A part of the model; `mixer` is the mixers of both kinds.
    Part(Part),
    /// The mixers of one kind, with the input norms of their layers.
    Mixer(MixerKind),
}

impl From<Part> for Selector {
    fn from(part: Part) -> Self {
        Self::Part(part)
    }
}

impl TryFrom<String> for Selector {
    type Error = OutOfRange;
    fn try_from(name: String) -> Result<Self, OutOfRange> {
        let known = Self::ALL.iter().find(|(_, known)| *known == name);
        known.map(|(selector, _)| *selector).ok_or_else(|| OutOfRange {
            what: "a component",
            found: format!("`{name}`"),
            allowed: "embed, mixer, linear_attn, self_attn, routed, shared, router, norm, lm_head",
        })
    }
}

impl From<Selector> for String {
    fn from(selector: Selector) -> Self {
        selector.name().to_owned()
    }
}

impl Selector {
    /// All selectors with the names used in recipes.
    pub const ALL: [(Self, &'static str); 9] = [
        (Self::Part(Part::Embed), "embed"),
        (Self::Part(Part::Mixer), "mixer"),
        (Self::Mixer(MixerKind::Linear), "linear_attn"),
        (Self::Mixer(MixerKind::Full), "self_attn"),
        (Self::Part(Part::Routed), "routed"),
        (Self::Part(Part::Shared), "shared"),
        (Self::Part(Part::Router), "router"),
        (Self::Part(Part::Norm), "norm"),
        (Self::Part(Part::Head), "lm_head"),
    ];

    /// The name used in recipes.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(selector, _)| *selector == self).map_or("?", |(_, name)| name)
    }

    /// The selectors behind a recipe's key: one, or both kinds of mixers for `attn`, routed and
    /// shared experts for `ffn`. Empty for an unknown key.
    #[must_use]
    pub fn from_key(key: &str) -> Vec<Self> {
        match key {
            "attn" => vec![Self::Mixer(MixerKind::Linear), Self::Mixer(MixerKind::Full)],
            "ffn" => vec![Part::Routed.into(), Part::Shared.into()],
            _ => Self::ALL.iter().filter(|(_, name)| *name == key).map(|(s, _)| *s).collect(),
        }
    }

    /// What decides a tensor's share, the most precise one; `None` for vision, multi-token
    /// prediction and what has no role. `full_attention` is the kind of the tensor's layer.
    #[must_use]
    pub fn of(info: &TensorInfo, full_attention: bool) -> Option<Self> {
        let kind = match info.role {
            Role::LinearAttention => MixerKind::Linear,
            Role::Attention => MixerKind::Full,
            _ if full_attention => MixerKind::Full,
            _ => MixerKind::Linear,
        };
        info.part().map(|part| match part {
            Part::Mixer => Self::Mixer(kind),
            part => Self::Part(part),
        })
    }

    /// Whether what the other selects is selected by this one, too.
    #[must_use]
    pub fn holds(self, other: Self) -> bool {
        let mixers = matches!((self, other), (Self::Part(Part::Mixer), Self::Mixer(_)));
        self == other || mixers
    }

    /// The selectors of a tensor with this most precise one, the more precise first.
    pub(crate) fn and_coarser(self) -> impl Iterator<Item = Self> {
        let coarser = matches!(self, Self::Mixer(_)).then_some(Self::Part(Part::Mixer));
        std::iter::once(self).chain(coarser)
    }
}
