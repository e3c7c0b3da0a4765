//! The order in which mergekit draws its masks (mergekit 0.1.5, `sparsify.py`).

use super::{Line, Operation};
use crate::methods::Sparsifier;
use crate::sources::Source;
use darwin_checkpoint::Role;

/// Gives every task vector that is thinned by chance its words of the one stream: tensors in
/// lexicographic order of the largest of their inputs' names on disk (experts that lie one by one
/// have none and come first), in a tensor the models in the recipe's order, a word an element,
/// none at density 1. mergekit has no MTP tensors; they come last. Returns how many words there
/// are.
pub(super) fn words(lines: &mut [Line], sources: &[Source]) -> u64 {
    let names: Vec<Vec<&str>> = sources.iter().map(on_disk).collect();
    let mut order: Vec<(bool, &str, usize)> = lines
        .iter()
        .enumerate()
        .map(|(i, line)| {
            let inputs = line.operation.inputs().into_iter();
            let label = inputs.map(|input| names[input.source][input.id.index()]).max();
            (line.info.role == Role::Mtp, label.unwrap_or(""), i)
        })
        .collect();
    order.sort_unstable();
    let mut words = 0;
    for (.., i) in order {
        let elements = lines[i].info.elements() as u64;
        let Operation::TaskVectors { vectors, sparsifier: Sparsifier::Random, .. } =
            &mut lines[i].operation
        else {
            continue;
        };
        for vector in vectors.iter_mut().filter(|vector| vector.density < 1.0) {
            vector.first_word = words;
            words += elements;
        }
    }
    words
}

/// The name in the files of each of a model's tensors; none for experts that lie one by one.
fn on_disk(source: &Source) -> Vec<&str> {
    let manifest = source.tensors.manifest();
    let Some(checkpoint) = &source.checkpoint else {
        return manifest.tensors().iter().map(|info| info.name.as_str()).collect();
    };
    let mut names: Vec<Option<&str>> = vec![None; manifest.tensors().len()];
    for stored in &checkpoint.layout().stored {
        if let Some(name) = names.get_mut(stored.id.index()) {
            *name = Some(if name.is_none() { stored.name.as_str() } else { "" });
        }
    }
    names.into_iter().map(Option::unwrap_or_default).collect()
}
