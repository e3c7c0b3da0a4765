//! What will be done to every tensor, decided from headers alone (method 4).

mod bind;
mod blend;
mod check;
mod check_shares;
mod child;
mod depth;
mod describe;
mod each;
mod extent;
mod formulas;
mod lower;
mod order;
mod scope;
mod solved;
mod weights;

use crate::Numerics;
use crate::methods::Sparsifier;
use crate::methods::formula::Formula;
use crate::numerics::Rounding;
use darwin_checkpoint::{Dtype, Layout, TensorId, TensorInfo, Unit};
use darwin_core::ARITHMETIC;
use darwin_core::files::{InputRef, ManifestLine, MergeManifest, SCHEMA};
use std::collections::BTreeMap;

pub(crate) use bind::plan;
pub(crate) use describe::size;
pub(crate) use each::Each;

/// A tensor of one of the sources.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Input {
    /// Which source.
    pub(crate) source: usize,
    /// Which of its tensors.
    pub(crate) id: TensorId,
}

/// A task vector: the difference of a model from the base, with its coefficients.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TaskVector {
    pub(crate) input: Input,
    pub(crate) weight: f64,
    pub(crate) density: f64,
    /// `gamma` of breadcrumbs, `epsilon` of DELLA, else 0.
    pub(crate) margin: f64,
    /// Names the stream of its random numbers: its position among the recipe's task vectors, so
    /// that masks do not depend on where the models lie.
    pub(crate) stream: usize,
    /// Where its words begin in mergekit's stream.
    pub(crate) first_word: u64,
}

/// What is computed for one output tensor.
#[derive(Clone, Debug)]
pub(crate) enum Operation {
    /// Values unchanged, but for the output's dtype.
    Copy(Input),
    /// One tensor times a number.
    Scale(Input, f32),
    /// A weighted sum, divided by `divisor`; `convex` where the weights sum to 1, so that equal
    /// inputs stay as they are. Native weights are divided already.
    Linear { terms: Vec<(Input, f32)>, convex: bool, divisor: Option<f32> },
    /// Along the arc from the first to the second.
    Slerp { inputs: [Input; 2], t: f64 },
    /// All inputs at once; where it is anchored, the first is the base.
    Formula { inputs: Vec<Input>, formula: Formula, anchored: bool },
    /// The base plus task vectors.
    TaskVectors {
        base: Input,
        vectors: Vec<TaskVector>,
        sparsifier: Sparsifier,
        consensus: bool,
        normalize: bool,
        rescale: bool,
        lambda: f32,
    },
    /// Somebody else computes the values from activations of both parents; where these say too
    /// little, they are a blend with so much of the mother.
    Solved { father: Input, mother: Input, anchor: f64 },
}

impl Operation {
    /// Whether somebody else computes the values.
    pub(crate) fn is_solved(&self) -> bool {
        matches!(self, Self::Solved { .. })
    }

    /// All tensors that are read.
    pub(crate) fn inputs(&self) -> Vec<Input> {
        match self {
            Self::Copy(input) | Self::Scale(input, _) => vec![*input],
            Self::Linear { terms, .. } => terms.iter().map(|(input, _)| *input).collect(),
            Self::Slerp { inputs, .. } => inputs.to_vec(),
            Self::Formula { inputs, .. } => inputs.clone(),
            Self::Solved { father, mother, .. } => vec![*father, *mother],
            Self::TaskVectors { base, vectors, .. } => {
                std::iter::once(*base).chain(vectors.iter().map(|v| v.input)).collect()
            }
        }
    }
}

/// One output tensor.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    /// The output tensor, by canonical name.
    pub(crate) info: TensorInfo,
    /// How it is computed.
    pub(crate) operation: Operation,
    /// Shares that differ within the tensor, in place of the operation's own; both parents' terms
    /// are there then.
    pub(crate) each: Option<Each>,
    /// What its statistics are taken over.
    pub(crate) unit: Unit,
    /// Dtype that inputs are rounded to when they are loaded.
    pub(crate) load: Option<Dtype>,
    /// What its steps are rounded to.
    pub(crate) rounding: Rounding,
    /// The line for people and for `manifest.json`.
    pub(crate) record: ManifestLine,
}

/// The plan of a merge: one line for every output tensor, and what is left out.
#[derive(Clone, Debug)]
pub struct Plan {
    pub(crate) lines: Vec<Line>,
    pub(crate) left_out: BTreeMap<String, String>,
    /// Orders of experts that are not the models' own, by model and block.
    pub(crate) aligned: BTreeMap<String, BTreeMap<String, Vec<usize>>>,
    pub(crate) notes: Vec<String>,
    pub(crate) inputs: BTreeMap<String, InputRef>,
    pub(crate) recipe_sha256: String,
    pub(crate) seed: Option<u64>,
    pub(crate) numerics: Numerics,
    pub(crate) numerics_given: bool,
    /// How many words of mergekit's stream are used.
    pub(crate) words: u64,
    pub(crate) unit: Option<Unit>,
    pub(crate) layout: Option<Layout>,
    pub(crate) config: serde_json::Value,
    pub(crate) read_bytes: u64,
}

impl Plan {
    /// The plan as the type of `manifest.json`.
    #[must_use]
    pub fn manifest(&self) -> MergeManifest {
        MergeManifest {
            schema: SCHEMA,
            darwin: concat!("darwin ", env!("CARGO_PKG_VERSION")).to_owned(),
            arithmetic: ARITHMETIC,
            recipe_sha256: self.recipe_sha256.clone(),
            numerics: self.numerics.name().to_owned(),
            inputs: self.inputs.clone(),
            tensors: self.lines.iter().map(|line| line.record.clone()).collect(),
            left_out: self.left_out.clone(),
            aligned: self.aligned.clone(),
        }
    }

    /// What has no effect and what deserves a look, a sentence each.
    #[must_use]
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Input tensors that are not in the output (`model: tensor`), with the reason.
    #[must_use]
    pub fn left_out(&self) -> &BTreeMap<String, String> {
        &self.left_out
    }

    /// Bytes of tensors that will be read (once; methods with statistics read twice or more).
    #[must_use]
    pub fn read_bytes(&self) -> u64 {
        self.read_bytes
    }

    /// Bytes of tensors that will be written.
    #[must_use]
    pub fn written_bytes(&self) -> u64 {
        self.lines.iter().map(|line| (line.info.elements() * line.info.dtype.size()) as u64).sum()
    }
}
