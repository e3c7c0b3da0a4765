//! One vocabulary for all models of a merge (mergekit.md 1.8): the child's tokenizer, and the rows
//! of embedding and head of every model in its order, before any method sees them.

mod files;
mod ids;
mod rows;
mod tokenizer;
mod union;
mod view;

pub(crate) use files::Files;
pub(crate) use tokenizer::Tokenizer;

use crate::numerics::promoted;
use crate::plan::Line;
use crate::recipe::{Tokenizer as Block, TokenizerSource};
use crate::sources::Source;
use crate::{Error, Numerics, Recipe, Sources};
use darwin_checkpoint::{Dtype, Problem, Role, TensorId, TensorInfo, TensorSource};
use darwin_core::hash::sha256_hex;
use ids::Ids;
use rows::{Owner, RowMap, Wanted};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use union::Changes;

/// What became of the vocabulary.
pub(crate) struct Vocabulary {
    /// The models, their vocabularies in the child's order.
    pub(crate) sources: Sources,
    /// What is written beside the weights.
    pub(crate) files: Files,
    /// What deserves a look.
    pub(crate) notes: Vec<String>,
    /// Names the child's tokens and where their rows come from.
    pub(crate) digest: String,
    size: usize,
    ids: Option<Ids>,
}

/// A model with its vocabulary.
struct Part<'a> {
    source: &'a Source,
    at: usize,
    /// Its own tokenizer; `None`: that of the model that gives the child's.
    tokenizer: Option<Tokenizer>,
    /// Its tensors with a row for each token.
    tensors: Vec<TensorId>,
    /// Rows of the smallest of them.
    rows: usize,
}

impl Part<'_> {
    fn name(&self) -> &str {
        &self.source.model
    }
}

/// Brings the vocabularies together where the recipe asks for that and they differ.
pub(crate) fn align(
    recipe: &Recipe,
    sources: &Sources,
    problems: &mut Vec<Problem>,
) -> Option<Vocabulary> {
    let block = recipe.tokenizer.as_ref()?;
    let mut parts = parts(recipe, sources);
    let giver = parts.iter().position(|part| part.name() == recipe.tokenizer())?;
    if !readable(block, &parts, giver, problems) || settled(block, &parts) {
        return None;
    }
    let before = problems.len();
    read(&mut parts, giver, problems);
    check_tensors(&parts, problems);
    if problems.len() > before {
        return None;
    }
    let plain = block.tokens.is_empty() && block.pad_to_multiple_of.is_none();
    if plain && same_rows(&parts) && same_tokens(&parts, giver) {
        return None;
    }
    let mut notes = strip(&mut parts, giver, block);
    let mut changes = Changes { any: !notes.is_empty(), notes: Vec::new() };
    notes.extend(parts.iter().filter(|part| part.tokenizer.is_none()).map(|part| {
        let (name, giver) = (part.name(), parts[giver].name());
        format!("`{name}` has no tokenizer.json: its tokens are taken to be those of `{giver}`")
    }));
    let child = child(block, &parts, giver, &mut changes);
    notes.append(&mut changes.notes);
    let size = size(block, &child, parts[giver].rows);
    let views = Views { recipe, block, parts: &parts, giver, child: &child, size };
    let (sources, hashed) = views.apply(sources, &mut notes, problems)?;
    Some(Vocabulary {
        sources,
        notes,
        digest: sha256_hex(format!("{hashed} {size} {}", child.json).as_bytes()),
        size,
        ids: Ids::new(recipe, &parts, giver, &child),
        files: Files::new(&child, changes.any),
    })
}

impl Vocabulary {
    /// Says of the plan's lines that rows were moved.
    pub(crate) fn mark(&self, lines: &mut [Line]) {
        for line in lines.iter_mut().filter(|line| is_of_tokens(&line.info)) {
            line.record.reason.push_str("; rows by token");
        }
    }

    /// Writes the number of rows and the ids of special tokens into the child's config.
    pub(crate) fn edit_config(&mut self, config: &mut serde_json::Value) {
        ids::set_size(config, self.size);
        if let Some(ids) = &self.ids {
            self.notes.extend(ids.edit("config.json", config));
            self.files.generation = Some(ids.clone());
        }
    }
}

/// The models in the recipe's order.
fn parts<'a>(recipe: &Recipe, sources: &'a Sources) -> Vec<Part<'a>> {
    let found = recipe.models().into_iter().filter_map(|model| sources.position(model));
    found
        .map(|at| {
            let source = &sources.list[at];
            let manifest = source.tensors.manifest();
            let rows = |info: &TensorInfo| info.shape.first().copied().unwrap_or(0);
            let tensors: Vec<TensorId> =
                manifest.ids().filter(|id| is_of_tokens(manifest.get(*id))).collect();
            let rows = tensors.iter().map(|id| rows(manifest.get(*id))).min().unwrap_or(0);
            Part { source, at, tokenizer: None, tensors, rows }
        })
        .collect()
}

/// Whether a tensor has a row for each token: embedding and head, and copies of them that extra
/// layers keep. Positions of a vision tower are not tokens.
pub(crate) fn is_of_tokens(info: &TensorInfo) -> bool {
    const COPIES: [&str; 3] = ["embed_tokens", "shared_head.head.", "lm_head."];
    match info.role {
        Role::Embedding | Role::Head => true,
        Role::Vision => false,
        _ => COPIES.iter().any(|name| info.name.contains(name)),
    }
}

/// Whether there are tokenizers to read.
fn readable(block: &Block, parts: &[Part<'_>], giver: usize, problems: &mut Vec<Problem>) -> bool {
    let part = &parts[giver];
    if part.source.tokenizer.is_some() {
        return true;
    }
    let rules = block.source == TokenizerSource::Union
        || !block.tokens.is_empty()
        || block.pad_to_multiple_of.is_some();
    if let Some(checkpoint) = &part.source.checkpoint {
        problems.push(match Tokenizer::read(checkpoint.folder()) {
            Err(Error::Plan(mut found)) if !found.is_empty() => found.remove(0),
            _ => Problem::new(
                format!("`{}` is to give its tokenizer and has no tokenizer.json", part.name()),
                "choose another model of the merge under `tokenizer_source`",
            ),
        });
    } else if rules {
        problems.push(Problem::new(
            format!("`{}` is to give its tokenizer and is no folder on disk", part.name()),
            "name a model with a tokenizer.json",
        ));
    }
    false
}

/// Whether all files are equal, so that there is nothing to do.
fn settled(block: &Block, parts: &[Part<'_>]) -> bool {
    let mut hashes = parts.iter().map(|part| part.source.tokenizer.as_deref());
    let first = hashes.next().flatten();
    let plain = block.tokens.is_empty() && block.pad_to_multiple_of.is_none();
    plain && first.is_some() && hashes.all(|hash| hash == first) && same_rows(parts)
}

fn same_rows(parts: &[Part<'_>]) -> bool {
    let mut rows = parts.iter().filter(|part| !part.tensors.is_empty()).map(|part| part.rows);
    let first = rows.next();
    rows.all(|rows| Some(rows) == first)
}

fn same_tokens(parts: &[Part<'_>], giver: usize) -> bool {
    let Some(own) = &parts[giver].tokenizer else { return false };
    parts.iter().filter_map(|part| part.tokenizer.as_ref()).all(|other| !own.differs(other))
}

/// Reads the tokenizers; those of other kinds are problems, since equal spelling is another text.
fn read(parts: &mut [Part<'_>], giver: usize, problems: &mut Vec<Problem>) {
    for part in parts.iter_mut() {
        let Some(checkpoint) = &part.source.checkpoint else { continue };
        let file = part.source.tokenizer.is_some();
        match Tokenizer::read(checkpoint.folder()) {
            Ok(tokenizer) => part.tokenizer = Some(tokenizer),
            Err(Error::Plan(found)) => problems.extend(found),
            // Without a file it is taken to have the same tokens as the one that gives them.
            Err(_) if !file => {}
            Err(error) => problems.push(Problem::new(error.to_string(), "check the file")),
        }
    }
    let Some(own) = parts[giver].tokenizer.as_ref() else { return };
    for part in parts.iter() {
        if let Some(other) = part.tokenizer.as_ref().filter(|other| other.kind != own.kind) {
            problems.push(Problem::new(
                format!(
                    "the tokenizer of `{}` is {} and that of `{}` is {}: tokens of equal spelling \
                     are not the same text",
                    parts[giver].name(),
                    own.kind.describe(),
                    part.name(),
                    other.kind.describe()
                ),
                "merge models whose tokenizers are of one kind",
            ));
        }
    }
}

/// Rows can be moved between tensors that are numbers and of one width.
fn check_tensors(parts: &[Part<'_>], problems: &mut Vec<Problem>) {
    let mut widths: BTreeMap<&str, (&[usize], &str)> = BTreeMap::new();
    for part in parts {
        for info in part.tensors.iter().map(|id| part.source.tensors.manifest().get(*id)) {
            if !info.dtype.is_mergeable() {
                problems.push(Problem::new(
                    format!("`{}`: tensor `{}` is {}", part.name(), info.name, info.dtype),
                    "only rows of F32, F16 and BF16 can be moved: convert the model first",
                ));
            }
            let width = info.shape.get(1..).unwrap_or_default();
            let (first, model) = *widths.entry(&info.name).or_insert((width, part.name()));
            if first != width || info.shape.is_empty() {
                problems.push(Problem::new(
                    format!(
                        "tensor `{}` has rows of {first:?} in `{model}` and of {width:?} in `{}`",
                        info.name,
                        part.name()
                    ),
                    "merge models of one width",
                ));
            }
        }
    }
}

/// Leaves out tokens without rows; what deserves a look.
fn strip(parts: &mut [Part<'_>], giver: usize, block: &Block) -> Vec<String> {
    let mut notes = Vec::new();
    for (at, part) in parts.iter_mut().enumerate() {
        let (name, rows) = (part.source.model.clone(), part.rows);
        let Some(tokenizer) = &mut part.tokenizer else { continue };
        if at != giver && block.source != TokenizerSource::Union {
            continue;
        }
        let gone = tokenizer.strip(rows);
        if gone > 0 {
            notes.push(format!(
                "{gone} tokens of `{name}` lie beyond the {rows} rows of its embedding and are \
                 left out"
            ));
        }
    }
    notes
}

fn child(block: &Block, parts: &[Part<'_>], giver: usize, changes: &mut Changes) -> Tokenizer {
    let mut child = parts[giver].tokenizer.clone().expect("`read` gave it");
    if block.source == TokenizerSource::Union {
        let others = parts.iter().enumerate().filter(|(at, _)| *at != giver);
        let others: Vec<(&str, &Tokenizer)> =
            others.filter_map(|(_, p)| Some((p.name(), p.tokenizer.as_ref()?))).collect();
        child.join(&others, changes);
    }
    child.name(block.tokens.iter().map(|(token, _)| token.as_str()), changes);
    child
}

/// The child's rows: as many as the giver has, its padding included, or more where its tokens need
/// them; with `pad_to_multiple_of` as many as there are tokens, rounded up.
fn size(block: &Block, child: &Tokenizer, rows: usize) -> usize {
    let tokens = child.tokens.last_key_value().map_or(0, |(id, _)| *id as usize + 1);
    match block.pad_to_multiple_of {
        Some(multiple) => tokens.next_multiple_of(multiple),
        None => rows.max(tokens),
    }
}

/// Everything that the models' new rows depend on.
struct Views<'a> {
    recipe: &'a Recipe,
    block: &'a Block,
    parts: &'a [Part<'a>],
    giver: usize,
    child: &'a Tokenizer,
    size: usize,
}

impl Views<'_> {
    /// The models with their vocabularies in the child's order, and a hash of what was done.
    fn apply(
        &self,
        sources: &Sources,
        notes: &mut Vec<String>,
        problems: &mut Vec<Problem>,
    ) -> Option<(Sources, String)> {
        let names: BTreeSet<&str> = self.parts.iter().flat_map(Self::names).collect();
        let before = problems.len();
        let mut missing = BTreeSet::new();
        let mut maps: BTreeMap<Vec<usize>, Arc<RowMap>> = BTreeMap::new();
        let mut tensors: Vec<BTreeMap<usize, view::Rows>> =
            self.parts.iter().map(|_| BTreeMap::new()).collect();
        for name in names {
            let of = |part: &Part<'_>| {
                let id = part.source.tensors.manifest().find(name)?;
                part.tensors.contains(&id).then_some(id)
            };
            let found: Vec<(usize, TensorId)> =
                self.parts.iter().enumerate().filter_map(|(at, p)| Some((at, of(p)?))).collect();
            let owners: Vec<usize> = found.iter().map(|(at, _)| *at).collect();
            let map = maps
                .entry(owners)
                .or_insert_with_key(|owners| Arc::new(self.map(owners, &mut missing, problems)));
            let readers: Vec<(Arc<dyn TensorSource>, TensorId)> = found
                .iter()
                .map(|(at, id)| (Arc::clone(&self.parts[*at].source.tensors), *id))
                .collect();
            let (steps, owners) = (self.steps(&readers), Arc::new(readers));
            for (model, (at, id)) in found.into_iter().enumerate() {
                let rows = view::Rows {
                    map: Arc::clone(map),
                    model,
                    owners: Arc::clone(&owners),
                    steps,
                    mean: Mutex::default(),
                };
                tensors[at].insert(id.index(), rows);
            }
        }
        if !missing.is_empty() {
            notes.push(unowned(&missing));
        }
        if problems.len() > before {
            return None;
        }
        let mut aligned = Sources { list: sources.list.clone(), ..Sources::default() };
        for (part, tensors) in self.parts.iter().zip(tensors) {
            let inner = Arc::clone(&part.source.tensors);
            aligned.list[part.at].tensors = Arc::new(view::View::new(inner, tensors)?);
        }
        Some((aligned, sha256_hex(format!("{:?}", maps).as_bytes())))
    }

    fn names<'p>(part: &'p Part<'_>) -> impl Iterator<Item = &'p str> {
        let manifest = part.source.tensors.manifest();
        part.tensors.iter().map(|id| manifest.get(*id).name.as_str())
    }

    fn map(
        &self,
        owners: &[usize],
        missing: &mut BTreeSet<String>,
        problems: &mut Vec<Problem>,
    ) -> RowMap {
        let giver = self.parts[self.giver].tokenizer.as_ref().unwrap_or(self.child);
        let listed: Vec<Owner<'_>> = owners
            .iter()
            .map(|at| {
                let part = &self.parts[*at];
                let tokenizer = part.tokenizer.as_ref().unwrap_or(giver);
                Owner { model: part.name(), tokenizer, rows: part.rows }
            })
            .collect();
        let place = |model: &str| owners.iter().position(|at| self.parts[*at].name() == model);
        let wanted = Wanted {
            tokens: &self.child.tokens,
            rules: &self.block.tokens,
            size: self.size,
            base: self.recipe.base().and_then(place),
            padding: place(self.parts[self.giver].name())
                .filter(|_| self.block.pad_to_multiple_of.is_none()),
        };
        wanted.map(&listed, missing, problems)
    }

    /// What mergekit rounds computed rows to.
    fn steps(&self, owners: &[(Arc<dyn TensorSource>, TensorId)]) -> Option<Dtype> {
        let stored = owners.iter().map(|(source, id)| source.manifest().get(*id).dtype);
        match self.recipe.numerics() {
            Numerics::Native => None,
            Numerics::Mergekit => self.recipe.dtype.or_else(|| stored.reduce(promoted)),
        }
    }
}

/// Tokens that no model has.
fn unowned(missing: &BTreeSet<String>) -> String {
    let shown: Vec<String> = missing.iter().take(3).map(|token| format!("`{token}`")).collect();
    let more = if missing.len() > 3 { " and others" } else { "" };
    format!("no model has the tokens {}{more}: their rows are zero", shown.join(", "))
}
