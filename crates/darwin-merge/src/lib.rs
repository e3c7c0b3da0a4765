//! Recipes, merge methods and the merge itself as a tensor source.
//!
//! A [`Recipe`] is mergekit's YAML with one namespace, `darwin:`. Bound to opened models
//! ([`Sources`]) it becomes a [`Merge`], which is a [`darwin_checkpoint::TensorSource`] like any
//! checkpoint: the engine evaluates it in memory, [`merge_to`] writes it, and both see the same
//! bits.

mod align;
mod compute;
mod draws;
mod error;
mod execute;
mod extract;
mod masks;
mod merge;
mod methods;
mod numerics;
mod plan;
mod recipe;
mod side;
mod solved;
mod sources;
mod statistics;
mod twister;
mod vocabulary;

pub use error::{Error, RecipeProblem};
pub use execute::{MergeOptions, merge_into, merge_to};
pub use extract::{ExtractOptions, Extracted, Extraction, extract_lora};
pub use masks::{MaskFile, MaskSource};
pub use merge::Merge;
pub use methods::{METHODS, Method, Parameter};
pub use numerics::Numerics;
pub use plan::Plan;
pub use recipe::{
    AdapterRef, Align, Blocks, ChatTemplate, Conditional, CopyRule, Darwin, Densities,
    ExpertShares, ExpertSpec, GroupShares, HubCache, HubRef, Inputs, LayerPosition, LayerShares,
    LayerSpec, MixerKind, ModelEntry, Parameters, Parent, Recipe, RecipeBuilder, RegMean,
    RouterMode, RouterRule, Selector, Sequence, Setting, Shares, Slice, SliceSource, Step,
    TokenName, TokenRow, TokenRule, Tokenizer, TokenizerSource, Value,
};
pub use solved::Unsolved;
pub use sources::Sources;
