//! The namespace `darwin:` but for the shares: parents, routers, units, copies (method 2.2, 3.1).

use super::{LayerSpec, RegMean, Selector, Shares};
use crate::Numerics;
use darwin_checkpoint::{ExpertLayout, Unit};
use darwin_core::Density;

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
    pub part: Option<Selector>,
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
