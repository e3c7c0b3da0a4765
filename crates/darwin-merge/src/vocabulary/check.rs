//! The tokenizers that are there, and what must be the case before rows are moved.

use super::Part;
use super::tokenizer::Tokenizer;
use crate::Error;
use crate::recipe::{Tokenizer as Block, TokenizerSource};
use darwin_checkpoint::Problem;
use std::collections::BTreeMap;

/// Whether there are tokenizers to read.
pub(super) fn readable(
    block: &Block,
    parts: &[Part<'_>],
    giver: usize,
    problems: &mut Vec<Problem>,
) -> bool {
    let part = &parts[giver];
    if part.source.tokenizer.is_some() {
        return true;
    }
    let rules = block.source == TokenizerSource::Union
        || !block.tokens.is_empty()
        || block.pad_to_multiple_of.is_some();
    if let Some(checkpoint) = &part.source.checkpoint {
        problems.push(match Tokenizer::read(checkpoint) {
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
pub(super) fn settled(block: &Block, parts: &[Part<'_>]) -> bool {
    let mut hashes = parts.iter().map(|part| part.source.tokenizer.as_deref());
    let first = hashes.next().flatten();
    let plain = block.tokens.is_empty() && block.pad_to_multiple_of.is_none();
    plain && first.is_some() && hashes.all(|hash| hash == first) && same_rows(parts)
}

pub(super) fn same_rows(parts: &[Part<'_>]) -> bool {
    let mut rows = parts.iter().filter(|part| !part.tensors.is_empty()).map(|part| part.rows);
    let first = rows.next();
    rows.all(|rows| Some(rows) == first)
}

pub(super) fn same_tokens(parts: &[Part<'_>], giver: usize) -> bool {
    let Some(own) = &parts[giver].tokenizer else { return false };
    parts.iter().filter_map(|part| part.tokenizer.as_ref()).all(|other| !own.differs(other))
}

/// Reads the tokenizers; those of other kinds are problems, since equal spelling is another text.
pub(super) fn read(parts: &mut [Part<'_>], giver: usize, problems: &mut Vec<Problem>) {
    for part in parts.iter_mut() {
        let Some(checkpoint) = &part.source.checkpoint else { continue };
        let file = part.source.tokenizer.is_some();
        match Tokenizer::read(checkpoint) {
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
pub(super) fn check_tensors(parts: &[Part<'_>], problems: &mut Vec<Problem>) {
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
