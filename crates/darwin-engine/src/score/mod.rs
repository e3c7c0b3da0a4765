//! Likelihoods of answers.

mod tree;

use crate::cache::{Caches, SequenceCache};
use crate::finite::first_not_finite;
use crate::head::LOGIT_ROWS;
use crate::kernels::{argmax, log_total};
use crate::layer::Pass;
use crate::layers::group_tokens;
use crate::mixer::Block;
use crate::probe::Probe;
use crate::team::{Team, all_of, run_all};
use crate::{Config, Error, Head, Model, NonFinite};
use darwin_core::Cancel;
use std::sync::Arc;
use tree::Node;

/// Sequences of a block whose memory is kept, for others to go on from or because they do.
const MAX_KEPT: usize = 64;

/// A prompt and the answer whose likelihood is asked for, as token ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScoreItem {
    /// The prompt; at least one token.
    pub prompt: Vec<u32>,
    /// The answer; at least one token.
    pub answer: Vec<u32>,
}

impl ScoreItem {
    /// How many of its tokens go through the layers: nothing follows the last one.
    #[must_use]
    pub fn fed_tokens(&self) -> usize {
        self.prompt.len() + self.answer.len() - 1
    }
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
    /// Tokens that would go through the layers if each sequence were alone: what budgets count, for
    /// it depends on nothing else in the call.
    pub tokens: u64,
    /// Tokens that went through the layers: a beginning that sequences share, once.
    pub run: u64,
}

impl std::ops::AddAssign for Cost {
    fn add_assign(&mut self, other: Self) {
        self.tokens += other.tokens;
        self.run += other.run;
    }
}

/// Scores items; results in their order. Bit for bit the same whatever the number of threads and
/// whatever else is scored in the same call. A beginning that items share (at least 16 tokens) goes
/// through the model once.
///
/// # Errors
/// A token outside the vocabulary, an empty prompt or answer, a context too long, cancellation;
/// [`Error::NotFinite`], its sequence being the item.
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
    check_items(model.config(), items)?;
    let fed: Vec<Vec<u32>> = items.iter().map(fed).collect();
    let nodes = tree::grow(items, &fed);
    let scorer = Scorer { model, items, fed: &fed, cancel };
    let jobs = nodes.iter().map(|node| Job { node, before: None }).collect();
    let scored = scorer.run(jobs)?;
    let blank = (0.0, false);
    let mut tokens: Vec<Vec<(f64, bool)>> =
        items.iter().map(|item| vec![blank; item.answer.len()]).collect();
    for token in scored {
        tokens[token.item][token.index] = (token.logprob, token.greedy);
    }
    let cost = Cost {
        tokens: fed.iter().map(|ids| ids.len() as u64).sum(),
        run: nodes.iter().map(|node| node.tokens() as u64).sum(),
    };
    Ok((tokens.into_iter().map(item_score).collect(), cost))
}

/// Checks that items can be scored.
pub(crate) fn check_items(config: &Config, items: &[ScoreItem]) -> Result<(), Error> {
    items.iter().enumerate().try_for_each(|(i, item)| {
        config.check_ids("prompt", i, &item.prompt)?;
        config.check_ids("answer of item", i, &item.answer)?;
        config.check_length(i, item.prompt.len() + item.answer.len())
    })
}

/// Tokens of an item that go through the layers: nothing follows the last one.
pub(crate) fn fed(item: &ScoreItem) -> Vec<u32> {
    [&item.prompt, &item.answer[..item.answer.len() - 1]].concat()
}

/// A node to run, and what is before it.
struct Job<'a> {
    node: &'a Node,
    before: Option<Arc<SequenceCache>>,
}

/// An answer's token after its score.
struct Scored {
    item: usize,
    /// Which of the answer's tokens.
    index: usize,
    logprob: f64,
    greedy: bool,
}

struct Scorer<'a> {
    model: &'a Model,
    items: &'a [ScoreItem],
    fed: &'a [Vec<u32>],
    cancel: &'a Cancel,
}

impl Scorer<'_> {
    /// Runs nodes and what follows them, in blocks for a thread each, or for all together.
    fn run(&self, jobs: Vec<Job<'_>>) -> Result<Vec<Scored>, Error> {
        let blocks = blocks(jobs);
        let shared = self.model.shares(blocks.len());
        let scored = run_all(blocks, shared, |block, team| self.run_tree(team, block))?;
        Ok(scored.into_iter().flatten().collect())
    }

    /// Runs a block and what follows it.
    fn run_tree(&self, team: Team<'_>, mut block: Vec<Job<'_>>) -> Result<Vec<Scored>, Error> {
        if self.cancel.is_cancelled() {
            return Err(Error::Cancelled);
        }
        let (mut scored, after) = self.run_block(team, &mut block)?;
        let blocks = blocks(after);
        let follows = if team.threads() > 1 {
            all_of(blocks.into_iter().map(|block| self.run_tree(team, block)).collect())
        } else {
            run_all(blocks, false, |block, team| self.run_tree(team, block))
        };
        scored.extend(follows?.into_iter().flatten());
        Ok(scored)
    }

    /// Runs a block; its scores, and what follows.
    fn run_block<'n>(
        &self,
        team: Team<'_>,
        block: &mut [Job<'n>],
    ) -> Result<(Vec<Scored>, Vec<Job<'n>>), Error> {
        let config = self.model.config();
        let mut hidden = Vec::new();
        let mut offsets = vec![0];
        for Job { node, .. } in &*block {
            self.model.embed_into(&self.fed[node.item][node.range.clone()], &mut hidden);
            offsets.push(offsets[offsets.len() - 1] + node.range.len());
        }
        let plain = block.first().is_none_or(Job::is_plain);
        let mut kept: Vec<SequenceCache> = Vec::new();
        if !plain {
            let after = |job: &mut Job<'_>| match job.before.take() {
                Some(before) => Arc::unwrap_or_clone(before),
                None => SequenceCache::new(config),
            };
            kept = block.iter_mut().map(after).collect();
        }
        let caches = if plain { Caches::fresh() } else { Caches::Kept(kept.iter_mut().collect()) };
        let work = &mut *self.model.workspace();
        let (probe, blocks) = (Probe::none(), Block::cut(&offsets));
        let mut pass = Pass { blocks, caches, team, work, probe };
        let place = |sequence: usize, position| {
            let node = block[sequence].node;
            (node.item, node.range.start + position)
        };
        self.model
            .forward(&mut hidden, 0..config.num_hidden_layers, &mut pass)
            .map_err(|error| error.at(place))?;
        let mut scored = Vec::new();
        self.score_rows(team, block, &offsets, &hidden, &mut scored)?;
        let mut after = Vec::new();
        for (job, cache) in block.iter().zip(kept).filter(|(job, _)| !job.node.children.is_empty())
        {
            let cache = Arc::new(cache);
            let child = |node| Job { node, before: Some(cache.clone()) };
            after.extend(job.node.children.iter().map(child));
        }
        Ok((scored, after))
    }

    /// The log-probability of each answer token after the hidden state before it, and whether
    /// greedy decoding takes it.
    fn score_rows(
        &self,
        team: Team<'_>,
        block: &[Job<'_>],
        offsets: &[usize],
        hidden: &[f32],
        scored: &mut Vec<Scored>,
    ) -> Result<(), Error> {
        let width = self.model.config().hidden_size;
        // (row of hidden, item, index of the answer's token), by row
        let mut asked: Vec<(usize, usize, usize)> = Vec::new();
        for (Job { node, .. }, first) in block.iter().zip(offsets) {
            asked.extend(node.asked.iter().map(|(position, item)| {
                let index = position + 1 - self.items[*item].prompt.len();
                (first + position - node.range.start, *item, index)
            }));
        }
        let mut rows: Vec<usize> = asked.iter().map(|(row, ..)| *row).collect();
        rows.dedup();
        let mut asked = asked.into_iter().peekable();
        let mut chosen = Vec::with_capacity(rows.len() * width);
        rows.iter().for_each(|row| chosen.extend_from_slice(&hidden[row * width..][..width]));
        each_logits(
            self.model.output(),
            team,
            &chosen,
            |h| self.model.final_norm(h),
            |i, logits| {
                let (total, best) = (log_total(logits), argmax(logits));
                while let Some((_, item, index)) = asked.next_if(|(of, ..)| *of == rows[i]) {
                    let ScoreItem { prompt, answer } = &self.items[item];
                    if let Some((_, value)) = first_not_finite(logits, logits.len()) {
                        let position = prompt.len() + index - 1;
                        return Err(Error::NotFinite(NonFinite::of_head(value, item, position)));
                    }
                    let token = answer[index] as usize;
                    let logprob = total.log_probability(logits[token]);
                    scored.push(Scored { item, index, logprob, greedy: best == token });
                }
                Ok(())
            },
        )
    }
}

/// Calls `f` with the number and the logits of each row of hidden states, after `norm`, up to the
/// first error.
fn each_logits<E>(
    head: &Head,
    team: Team<'_>,
    hidden: &[f32],
    norm: impl Fn(&[f32]) -> Vec<f32>,
    mut f: impl FnMut(usize, &[f32]) -> Result<(), E>,
) -> Result<(), E> {
    let (width, vocab) = (head.config.hidden_size, head.config.vocab_size);
    let mut logits = vec![0.0; (hidden.len() / width).min(LOGIT_ROWS) * vocab];
    for (i, hidden) in hidden.chunks(LOGIT_ROWS * width).enumerate() {
        let logits = &mut logits[..hidden.len() / width * vocab];
        head.multiply(team, &norm(hidden), logits);
        let mut rows = logits.chunks_exact(vocab).enumerate();
        rows.try_for_each(|(row, logits)| f(i * LOGIT_ROWS + row, logits))?;
    }
    Ok(())
}

/// The log-probability of each token after its hidden state, and whether greedy decoding takes it.
///
/// # Errors
/// The first row whose logits are not finite, and the value.
pub(crate) fn score_tokens(
    head: &Head,
    hidden: &[f32],
    tokens: &[u32],
    norm: impl Fn(&[f32]) -> Vec<f32>,
) -> Result<Vec<(f64, bool)>, (usize, f32)> {
    let mut scored = Vec::with_capacity(tokens.len());
    each_logits(head, Team::alone(), hidden, norm, |i, logits| {
        if let Some((_, value)) = first_not_finite(logits, logits.len()) {
            return Err((i, value));
        }
        let token = tokens[i] as usize;
        let logprob = log_total(logits).log_probability(logits[token]);
        scored.push((logprob, argmax(logits) == token));
        Ok(())
    })?;
    Ok(scored)
}

impl Job<'_> {
    /// Nothing is before it and nothing follows: no memory is needed.
    fn is_plain(&self) -> bool {
        self.before.is_none() && self.node.children.is_empty()
    }
}

/// Jobs, longest first, cut into blocks for a thread each; plain ones apart from others.
fn blocks(jobs: Vec<Job<'_>>) -> Vec<Vec<Job<'_>>> {
    let (plain, kept): (Vec<_>, Vec<_>) = jobs.into_iter().partition(Job::is_plain);
    let mut blocks = Vec::new();
    for (mut jobs, most) in [(plain, usize::MAX), (kept, MAX_KEPT)] {
        jobs.sort_by_key(|job| std::cmp::Reverse(job.node.range.len()));
        let enough = group_tokens(jobs.iter().map(|job| job.node.range.len()).sum());
        let (mut block, mut tokens) = (Vec::new(), 0);
        for job in jobs {
            tokens += job.node.range.len();
            block.push(job);
            if tokens >= enough || block.len() >= most {
                blocks.push(std::mem::take(&mut block));
                tokens = 0;
            }
        }
        if !block.is_empty() {
            blocks.push(block);
        }
    }
    blocks
}

/// The score of an answer from its tokens'.
pub(crate) fn item_score(tokens: impl IntoIterator<Item = (f64, bool)>) -> ItemScore {
    let mut score = ItemScore { nll: 0.0, logprobs: Vec::new(), greedy: true, first_miss: None };
    for (i, (logprob, greedy)) in tokens.into_iter().enumerate() {
        if score.greedy && !greedy {
            score.greedy = false;
            score.first_miss = Some(i);
        }
        score.nll -= logprob;
        score.logprobs.push(logprob as f32);
    }
    score
}
