//! Greedy generation.

use crate::cache::{Caches, SequenceCache};
use crate::families::qwen3_5_moe::Workspace;
use crate::kernels::{argmax, scratch};
use crate::model::LOGIT_ROWS;
use crate::probe::Probe;
use crate::{Cost, Error, Model};
use darwin_core::Cancel;
use rayon::prelude::*;

/// Prompts that are decoded together on one thread.
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
    let group = prompts.len().div_ceil(rayon::current_num_threads()).clamp(1, GROUP);
    let groups = jobs
        .par_chunks(group)
        .map(|jobs| Decoder::new(model, options, cancel).run(jobs))
        .collect::<Result<Vec<_>, Error>>()?;
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
struct Running {
    /// Which of the group's prompts.
    index: usize,
    /// The last token, which has not gone through the layers yet.
    next: u32,
}

/// Decodes a group of prompts on one thread.
struct Decoder<'a> {
    model: &'a Model,
    options: &'a GenerateOptions,
    cancel: &'a Cancel,
    work: Workspace,
    hidden: Vec<f32>,
    normed: Vec<f32>,
    logits: Vec<f32>,
    cost: Cost,
    /// New tokens of each prompt.
    out: Vec<Vec<u32>>,
}

impl<'a> Decoder<'a> {
    fn new(model: &'a Model, options: &'a GenerateOptions, cancel: &'a Cancel) -> Self {
        Self {
            model,
            options,
            cancel,
            work: Workspace::default(),
            hidden: Vec::new(),
            normed: Vec::new(),
            logits: Vec::new(),
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
        let mut running = Vec::with_capacity(jobs.len());
        let mut caches = Vec::with_capacity(jobs.len());
        for (index, (prompt, draft)) in jobs.iter().enumerate() {
            let mut cache = SequenceCache::new(self.model.config());
            let first = self.feed(prompt, 1, &mut cache)?[0];
            let next = self.verify(index, first, draft, &mut cache)?;
            if !self.is_done(index) {
                running.push(Running { index, next });
                caches.push(cache);
            }
        }
        self.decode(running, caches)?;
        Ok((self.out, self.cost))
    }

    /// Takes what the draft shares with greedy decoding, and the first token after that, which is
    /// returned; `first` is the model's own first token. The cache ends up before that token.
    fn verify(
        &mut self,
        index: usize,
        first: u32,
        draft: &[u32],
        cache: &mut SequenceCache,
    ) -> Result<u32, Error> {
        let end = draft.iter().position(|id| self.options.stop.contains(id)).map(|i| i + 1);
        let draft = &draft[..end.unwrap_or(draft.len()).min(self.options.max_new_tokens)];
        if draft.first() != Some(&first) {
            self.out[index].push(first);
            return Ok(first);
        }
        // nothing needs to follow a draft that would end the sequence
        let closes = draft.len() == self.options.max_new_tokens
            || draft.last().is_some_and(|id| self.options.stop.contains(id));
        let fed = &draft[..draft.len() - usize::from(closes)];
        let before = cache.clone();
        let follows = self.feed(fed, fed.len(), cache)?;
        let same = 1 + draft[1..].iter().zip(&follows).take_while(|(d, f)| d == f).count();
        self.out[index].extend_from_slice(&draft[..same]);
        if same == draft.len() && closes {
            return Ok(draft[same - 1]);
        }
        let next = follows[same - 1];
        self.out[index].push(next);
        if same < fed.len() && !self.is_done(index) {
            *cache = before;
            self.feed(&draft[..same], 0, cache)?;
        }
        Ok(next)
    }

    /// Feeds tokens of one sequence; the model's choice after each of the last `wanted`.
    fn feed(
        &mut self,
        ids: &[u32],
        wanted: usize,
        cache: &mut SequenceCache,
    ) -> Result<Vec<u32>, Error> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        self.hidden.clear();
        self.model.embed_into(ids, &mut self.hidden);
        self.forward(&[0, ids.len()], std::slice::from_mut(cache))?;
        let mut chosen = Vec::with_capacity(wanted);
        self.choose(ids.len() - wanted..ids.len(), |id| chosen.push(id));
        Ok(chosen)
    }

    /// Token after token for all running sequences together.
    fn decode(
        &mut self,
        mut running: Vec<Running>,
        mut caches: Vec<SequenceCache>,
    ) -> Result<(), Error> {
        let mut offsets: Vec<usize> = (0..=running.len()).collect();
        while !running.is_empty() {
            self.hidden.clear();
            for sequence in &running {
                self.model.embed_into(&[sequence.next], &mut self.hidden);
            }
            offsets.truncate(running.len() + 1);
            self.forward(&offsets, &mut caches)?;
            let mut all = running.iter_mut();
            self.choose(0..offsets.len() - 1, |id| {
                if let Some(sequence) = all.next() {
                    sequence.next = id;
                }
            });
            for i in (0..running.len()).rev() {
                let Running { index, next } = running[i];
                self.out[index].push(next);
                if self.is_done(index) {
                    running.swap_remove(i);
                    caches.swap_remove(i);
                }
            }
        }
        Ok(())
    }

    fn is_done(&self, index: usize) -> bool {
        let out = &self.out[index];
        out.len() >= self.options.max_new_tokens
            || out.last().is_some_and(|id| self.options.stop.contains(id))
    }

    /// `hidden` through all layers.
    fn forward(&mut self, offsets: &[usize], caches: &mut [SequenceCache]) -> Result<(), Error> {
        if self.cancel.is_cancelled() {
            return Err(Error::Cancelled);
        }
        self.cost.tokens += offsets.last().map_or(0, |n| *n as u64);
        let layers = 0..self.model.config().num_hidden_layers;
        let mut caches = Caches::Kept(caches);
        let probe = &mut Probe::none();
        self.model.forward(&mut self.hidden, offsets, layers, &mut caches, &mut self.work, probe)
    }

    /// Calls `f` with the most likely next token after each of some rows of `hidden`.
    fn choose(&mut self, rows: std::ops::Range<usize>, mut f: impl FnMut(u32)) {
        let (width, vocab) = (self.model.config().hidden_size, self.model.config().vocab_size);
        for hidden in self.hidden[rows.start * width..rows.end * width].chunks(LOGIT_ROWS * width) {
            let normed = scratch(&mut self.normed, hidden.len());
            self.model.final_norm_into(hidden, normed);
            let logits = scratch(&mut self.logits, hidden.len() / width * vocab);
            self.model.head_into(normed, logits);
            logits.chunks_exact(vocab).for_each(|row| f(argmax(row) as u32));
        }
    }
}
