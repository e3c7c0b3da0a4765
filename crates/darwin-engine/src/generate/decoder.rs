//! Decodes sequences: new ones join as others end.

use super::sample::Sampler;
use super::{Chosen, Finish, GROUP, Generation, Generator, Request};
use crate::cache::{Caches, SequenceCache};
use crate::finite::first_not_finite;
use crate::kernels::{Buffer, scratch};
use crate::layer::Pass;
use crate::layers::MAX_GROUP_TOKENS;
use crate::mixer::Block;
use crate::probe::Probe;
use crate::team::Team;
use crate::text::TextStream;
use crate::workspaces::Borrowed;
use crate::{Cost, Error, NonFinite};
use darwin_core::Cancel;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Requests that no thread has taken yet.
pub(super) struct Queue<'a> {
    requests: &'a [Request<'a>],
    taken: AtomicUsize,
}

impl<'a> Queue<'a> {
    pub(super) fn new(requests: &'a [Request<'a>]) -> Self {
        Self { requests, taken: AtomicUsize::new(0) }
    }

    /// Takes up to `n` requests, by index.
    fn take(&self, n: usize) -> Range<usize> {
        let first = self.taken.fetch_add(n, Ordering::Relaxed).min(self.requests.len());
        first..(first + n).min(self.requests.len())
    }
}

/// A sequence in the making.
struct Running<'a> {
    /// Which of the requests.
    index: usize,
    prompt: &'a [u32],
    /// What the caller believes will come, cut where the sequence would end.
    draft: &'a [u32],
    /// New tokens; the last one goes through the layers next.
    out: Vec<u32>,
    /// Most new tokens.
    limit: usize,
    cache: SequenceCache,
    sampler: Sampler,
    stream: Option<TextStream<'a>>,
    text: String,
    finish: Option<Finish>,
}

/// Tokens to feed after a cache, and after how many of the last ones tokens shall be chosen.
struct Feed<'a> {
    /// Which of the requests.
    request: usize,
    ids: &'a [u32],
    choices: usize,
    cache: &'a mut SequenceCache,
    /// One choice each.
    samplers: Vec<&'a Sampler>,
    prompt: &'a [u32],
    /// New tokens up to the last of `ids`.
    new: &'a [u32],
}

/// Decodes sequences.
pub(super) struct Decoder<'a> {
    by: &'a Generator<'a>,
    team: Team<'a>,
    cancel: &'a Cancel,
    work: Borrowed<'a>,
    hidden: Vec<f32>,
    normed: Buffer,
    logits: Buffer,
    cost: Cost,
    done: Vec<(usize, Generation)>,
}

/// Generations by the index of their requests, and what they cost.
pub(super) type Done = (Vec<(usize, Generation)>, Cost);

impl<'a> Decoder<'a> {
    pub(super) fn new(by: &'a Generator<'a>, team: Team<'a>, cancel: &'a Cancel) -> Self {
        Self {
            by,
            team,
            cancel,
            work: by.model.workspace(),
            hidden: Vec::new(),
            normed: Buffer::default(),
            logits: Buffer::default(),
            cost: Cost::default(),
            done: Vec::new(),
        }
    }

    /// Continues requests of the queue, at most `together` at once, until none is left.
    pub(super) fn run(mut self, queue: &Queue<'a>, together: usize) -> Result<Done, Error> {
        let mut running = Vec::new();
        loop {
            let joined = running.len();
            for index in queue.take(together - joined) {
                running.push(Running::new(self.by, index, &queue.requests[index]));
            }
            if running.is_empty() {
                return Ok((self.done, self.cost));
            }
            match self.advance(&mut running, joined) {
                Ok(()) => {}
                Err(Error::Cancelled) => running.iter_mut().for_each(|r| r.interrupt(self.by)),
                Err(error) => return Err(error),
            }
            self.leave(&mut running);
        }
    }

    /// Starts the sequences from `joined` on, and gives every sequence a token.
    fn advance(&mut self, running: &mut [Running<'a>], joined: usize) -> Result<(), Error> {
        if joined < running.len() {
            let drafted = self.prefill(&mut running[joined..])?;
            self.verify(drafted)?;
        }
        let mut live: Vec<&mut Running<'_>> =
            running.iter_mut().filter(|r| r.finish.is_none()).collect();
        let chosen = self.feed(live.iter_mut().map(|r| r.next()).collect())?;
        for (r, ids) in live.into_iter().zip(chosen) {
            r.emit(self.by, ids[0]);
        }
        Ok(())
    }

    /// Runs the prompts, equal ones that stand beside each other once, and takes the first choices;
    /// the sequences whose draft begins with it, which they do not have yet.
    fn prefill<'r>(
        &mut self,
        new: &'r mut [Running<'a>],
    ) -> Result<Vec<&'r mut Running<'a>>, Error> {
        let mut groups: Vec<&mut [Running<'a>]> = new
            .chunk_by_mut(|a, b| a.prompt == b.prompt)
            .filter(|group| group[0].limit > 0)
            .collect();
        let feeds = groups.iter_mut().map(|group| {
            let samplers = group.iter().map(|r| r.sampler.clone()).collect();
            (group, samplers)
        });
        let mut feeds: Vec<(_, Vec<Sampler>)> = feeds.collect();
        let fed = feeds.iter_mut().map(|(group, samplers)| {
            let samplers = samplers.iter().collect();
            let r = &mut group[0];
            let (ids, prompt, cache) = (r.prompt, r.prompt, &mut r.cache);
            Feed { request: r.index, ids, choices: 1, cache, samplers, prompt, new: &[] }
        });
        let chosen = self.feed(fed.collect())?;
        drop(feeds);
        let mut drafted = Vec::new();
        for (group, chosen) in groups.into_iter().zip(chosen) {
            self.cost.tokens += (group.len() - 1) as u64 * group[0].prompt.len() as u64;
            let (first, others) = group.split_at_mut(1);
            others.iter_mut().for_each(|r| r.cache.clone_from(&first[0].cache));
            for (r, id) in group.iter_mut().zip(chosen) {
                if r.draft.first() == Some(&id) {
                    drafted.push(r);
                } else {
                    r.emit(self.by, id);
                }
            }
        }
        Ok(drafted)
    }

    /// Takes over what each draft shares with the model's choices, and its choice after that. Each
    /// cache ends up before that choice.
    fn verify(&mut self, mut drafted: Vec<&mut Running<'a>>) -> Result<(), Error> {
        let before: Vec<SequenceCache> = drafted.iter().map(|r| r.cache.clone()).collect();
        let feeds = drafted.iter_mut().map(|r| {
            let ids = r.worth_feeding(self.by);
            let (choices, samplers) = (ids.len(), vec![&r.sampler]);
            let (request, prompt, cache) = (r.index, r.prompt, &mut r.cache);
            Feed { request, ids, choices, cache, samplers, prompt, new: ids }
        });
        let follows = self.feed(feeds.collect())?;
        let mut again = Vec::new();
        for ((r, before), follows) in drafted.into_iter().zip(before).zip(follows) {
            let same = 1 + r.draft[1..].iter().zip(&follows).take_while(|(d, f)| d == f).count();
            let next = follows.get(same - 1);
            for id in r.draft[..same].iter().chain(next) {
                if r.finish.is_none() {
                    r.emit(self.by, *id);
                }
            }
            if same < follows.len() && r.finish.is_none() {
                // the cache has seen tokens that were refused
                r.cache = before;
                let (ids, prompt) = (&r.draft[..same], r.prompt);
                let (request, cache, samplers) = (r.index, &mut r.cache, vec![]);
                again.push(Feed { request, ids, choices: 0, cache, samplers, prompt, new: ids });
            }
        }
        self.feed(again).map(drop)
    }

    /// Takes the sequences that have ended out of the batch.
    fn leave(&mut self, running: &mut Vec<Running<'a>>) {
        for r in running.extract_if(.., |r| r.finish.is_some()) {
            let finish = r.finish.unwrap_or(Finish::Length);
            self.done.push((r.index, Generation { ids: r.out, text: r.text, finish }));
        }
    }

    /// Feeds sequences, in blocks of about [`MAX_GROUP_TOKENS`]; the choices of each, position by
    /// position.
    fn feed(&mut self, mut feeds: Vec<Feed<'_>>) -> Result<Vec<Vec<u32>>, Error> {
        let mut chosen = Vec::with_capacity(feeds.len());
        let mut rest = feeds.as_mut_slice();
        while !rest.is_empty() {
            let mut offsets = vec![0];
            self.hidden.clear();
            for feed in rest.iter() {
                self.by.model.embed_into(feed.ids, &mut self.hidden);
                offsets.push(offsets[offsets.len() - 1] + feed.ids.len());
                if offsets[offsets.len() - 1] >= MAX_GROUP_TOKENS {
                    break;
                }
            }
            let (block, after) = rest.split_at_mut(offsets.len() - 1);
            rest = after;
            let done = self.forward(&offsets, block.iter_mut().map(|f| &mut *f.cache).collect());
            done.map_err(|error| error.at(|i, at| (block[i].request, block[i].before() + at)))?;
            self.choose(block, &offsets, &mut chosen)?;
        }
        Ok(chosen)
    }

    /// `hidden` through all layers.
    fn forward(&mut self, offsets: &[usize], caches: Vec<&mut SequenceCache>) -> Result<(), Error> {
        if self.cancel.is_cancelled() {
            return Err(Error::Cancelled);
        }
        let tokens = offsets.last().map_or(0, |n| *n as u64);
        self.cost += Cost { tokens, run: tokens };
        let layers = 0..self.by.model.config().num_hidden_layers;
        let (caches, probe) = (Caches::Kept(caches), Probe::none());
        let blocks = Block::cut(offsets);
        let mut pass = Pass { blocks, caches, team: self.team, work: &mut self.work, probe };
        self.by.model.forward(&mut self.hidden, layers, &mut pass)
    }

    /// The choices after the last rows of each sequence of a block.
    fn choose(
        &mut self,
        block: &[Feed<'_>],
        offsets: &[usize],
        chosen: &mut Vec<Vec<u32>>,
    ) -> Result<(), Error> {
        let model = self.by.model;
        let (width, vocab) = (model.config().hidden_size, model.config().vocab_size);
        let first = chosen.len();
        chosen.extend(block.iter().map(|feed| Vec::with_capacity(feed.choices)));
        // (row, feed, new tokens that come before)
        let mut rows: Vec<(usize, usize, &[u32])> = Vec::new();
        for (i, (feed, end)) in block.iter().zip(&offsets[1..]).enumerate() {
            rows.extend(
                (0..feed.choices)
                    .rev()
                    .map(|after| (end - 1 - after, i, &feed.new[..feed.new.len() - after])),
            );
        }
        for rows in rows.chunks(GROUP) {
            let mut hidden = Vec::with_capacity(rows.len() * width);
            for (row, ..) in rows {
                hidden.extend_from_slice(&self.hidden[row * width..(row + 1) * width]);
            }
            let normed = scratch(&mut self.normed, hidden.len());
            model.final_norm_into(&hidden, normed);
            let logits = scratch(&mut self.logits, rows.len() * vocab);
            model.head_into(self.team, normed, logits);
            for ((_, i, new), logits) in rows.iter().zip(logits.chunks_exact(vocab)) {
                let Feed { request, samplers, prompt, .. } = &block[*i];
                if let Some((_, value)) = first_not_finite(logits, vocab) {
                    let position = prompt.len() + new.len() - 1;
                    let found = NonFinite::of_head(value, *request, position);
                    return Err(Error::NotFinite(found));
                }
                let ids = samplers.iter().map(|sampler| sampler.pick(prompt, new, logits));
                chosen[first + i].extend(ids);
            }
        }
        Ok(())
    }
}

impl Feed<'_> {
    /// Tokens of the sequence before `ids`.
    fn before(&self) -> usize {
        self.prompt.len() + self.new.len() - self.ids.len()
    }
}

impl<'a> Running<'a> {
    fn new(by: &'a Generator<'a>, index: usize, request: &Request<'a>) -> Self {
        let room = by.model.config().max_position_embeddings - request.prompt.len();
        let limit = by.options.max_new_tokens.min(room);
        let stop = request.draft.iter().position(|id| by.options.stop.contains(id));
        let draft = &request.draft[..stop.map_or(request.draft.len(), |i| i + 1).min(limit)];
        Self {
            index,
            prompt: request.prompt,
            draft,
            out: Vec::new(),
            limit,
            cache: SequenceCache::new(by.model.config()),
            sampler: Sampler::new(by.sampling, request.sequence),
            stream: by.text.map(|text| TextStream::new(text, by.skip_special, by.stop_strings)),
            text: String::new(),
            finish: (limit == 0).then_some(Finish::Length),
        }
    }

    /// The last token, to be fed.
    fn next(&mut self) -> Feed<'_> {
        Feed {
            request: self.index,
            ids: &self.out[self.out.len().saturating_sub(1)..],
            choices: 1,
            cache: &mut self.cache,
            samplers: vec![&self.sampler],
            prompt: self.prompt,
            new: &self.out,
        }
    }

    /// The draft without the token that ends the sequence, for nothing follows that.
    fn worth_feeding(&self, by: &Generator<'_>) -> &'a [u32] {
        let ends = self.draft.len() == self.limit
            || self.draft.last().is_some_and(|id| by.options.stop.contains(id));
        &self.draft[..self.draft.len() - usize::from(ends)]
    }

    /// Takes over a token, and finds out whether it is the last one.
    fn emit(&mut self, by: &Generator<'_>, id: u32) {
        self.out.push(id);
        let stops = by.options.stop.contains(&id);
        let mut text = String::new();
        let mut stopped = None;
        if let Some(stream) = &mut self.stream {
            if !stops || !by.skip_special {
                text = stream.push(id);
            }
            stopped = stream.stopped().map(|which| by.stop_strings[which].clone());
        }
        self.finish = if stops {
            Some(Finish::StopId(id))
        } else if let Some(stop) = stopped {
            Some(Finish::StopString(stop))
        } else if self.out.len() < self.limit {
            None
        } else if self.limit < by.options.max_new_tokens {
            Some(Finish::Context)
        } else {
            Some(Finish::Length)
        };
        if self.finish.is_some() {
            text.extend(self.stream.as_mut().map(TextStream::finish));
        }
        self.say(by, Some(id), &text);
    }

    /// Ends the sequence where it is.
    fn interrupt(&mut self, by: &Generator<'_>) {
        if self.finish.is_none() {
            self.finish = Some(Finish::Interrupted);
            if let Some(rest) = self.stream.as_mut().map(TextStream::finish) {
                self.say(by, None, &rest);
            }
        }
    }

    fn say(&mut self, by: &Generator<'_>, id: Option<u32>, text: &str) {
        self.text.push_str(text);
        if let Some(listener) = by.listener {
            listener(&Chosen { request: self.index, id, text });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{GenerateOptions, Model, Sampling};
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
        let options = GenerateOptions { max_new_tokens: 1, stop: vec![] };
        let (by, cancel) = (Generator::new(model, &options), Cancel::default());
        let ids: Vec<u32> = (0..70).map(|i| i * 31 % model.config().vocab_size as u32).collect();
        let sampler = Sampler::new(Sampling::default(), 0);
        let hidden = |parts: &[usize]| {
            let mut decoder = Decoder::new(&by, Team::alone(), &cancel);
            let mut cache = SequenceCache::new(model.config());
            let (mut all, mut rest) = (Vec::new(), ids.as_slice());
            for n in parts {
                let (now, after) = rest.split_at(*n);
                rest = after;
                let (cache, samplers) = (&mut cache, vec![&sampler]);
                let (prompt, new) = (&[][..], now);
                let feed = Feed { request: 0, ids: now, choices: 0, cache, samplers, prompt, new };
                decoder.feed(vec![feed]).unwrap();
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
