//! One vocabulary for all models of a merge (mergekit 0.1.5, `tokenizer/`): the child's tokenizer, and the rows
//! of embedding and head of every model in its order, before any method sees them.

mod aligned;
mod check;
mod files;
mod ids;
mod rows;
mod tokenizer;
mod union;
mod view;

pub(crate) use files::Files;
use tokenizer::Tokenizer;

use crate::plan::Plan;
use crate::recipe::{Tokenizer as Block, TokenizerSource};
use crate::sources::Source;
use crate::{Recipe, Sources};
use aligned::Views;
use check::{check_tensors, read, readable, same_rows, same_tokens, settled};
use darwin_checkpoint::{Problem, Role, TensorId, TensorInfo};
use darwin_core::hash::sha256_hex;
use ids::Ids;
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
    /// Says in the plan what was done, and writes the number of rows and the ids of special tokens
    /// into the child's config.
    pub(crate) fn finish(&mut self, plan: &mut Plan) {
        for line in plan.lines.iter_mut().filter(|line| is_of_tokens(&line.info)) {
            line.record.reason.push_str("; rows by token");
        }
        ids::set_size(&mut plan.config, self.size);
        plan.notes.append(&mut self.notes);
        if let Some(ids) = &self.ids {
            plan.notes.extend(ids.edit("config.json", &mut plan.config));
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
    if changes.any {
        child.spell_out_all();
    }
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
