//! Recipes: mergekit's YAML with one namespace, `darwin:`, for every extension
//! (mergekit 0.1.5, `config.py`, method 3.1).

mod adapters;
mod builder;
mod change;
mod child;
mod darwin;
mod describe;
mod describe_shares;
mod emit;
mod groups;
mod hub;
mod identity;
mod layers;
mod missing;
mod parameters;
mod parse;
mod parse_darwin;
mod parse_inputs;
mod parse_model;
mod parse_parameters;
mod parse_shares;
mod regmean;
mod selector;
mod sequence;
mod shares;
mod tokenizer;
mod validate;
mod validate_shares;
mod yaml;

pub use adapters::AdapterRef;
pub use builder::RecipeBuilder;
pub use child::ChatTemplate;
pub use darwin::{Align, CopyRule, Darwin, Densities, Parent, RouterMode, RouterRule};
pub(crate) use describe_shares::Spread;
pub use groups::GroupShares;
pub use hub::{HubCache, HubRef};
pub use layers::{LayerPosition, LayerSpec};
pub(crate) use parameters::filter_matches;
pub use parameters::{Conditional, Parameters, Setting, Value};
pub use regmean::RegMean;
pub use selector::{MixerKind, Selector};
pub use sequence::{Sequence, Step};
pub use shares::{Blocks, ExpertShares, ExpertSpec, LayerShares, Shares};
pub use tokenizer::{TokenName, TokenRow, TokenRule, Tokenizer, TokenizerSource};

use crate::{Error, Method, Numerics};
use darwin_checkpoint::Dtype;
use darwin_core::fs::{MAX_TEXT_BYTES, read_text_bounded};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// A recipe's file.
fn read_text(file: &str, path: &Path) -> Result<String, Error> {
    read_text_bounded(path, MAX_TEXT_BYTES)
        .map_err(|source| Error::Io { file: file.to_owned(), source })
}

/// The beginning of a text from a recipe, for messages.
pub(crate) fn shortened(text: &str) -> Cow<'_, str> {
    const SHOWN: usize = 200;
    match text.char_indices().nth(SHOWN) {
        Some((at, _)) => Cow::Owned(format!("{}…", &text[..at])),
        None => Cow::Borrowed(text),
    }
}

/// A model in `models:`, with parameters of its own.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelEntry {
    /// The model's folder as written.
    pub model: String,
    /// Its parameters.
    pub parameters: Parameters,
}

/// Layers of one model in a slice.
#[derive(Clone, Debug, PartialEq)]
pub struct SliceSource {
    /// The model's folder as written.
    pub model: String,
    /// Its layers, the end excluded.
    pub layers: Range<usize>,
    /// Its parameters in this slice.
    pub parameters: Parameters,
}

/// A run of output layers.
#[derive(Clone, Debug, PartialEq)]
pub struct Slice {
    /// What is merged; equally many layers each.
    pub sources: Vec<SliceSource>,
    /// The base model of this slice, where it is not the recipe's.
    pub base: Option<String>,
    /// Parameters of the slice.
    pub parameters: Parameters,
}

/// What the output is made of.
#[derive(Clone, Debug, PartialEq)]
pub enum Inputs {
    /// Whole models.
    Models(Vec<ModelEntry>),
    /// Stacked layers.
    Slices(Vec<Slice>),
}

/// A merge recipe: validated, not yet bound to models.
///
/// It comes from a file ([`Recipe::load`], [`Recipe::parse`]) or from code ([`Recipe::blend`],
/// which gives a [`RecipeBuilder`]). [`Recipe::to_yaml`] writes the canonical form, which reads
/// back equal; [`Recipe::fingerprint`] is its identity.
///
/// ```
/// # use darwin_merge::{LayerSpec, Recipe, RouterMode};
/// # use darwin_core::{Density, LayerIdx, Part, Share};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let recipe = Recipe::blend("dare_ties", "father", "mother")
///     .default_share(Share::new(0.5)?)
///     .component(Part::Embed, Share::new(0.4)?)
///     .layer(LayerIdx(0), [(Part::Mixer, Share::new(0.3)?), (Part::Routed, Share::new(0.6)?)])
///     .router(LayerSpec::all(), RouterMode::Mother)
///     .density(Density::new(1.0)?, Density::new(0.8)?)
///     .seed(42)
///     .build()?;
/// assert_eq!(Recipe::parse(&recipe.to_yaml())?, recipe);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Recipe {
    pub(crate) method: &'static Method,
    pub(crate) base: Option<String>,
    pub(crate) inputs: Inputs,
    /// The recipe's own, behind those of its module where it has one.
    pub(crate) parameters: Parameters,
    /// The module that `modules` names; models of several modules do not fit then.
    pub(crate) module: Option<String>,
    pub(crate) dtype: Option<Dtype>,
    pub(crate) out_dtype: Option<Dtype>,
    pub(crate) tokenizer: Option<Tokenizer>,
    pub(crate) chat_template: Option<ChatTemplate>,
    pub(crate) darwin: Darwin,
    /// The models that have an adapter on them, by their names.
    pub(crate) adapters: BTreeMap<String, AdapterRef>,
    /// What stands behind names like `owner/name@revision`.
    pub(crate) revisions: BTreeMap<String, HubRef>,
    /// Where models lie that are other documents of the same file.
    pub(crate) steps: BTreeMap<String, PathBuf>,
    /// Where models are found that are no folders.
    pub(crate) hub: Option<HubCache>,
    /// The text as read, for `mergekit_config.yml`.
    pub(crate) text: Option<String>,
    /// Whether that text names a file of shares.
    pub(crate) groups_apart: bool,
    /// The folder that relative model paths start from, before the working directory.
    pub(crate) folder: Option<PathBuf>,
    /// Things that are not wrong but have no effect.
    pub(crate) notes: Vec<String>,
}

impl PartialEq for Recipe {
    /// Equal in what they do; text, folder, notes and the name of the module do not count.
    fn eq(&self, other: &Self) -> bool {
        self.method == other.method
            && self.base == other.base
            && self.inputs == other.inputs
            && self.parameters == other.parameters
            && (self.dtype, self.out_dtype) == (other.dtype, other.out_dtype)
            && (&self.tokenizer, &self.chat_template) == (&other.tokenizer, &other.chat_template)
            && self.darwin == other.darwin
            && self.adapters == other.adapters
            && self.revisions == other.revisions
    }
}

impl Recipe {
    /// Reads a recipe file.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Recipe`] with every problem, each with line and column.
    pub fn load(path: &Path) -> Result<Self, Error> {
        let file = path.display().to_string();
        let text = read_text(&file, path)?;
        let folder = path.parent().unwrap_or(Path::new(""));
        let mut recipe = parse::parse(&file, folder, &text)?;
        recipe.folder = path.parent().map(Path::to_owned);
        Ok(recipe)
    }

    /// Reads a recipe from text; relative model paths, and a file of shares, start from the working
    /// directory.
    ///
    /// # Errors
    /// [`Error::Recipe`] with every problem, each with line and column.
    pub fn parse(text: &str) -> Result<Self, Error> {
        parse::parse("<recipe>", Path::new(""), text)
    }

    /// Starts a recipe that blends two parents by shares of the mother. `method` is one of
    /// [`crate::METHODS`] but `passthrough`.
    #[must_use]
    pub fn blend(
        method: &str,
        father: impl Into<String>,
        mother: impl Into<String>,
    ) -> RecipeBuilder {
        RecipeBuilder::new(method, father.into(), mother.into())
    }

    /// The method.
    #[must_use]
    pub fn method(&self) -> &'static Method {
        self.method
    }

    /// The base model as written.
    #[must_use]
    pub fn base(&self) -> Option<&str> {
        self.base.as_deref()
    }

    /// What the output is made of.
    #[must_use]
    pub fn inputs(&self) -> &Inputs {
        &self.inputs
    }

    /// The namespace `darwin:`.
    #[must_use]
    pub fn darwin(&self) -> &Darwin {
        &self.darwin
    }

    /// Whose tokenizer the child gets: a model that `tokenizer_source` names; for `base` and
    /// `union`, whose first tokens are the base's, the base; else the structural parent.
    #[must_use]
    pub fn tokenizer(&self) -> &str {
        match self.tokenizer.as_ref().map(|tokenizer| &tokenizer.source) {
            Some(TokenizerSource::Model(model)) => model,
            Some(_) => self.base.as_deref().unwrap_or(self.structure()),
            None => self.structure(),
        }
    }

    /// What the recipe says of the child's vocabulary.
    #[must_use]
    pub fn vocabulary(&self) -> Option<&Tokenizer> {
        self.tokenizer.as_ref()
    }

    /// The child's chat template, where it is not the tokenizer's own.
    #[must_use]
    pub fn chat_template(&self) -> Option<&ChatTemplate> {
        self.chat_template.as_ref()
    }

    /// What has no effect, a sentence each.
    #[must_use]
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Every model that the recipe names, in the order of first mention, the base last where it
    /// is not among the inputs.
    #[must_use]
    pub fn models(&self) -> Vec<&str> {
        let mut models: Vec<&str> = Vec::new();
        let named: Vec<&str> = match &self.inputs {
            Inputs::Models(entries) => entries.iter().map(|e| e.model.as_str()).collect(),
            Inputs::Slices(slices) => {
                let sources = slices.iter().flat_map(|s| &s.sources);
                let bases = slices.iter().filter_map(|s| s.base.as_deref());
                sources.map(|s| s.model.as_str()).chain(bases).collect()
            }
        };
        let extra = [&self.base, &self.darwin.father, &self.darwin.mother, &self.darwin.structure];
        for model in named.into_iter().chain(extra.into_iter().flatten().map(String::as_str)) {
            if !models.contains(&model) {
                models.push(model);
            }
        }
        models
    }

    /// The structural parent: `darwin.structure`, else the father of a blend, else the base, else
    /// the first model. Config, tokenizer, layout, vision and MTP are his.
    #[must_use]
    pub fn structure(&self) -> &str {
        let darwin = &self.darwin;
        let father = self.father().filter(|_| darwin.t.is_some());
        let choice = darwin.structure.as_deref().or(father).or(self.base.as_deref());
        choice.or_else(|| self.models().first().copied()).unwrap_or("")
    }

    /// The father of a blend: `darwin.father`, else the first of two models, which may stand
    /// beside a base that is neither.
    #[must_use]
    pub fn father(&self) -> Option<&str> {
        self.darwin.father.as_deref().or_else(|| self.pair().map(|(father, _)| father))
    }

    /// The mother of a blend: `darwin.mother`, else the second of two models.
    #[must_use]
    pub fn mother(&self) -> Option<&str> {
        self.darwin.mother.as_deref().or_else(|| self.pair().map(|(_, mother)| mother))
    }

    fn pair(&self) -> Option<(&str, &str)> {
        let Inputs::Models(entries) = &self.inputs else { return None };
        match (&entries[..], self.base.as_deref()) {
            ([a, b], Some(base)) if b.model == base => Some((base, &a.model)),
            ([a, b], _) => Some((&a.model, &b.model)),
            ([a], Some(base)) if a.model != base => Some((base, &a.model)),
            _ => None,
        }
    }

    /// How the merge computes.
    #[must_use]
    pub fn numerics(&self) -> Numerics {
        self.darwin.numerics.unwrap_or_default()
    }

    fn rename_models(&mut self, mut new_name: impl FnMut(&str) -> Option<String>) {
        let mut rename = |model: &mut String| {
            if let Some(name) = new_name(model) {
                *model = name;
            }
        };
        match &mut self.inputs {
            Inputs::Models(entries) => entries.iter_mut().for_each(|e| rename(&mut e.model)),
            Inputs::Slices(slices) => {
                for slice in slices {
                    slice.sources.iter_mut().for_each(|s| rename(&mut s.model));
                    slice.base.iter_mut().for_each(&mut rename);
                }
            }
        }
        self.base.iter_mut().for_each(&mut rename);
        if let Some(tokenizer) = &mut self.tokenizer {
            tokenizer.rename(&mut rename);
        }
        let darwin = &mut self.darwin;
        darwin.structure.iter_mut().for_each(&mut rename);
        darwin.father.iter_mut().for_each(&mut rename);
        darwin.mother.iter_mut().for_each(&mut rename);
    }

    /// The canonical YAML, all shares written out; it reads back equal. [`Recipe::save`] puts many
    /// shares into a file of their own.
    #[must_use]
    pub fn to_yaml(&self) -> String {
        emit::emit(self, None)
    }
}

#[cfg(test)]
mod tests;
