//! Greedy generation.

use crate::cache::{Caches, SequenceCache};
use crate::kernels::{Buffer, argmax, scratch};
use crate::layer::Pass;
use crate::mixer::Block;
use crate::model::MAX_GROUP_TOKENS;
use crate::probe::Probe;
use crate::team::{Team, run_all};
use crate::workspaces::Borrowed;
use crate::{Cost, Error, Model};
use darwin_core::Cancel;

/// Prompts that are decoded together.
const GROUP: usize = 64;

/// When generation ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GenerateOptions {
    /// At most so many new tokens for each prompt.
    pub max_new_tokens: usize,
    /// Ids that end a sequence; the id itself is part of the result.
    pub stop: Vec<u32>,
}

/// Greedy continuations of many prompts at once, in their order. `drafts[i]` (an empty slice of
/// drafts, or empty drafts, for none) is verified in one pass first, and only what follows the
/// first disagreement is decoded: the result equals plain greedy decoding.
///
/// # Errors
/// A token outside the vocabulary, an empty prompt, a context too long, cancellation.
pub fn generate(
    model: &Model,
    prompts: &[Vec<u32>],
    drafts: &[Vec<u32>],
    options: &GenerateOptions,
    cancel: &Cancel,
) -> Result<Vec<Vec<u32>>, Error> {
    generate_counted(model, prompts, drafts, options, cancel).map(|(ids, _)| ids)
}

/// [`generate`] with its cost.
///
/// # Errors
/// As [`generate`].
pub fn generate_counted(
    model: &Model,
    prompts: &[Vec<u32>],
    drafts: &[Vec<u32>],
    options: &GenerateOptions,
    cancel: &Cancel,
) -> Result<(Vec<Vec<u32>>, Cost), Error> {
    for (i, prompt) in prompts.iter().enumerate() {
        model.check_ids("prompt", i, prompt)?;
        model.check_length(i, prompt.len() + options.max_new_tokens)?;
    }
    let draft = |i: usize| drafts.get(i).map_or(&[][..], Vec::as_slice);
    let jobs: Vec<(&[u32], &[u32])> =
        prompts.iter().enumerate().map(|(i, p)| (p.as_slice(), draft(i))).collect();
    // of a large model every step reads the weights: then all sequences at once, on all threads
    let shared = model.is_large();
    let threads = if shared { 1 } else { rayon::current_num_threads() };
    let group = prompts.len().div_ceil(threads).clamp(1, GROUP);
    let groups = run_all(jobs.chunks(group).collect(), shared, |jobs: &[_], team| {
        Decoder::new(model, team, options, cancel).run(jobs)
    })?;
    let mut cost = Cost::default();
    let mut all = Vec::with_capacity(prompts.len());
    for (ids, group_cost) in groups {
        all.extend(ids);
        cost += group_cost;
    }
    Ok((all, cost))
}

/// A sequence in the making.
#[derive(Debug)]
struct Running<'a> {
    /// Which of the group's prompts.
    index: usize,
    /// The model's last choice, which has not gone through the layers yet.
    next: u32,
    cache: SequenceCache,
    /// What the caller believes will come, cut where the sequence would end.
    draft: &'a [u32],
}

/// Tokens to feed after a cache, and after how many of the last ones the model shall choose.
struct Feed<'a> {
    ids: &'a [u32],
    choices: usize,
    cache: &'a mut SequenceCache,
}

/// Decodes a group of prompts.
struct Decoder<'a> {
    model: &'a Model,
    team: Team<'a>,
    options: &'a GenerateOptions,
    cancel: &'a Cancel,
    work: Borrowed<'a>,
    hidden: Vec<f32>,
    normed: Buffer,
    logits: Buffer,
    cost: Cost,
    /// New tokens of each prompt.
    out: Vec<Vec<u32>>,
}

impl<'a> Decoder<'a> {
    fn new(
        model: &'a Model,
        team: Team<'a>,
        options: &'a GenerateOptions,
        cancel: &'a Cancel,
    ) -> Self {
        Self {
            model,
            team,
            options,
            cancel,
            work: model.workspace(),
            hidden: Vec::new(),
            normed: Buffer::default(),
            logits: Buffer::default(),
            cost: Cost::default(),
            out: Vec::new(),
        }
    }

    /// The continuations of (prompt, draft) pairs.
    fn run(mut self, jobs: &[(&[u32], &[u32])]) -> Result<(Vec<Vec<u32>>, Cost), Error> {
        self.out = vec![Vec::new(); jobs.len()];
        if self.options.max_new_tokens == 0 {
            return Ok((self.out, self.cost));
        }
        let mut running: Vec<Running<'_>> = Vec::with_capacity(jobs.len());
        for (index, (_, draft)) in jobs.iter().enumerate() {
            let cache = SequenceCache::new(self.model.config());
            running.push(Running { index, next: 0, cache, draft: self.cut(draft) });
        }
        let prompts = running.iter_mut().zip(jobs);
        let prompts = prompts.map(|(r, (ids, _))| Feed { ids, choices: 1, cache: &mut r.cache });
        let first = self.feed(prompts.collect())?;
        for (running, first) in running.iter_mut().zip(first) {
            running.next = first[0];
        }
        self.verify(&mut running)?;
        running.retain(|r| !self.is_done(r.index));
        self.decode(running)?;
        Ok((self.out, self.cost))
    }

    /// A draft up to where it would end the sequence.
    fn cut<'d>(&self, draft: &'d [u32]) -> &'d [u32] {
        let stop = draft.iter().position(|id| self.options.stop.contains(id));
        &draft[..stop.map_or(draft.len(), |i| i + 1).min(self.options.max_new_tokens)]
    }

    /// Takes over what each draft shares with greedy decoding, and the model's choice after that.
    /// Each cache ends up before that choice.
    fn verify(&mut self, running: &mut [Running<'_>]) -> Result<(), Error> {
        let mut drafted = Vec::new();
        for r in running {
            if r.draft.first() == Some(&r.next) {
                let before = r.cache.clone();
                drafted.push((r, before));
            } else {
                self.out[r.index].push(r.next);
            }
        }
        let feeds = drafted.iter_mut().map(|(r, _)| {
            let ids = self.worth_feeding(r.draft);
            Feed { ids, choices: ids.len(), cache: &mut r.cache }
        });
        let follows = self.feed(feeds.collect())?;
        let mut again = Vec::new();
        for ((r, before), follows) in drafted.into_iter().zip(follows) {
            let same = 1 + r.draft[1..].iter().zip(&follows).take_while(|(d, f)| d == f).count();
            self.out[r.index].extend_from_slice(&r.draft[..same]);
            if self.is_done(r.index) {
                continue;
            }
            r.next = follows[same - 1];
            self.out[r.index].push(r.next);
            if same < follows.len() && !self.is_done(r.index) {
                // the cache has seen tokens that were refused
                r.cache = before;
                again.push(Feed { ids: &r.draft[..same], choices: 0, cache: &mut r.cache });
            }
        }
        self.feed(again).map(drop)
    }

    /// A draft without the token that ends the sequence, for nothing follows that.
    fn worth_feeding<'d>(&self, draft: &'d [u32]) -> &'d [u32] {
        let ends = draft.len() == self.options.max_new_tokens
            || draft.last().is_some_and(|id| self.options.stop.contains(id));
        &draft[..draft.len() - usize::from(ends)]
    }

    /// Feeds sequences, in blocks of about [`MAX_GROUP_TOKENS`]; the choices of each.
    fn feed(&mut self, mut feeds: Vec<Feed<'_>>) -> Result<Vec<Vec<u32>>, Error> {
        let mut chosen = Vec::with_capacity(feeds.len());
        let mut rest = feeds.as_mut_slice();
        while !rest.is_empty() {
            let mut offsets = vec![0];
            self.hidden.clear();
            for feed in rest.iter() {
                self.model.embed_into(feed.ids, &mut self.hidden);
                offsets.push(offsets[offsets.len() - 1] + feed.ids.len());
                if offsets[offsets.len() - 1] >= MAX_GROUP_TOKENS {
                    break;
                }
            }
            let (block, after) = rest.split_at_mut(offsets.len() - 1);
            rest = after;
            let caches = block.iter_mut().map(|f| &mut *f.cache).collect();
            self.forward(&offsets, caches)?;
            for (feed, end) in block.iter().zip(&offsets[1..]) {
                let mut ids = Vec::with_capacity(feed.choices);
                self.choose(end - feed.choices..*end, |id| ids.push(id));
                chosen.push(ids);
            }
        }
        Ok(chosen)
    }

    /// Token after token for all running sequences together.
    fn decode(&mut self, mut running: Vec<Running<'_>>) -> Result<(), Error> {
        let offsets: Vec<usize> = (0..=running.len()).collect();
        while !running.is_empty() {
            self.hidden.clear();
            for sequence in &running {
                self.model.embed_into(&[sequence.next], &mut self.hidden);
            }
            let n = running.len();
            self.forward(&offsets[..=n], running.iter_mut().map(|r| &mut r.cache).collect())?;
            let mut all = running.iter_mut();
            self.choose(0..n, |id| {
                if let Some(sequence) = all.next() {
                    sequence.next = id;
                }
            });
            for r in &running {
                self.out[r.index].push(r.next);
            }
            running.retain(|r| !self.is_done(r.index));
        }
        Ok(())
    }

    fn is_done(&self, index: usize) -> bool {
        let out = &self.out[index];
        out.len() >= self.options.max_new_tokens
            || out.last().is_some_and(|id| self.options.stop.contains(id))
    }

    /// `hidden` through all layers.
    fn forward(&mut self, offsets: &[usize], caches: Vec<&mut SequenceCache>) -> Result<(), Error> {
        if self.cancel.is_cancelled() {
            return Err(Error::Cancelled);
        }
        self.cost.tokens += offsets.last().map_or(0, |n| *n as u64);
        let layers = 0..self.model.config().num_hidden_layers;
        let (caches, probe) = (Caches::Kept(caches), Probe::none());
        let blocks = Block::cut(offsets);
        let mut pass = Pass { blocks, caches, team: self.team, work: &mut self.work, probe };
        self.model.forward(&mut self.hidden, layers, &mut pass)
    }

    /// Calls `f` with the most likely next token after each of some rows of `hidden`.
    fn choose(&mut self, rows: std::ops::Range<usize>, mut f: impl FnMut(u32)) {
        let (width, vocab) = (self.model.config().hidden_size, self.model.config().vocab_size);
        for hidden in self.hidden[rows.start * width..rows.end * width].chunks(GROUP * width) {
            let normed = scratch(&mut self.normed, hidden.len());
            self.model.final_norm_into(hidden, normed);
            let logits = scratch(&mut self.logits, hidden.len() / width * vocab);
            self.model.head_into(self.team, normed, logits);
            logits.chunks_exact(vocab).for_each(|row| f(argmax(row) as u32));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use darwin_checkpoint::Checkpoint;
    use std::path::Path;

    /// The hidden states after all layers have the same bits whether the tokens came at once,
    /// in two parts, or one by one: every kind of mixer, router and rotary embedding.
    #[test]
    fn caches_do_not_change_a_bit() {
        let golden =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../darwin-testkit/fixtures/golden/engine");
        caches_change_nothing(&Model::load(&darwin_testkit::tiny_qwen35(1)).unwrap());
        for case in ["qwen3_next", "olmoe_clip", "qwen3", "deepseek_v2_groups", "deepseek_v3"] {
            let checkpoint = Checkpoint::open(golden.join(case)).unwrap();
            caches_change_nothing(&Model::load(&checkpoint).unwrap());
        }
    }

    fn caches_change_nothing(model: &Model) {
        let (options, cancel) =
            (GenerateOptions { max_new_tokens: 1, stop: vec![] }, Cancel::default());
        let ids: Vec<u32> = (0..70).map(|i| i * 31 % model.config().vocab_size as u32).collect();
        let hidden = |parts: &[usize]| {
            let mut decoder = Decoder::new(model, Team::alone(), &options, &cancel);
            let mut cache = SequenceCache::new(model.config());
            let (mut all, mut rest) = (Vec::new(), ids.as_slice());
            for n in parts {
                let (now, after) = rest.split_at(*n);
                rest = after;
                decoder.feed(vec![Feed { ids: now, choices: 0, cache: &mut cache }]).unwrap();
                all.extend_from_slice(&decoder.hidden);
            }
            all
        };
        let at_once = hidden(&[70]);
        for parts in [&[1; 70][..], &[33, 37], &[2, 0, 20, 48]] {
            assert_eq!(
                at_once,
                hidden(parts),
                "{} in {} parts",
                model.config().model_type,
                parts.len()
            );
        }
    }
}
