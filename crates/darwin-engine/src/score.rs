//! Likelihoods of answers.

use crate::cache::Caches;
use crate::kernels::{argmax, log_sum_exp};
use crate::layer::Pass;
use crate::mixer::Block;
use crate::model::{LOGIT_ROWS, group_tokens};
use crate::probe::Probe;
use crate::team::{Team, run_all};
use crate::{Error, Model};
use darwin_core::Cancel;

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
    let blocks = blocks(items);
    let shared = model.shares(blocks.len());
    let blocks: Vec<Vec<(usize, ItemScore)>> = run_all(blocks, shared, |block, team| {
        if cancel.is_cancelled() {
            return Err(Error::Cancelled);
        }
        let scores = score_block(model, team, items, &block)?;
        Ok(block.into_iter().zip(scores).collect())
    })?;
    let mut scores: Vec<(usize, ItemScore)> = blocks.into_iter().flatten().collect();
    scores.sort_unstable_by_key(|(i, _)| *i);
    let tokens = items.iter().map(|item| fed(item) as u64).sum();
    Ok((scores.into_iter().map(|(_, s)| s).collect(), Cost { tokens }))
}

/// Tokens of an item that go through the layers: nothing follows the last one.
fn fed(item: &ScoreItem) -> usize {
    item.prompt.len() + item.answer.len() - 1
}

/// Indices of items, longest first, cut into blocks for a thread each.
fn blocks(items: &[ScoreItem]) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..items.len()).collect();
    order.sort_by_key(|i| std::cmp::Reverse(fed(&items[*i])));
    let mut blocks = Vec::new();
    let enough = group_tokens(items.iter().map(fed).sum());
    let (mut block, mut tokens) = (Vec::new(), 0);
    for i in order {
        block.push(i);
        tokens += fed(&items[i]);
        if tokens >= enough {
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
    team: Team<'_>,
    items: &[ScoreItem],
    block: &[usize],
) -> Result<Vec<ItemScore>, Error> {
    let mut hidden = Vec::new();
    let mut offsets = vec![0];
    for item in block.iter().map(|i| &items[*i]) {
        model.embed_into(&item.prompt, &mut hidden);
        model.embed_into(&item.answer[..item.answer.len() - 1], &mut hidden);
        offsets.push(offsets[offsets.len() - 1] + fed(item));
    }
    let layers = 0..model.config().num_hidden_layers;
    let work = &mut *model.workspace();
    let (caches, probe, blocks) = (Caches::fresh(), Probe::none(), Block::cut(&offsets));
    model.forward(&mut hidden, layers, &mut Pass { blocks, caches, team, work, probe })?;
    let width = model.config().hidden_size;
    let (mut rows, mut answers) = (Vec::new(), Vec::new());
    for (item, end) in block.iter().map(|i| &items[*i]).zip(&offsets[1..]) {
        rows.extend_from_slice(&hidden[(end - item.answer.len()) * width..end * width]);
        answers.extend_from_slice(&item.answer);
    }
    let scored = score_tokens(model, team, &rows, &answers, |h| model.final_norm(h));
    let mut scored = scored.into_iter();
    let of_item = |i: &usize| item_score(scored.by_ref().take(items[*i].answer.len()));
    Ok(block.iter().map(of_item).collect())
}

/// The log-probability of each token after its hidden state, and whether greedy decoding takes it.
pub(crate) fn score_tokens(
    model: &Model,
    team: Team<'_>,
    hidden: &[f32],
    tokens: &[u32],
    norm: impl Fn(&[f32]) -> Vec<f32>,
) -> Vec<(f64, bool)> {
    let (width, vocab) = (model.config().hidden_size, model.config().vocab_size);
    let mut scored = Vec::with_capacity(tokens.len());
    let mut logits = vec![0.0; tokens.len().min(LOGIT_ROWS) * vocab];
    for (hidden, tokens) in hidden.chunks(LOGIT_ROWS * width).zip(tokens.chunks(LOGIT_ROWS)) {
        let logits = &mut logits[..tokens.len() * vocab];
        model.head_into(team, &norm(hidden), logits);
        for (row, token) in logits.chunks_exact(vocab).zip(tokens) {
            let logprob = f64::from(row[*token as usize]) - log_sum_exp(row);
            scored.push((logprob, argmax(row) == *token as usize));
        }
    }
    scored
}

/// The score of an answer from its tokens'.
pub(crate) fn item_score(tokens: impl Iterator<Item = (f64, bool)>) -> ItemScore {
    let mut score = ItemScore { nll: 0.0, logprobs: Vec::new(), greedy: true, first_miss: None };
    for (i, (logprob, greedy)) in tokens.enumerate() {
        if score.greedy && !greedy {
            score.greedy = false;
            score.first_miss = Some(i);
        }
        score.nll -= logprob;
        score.logprobs.push(logprob as f32);
    }
    score
}
