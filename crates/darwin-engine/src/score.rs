//! Likelihoods of answers.

use crate::cache::Caches;
use crate::families::qwen3_5_moe::{Pass, Workspace};
use crate::kernels::{argmax, log_sum_exp};
use crate::model::{GROUP_TOKENS, LOGIT_ROWS};
use crate::probe::Probe;
use crate::{Error, Model};
use darwin_core::Cancel;
use rayon::prelude::*;

/// A prompt and the answer whose likelihood is asked for, as token ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScoreItem {
    /// The prompt; at least one token.
    pub prompt: Vec<u32>,
    /// The answer; at least one token.
    pub answer: Vec<u32>,
}

/// How likely a model finds an answer.
#[derive(Clone, Debug, PartialEq)]
pub struct ItemScore {
    /// Negative log-likelihood of the whole answer, nats.
    pub nll: f64,
    /// Log-probability of each answer token, nats.
    pub logprobs: Vec<f32>,
    /// Whether every answer token is the most likely one.
    pub greedy: bool,
    /// Index of the first answer token that is not.
    pub first_miss: Option<usize>,
}

/// What a call cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Tokens that went through the layers.
    pub tokens: u64,
}

impl std::ops::AddAssign for Cost {
    fn add_assign(&mut self, other: Self) {
        self.tokens += other.tokens;
    }
}

/// Scores items; results in their order. Bit for bit the same whatever the number of threads and
/// whatever else is scored in the same call.
///
/// # Errors
/// A token outside the vocabulary, an empty prompt or answer, a context too long, cancellation.
pub fn score(model: &Model, items: &[ScoreItem], cancel: &Cancel) -> Result<Vec<ItemScore>, Error> {
    score_counted(model, items, cancel).map(|(scores, _)| scores)
}

/// [`score`] with its cost.
///
/// # Errors
/// As [`score`].
pub fn score_counted(
    model: &Model,
    items: &[ScoreItem],
    cancel: &Cancel,
) -> Result<(Vec<ItemScore>, Cost), Error> {
    for (i, item) in items.iter().enumerate() {
        model.check_ids("prompt", i, &item.prompt)?;
        model.check_ids("answer of item", i, &item.answer)?;
        model.check_length(i, item.prompt.len() + item.answer.len())?;
    }
    let blocks: Vec<Vec<(usize, ItemScore)>> = blocks(items)
        .into_par_iter()
        .map_init(Workspace::default, |work, block| {
            if cancel.is_cancelled() {
                return Err(Error::Cancelled);
            }
            let scores = score_block(model, items, &block, work)?;
            Ok(block.into_iter().zip(scores).collect())
        })
        .collect::<Result<_, _>>()?;
    let mut scores: Vec<(usize, ItemScore)> = blocks.into_iter().flatten().collect();
    scores.sort_unstable_by_key(|(i, _)| *i);
    let tokens = items.iter().map(|item| fed(item) as u64).sum();
    Ok((scores.into_iter().map(|(_, s)| s).collect(), Cost { tokens }))
}

/// Tokens of an item that go through the layers: nothing follows the last one.
fn fed(item: &ScoreItem) -> usize {
    item.prompt.len() + item.answer.len() - 1
}

/// Indices of items, longest first, cut into blocks of about [`GROUP_TOKENS`].
fn blocks(items: &[ScoreItem]) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..items.len()).collect();
    order.sort_by_key(|i| std::cmp::Reverse(fed(&items[*i])));
    let mut blocks = Vec::new();
    let (mut block, mut tokens) = (Vec::new(), 0);
    for i in order {
        block.push(i);
        tokens += fed(&items[i]);
        if tokens >= GROUP_TOKENS {
            blocks.push(std::mem::take(&mut block));
            tokens = 0;
        }
    }
    if !block.is_empty() {
        blocks.push(block);
    }
    blocks
}

fn score_block(
    model: &Model,
    items: &[ScoreItem],
    block: &[usize],
    work: &mut Workspace,
) -> Result<Vec<ItemScore>, Error> {
    let mut hidden = Vec::new();
    let mut offsets = vec![0];
    for item in block.iter().map(|i| &items[*i]) {
        model.embed_into(&item.prompt, &mut hidden);
        model.embed_into(&item.answer[..item.answer.len() - 1], &mut hidden);
        offsets.push(offsets[offsets.len() - 1] + fed(item));
    }
    let layers = 0..model.config().num_hidden_layers;
    let (caches, probe) = (Caches::fresh(), Probe::none());
    model.forward(&mut hidden, layers, &mut Pass { offsets: &offsets, caches, work, probe })?;
    let mut scores = Vec::with_capacity(block.len());
    for (item, end) in block.iter().map(|i| &items[*i]).zip(&offsets[1..]) {
        let width = model.config().hidden_size;
        let rows = &hidden[(end - item.answer.len()) * width..end * width];
        scores.push(score_answer(model, rows, &item.answer));
    }
    Ok(scores)
}

/// The score of an answer from the hidden states that precede its tokens.
fn score_answer(model: &Model, hidden: &[f32], answer: &[u32]) -> ItemScore {
    let (width, vocab) = (model.config().hidden_size, model.config().vocab_size);
    let mut score = ItemScore {
        nll: 0.0,
        logprobs: Vec::with_capacity(answer.len()),
        greedy: true,
        first_miss: None,
    };
    let mut logits = vec![0.0; answer.len().min(LOGIT_ROWS) * vocab];
    for (hidden, answer) in hidden.chunks(LOGIT_ROWS * width).zip(answer.chunks(LOGIT_ROWS)) {
        let logits = &mut logits[..answer.len() * vocab];
        model.head_into(&model.final_norm(hidden), logits);
        for (row, token) in logits.chunks_exact(vocab).zip(answer) {
            let logprob = f64::from(row[*token as usize]) - log_sum_exp(row);
            if score.greedy && argmax(row) != *token as usize {
                score.greedy = false;
                score.first_miss = Some(score.logprobs.len());
            }
            score.nll -= logprob;
            score.logprobs.push(logprob as f32);
        }
    }
    score
}
