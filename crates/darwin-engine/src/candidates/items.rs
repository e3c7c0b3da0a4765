//! Items as batches, and the rows of a batch that foretell the answers.

use crate::score::fed;
use crate::{Batch, ScoreItem, Sequence};

/// Most tokens of a batch.
const BATCH_TOKENS: usize = 4096;

/// A token of an answer.
pub(super) struct Asked {
    /// Batch row whose logits predict this token.
    pub(super) row: usize,
    pub(super) item: usize,
    /// The row's position in the item.
    pub(super) position: usize,
    pub(super) target: u32,
}

/// What goes through the layers, in the order of the items.
pub(super) fn batches(items: &[ScoreItem]) -> Vec<Batch> {
    let (mut batches, mut now, mut tokens) = (Vec::new(), Vec::new(), 0);
    for ids in items.iter().map(fed) {
        if tokens > 0 && tokens + ids.len() > BATCH_TOKENS {
            batches.push(Batch::new(std::mem::take(&mut now)));
            tokens = 0;
        }
        tokens += ids.len();
        now.push(Sequence::new(ids));
    }
    if !now.is_empty() {
        batches.push(Batch::new(now));
    }
    batches
}

/// The answers' tokens of each batch.
pub(super) fn asked(items: &[ScoreItem], batches: &[Batch]) -> Vec<Vec<Asked>> {
    let mut item = 0;
    let of_batch = |batch: &Batch| {
        let mut asked = Vec::new();
        for first in &batch.offsets()[..batch.sequences().len()] {
            let ScoreItem { prompt, answer } = &items[item];
            let last = prompt.len() - 1;
            let tokens = answer.iter().enumerate();
            asked.extend(tokens.map(|(i, target)| Asked {
                row: first + last + i,
                item,
                position: last + i,
                target: *target,
            }));
            item += 1;
        }
        asked
    };
    batches.iter().map(of_batch).collect()
}
