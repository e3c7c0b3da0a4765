//! Many models of one shape on the same items, in one pass over their layers.

mod items;

use crate::digest::{Digests, digest};
use crate::kernels::Pool;
use crate::layers::Layers;
use crate::score::{check_items, item_score, score_tokens};
use crate::states::States;
use crate::sweep::{Room, ahead};
use crate::team::all_of;
use crate::{
    Batch, Config, Cost, Error, Head, Interventions, ItemScore, LayerSource, NoTap, NonFinite,
    ScoreItem, State, Stream,
};
use darwin_checkpoint::TensorSource;
use darwin_core::{Cancel, Progress};
use items::{Asked, asked, batches};
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// Rows of logits that a thread computes together.
const ROWS: usize = 48;

/// Models that are scored together: the children of a generation. Layer by layer, each reads its
/// weights while the one before computes; two layers are in memory, however many models there are.
/// As long as models have had the same weights they are computed as one. Where the models are made
/// of the same parents, a [`Memo`](darwin_checkpoint::Memo) with room for a layer around each
/// parent lets all of them share what is read.
pub struct CandidateSet<'a> {
    sources: Vec<&'a dyn TensorSource>,
}

/// What scoring a [`CandidateSet`] gives.
#[derive(Debug)]
pub struct CandidateScores {
    /// For each candidate its scores in the order of the items, or what went wrong with it.
    pub scores: Vec<Result<Vec<ItemScore>, Error>>,
    /// Tokens of one candidate, and those that went through all layers for all together.
    pub cost: Cost,
}

/// Candidates whose states are the same.
#[derive(Debug)]
struct Group {
    members: Vec<usize>,
    /// Numbers of the states, one for each batch.
    states: Vec<usize>,
}

/// A layer of a candidate, and what its values digest to where that is of interest.
type Read = Result<(Layers, Option<[u64; 2]>), Error>;

impl<'a> CandidateSet<'a> {
    /// A set of sources. They are opened when they are scored, so that one that cannot be run does
    /// not stop the others.
    #[must_use]
    pub fn new(sources: Vec<&'a dyn TensorSource>) -> Self {
        Self { sources }
    }

    /// Scores items with every candidate: bit for bit what [`score`](crate::score) gives for each
    /// alone. Progress is in candidates times layers.
    ///
    /// # Errors
    /// [`Error::Cancelled`], [`Error::Scratch`]; bad items. A candidate's own failure is its own
    /// result.
    pub fn score(
        &self,
        items: &[ScoreItem],
        room: &Room,
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Result<CandidateScores, Error> {
        let digests: Vec<Digests<'_>> = self.sources.iter().map(|s| Digests::new(*s)).collect();
        let sources: Vec<_> = digests.iter().map(Digests::source).collect();
        let mut pass = Pass::open(&digests, &sources, items, room, cancel)?;
        pass.begin()?;
        pass.run(progress)?;
        pass.finish()
    }
}

/// A pass of all candidates.
struct Pass<'a> {
    digests: &'a [Digests<'a>],
    /// Those that can be run.
    streams: Vec<Option<Stream<'a>>>,
    failed: Vec<Option<Error>>,
    items: &'a [ScoreItem],
    batches: Vec<Batch>,
    room: &'a Room,
    cancel: &'a Cancel,
    states: States,
    groups: Vec<Group>,
    layer_tokens: u64,
}

impl<'a> Pass<'a> {
    /// `sources` are those of `digests`.
    fn open(
        digests: &'a [Digests<'a>],
        sources: &'a [impl TensorSource],
        items: &'a [ScoreItem],
        room: &'a Room,
        cancel: &'a Cancel,
    ) -> Result<Self, Error> {
        // What one candidate's layer leaves behind is the next one's.
        let pool = Arc::<Pool>::default();
        let opened: Vec<Result<Stream<'a>, Error>> =
            sources.iter().map(|source| Stream::open_with(source, pool.clone())).collect();
        let config = opened.iter().find_map(|s| s.as_ref().ok()).map(|s| s.config().clone());
        if let Some(config) = &config {
            check_items(config, items)?;
        }
        let (mut streams, mut failed) = (Vec::new(), Vec::new());
        for stream in opened {
            let (stream, error) = match stream {
                Ok(stream) if Some(stream.config()) == config.as_ref() => (Some(stream), None),
                Ok(_) => (None, Some(Error::Shapes)),
                Err(error) => (None, Some(error)),
            };
            streams.push(stream);
            failed.push(error);
        }
        let states = States::new(room);
        let (batches, groups) = (batches(items), Vec::new());
        let layer_tokens = 0;
        Ok(Self {
            digests,
            streams,
            failed,
            items,
            batches,
            room,
            cancel,
            states,
            groups,
            layer_tokens,
        })
    }

    /// Embeds the batches; candidates of the same embeddings begin as one.
    fn begin(&mut self) -> Result<(), Error> {
        let mut known: Vec<([u64; 2], usize)> = Vec::new();
        for candidate in 0..self.streams.len() {
            let Some(stream) = &self.streams[candidate] else { continue };
            let mut sum = [0; 2];
            let seen = stream.embed(&self.batches, self.room.embedding, &mut |state| {
                let own = digest([sum[0] as usize, 0], &state.hidden);
                sum.iter_mut().zip(own).for_each(|(sum, own)| *sum ^= own);
                Ok(())
            });
            if let Err(error) = seen {
                self.fail(candidate, error);
                continue;
            }
            if let Some((_, group)) = known.iter().find(|(digest, _)| *digest == sum) {
                self.groups[*group].members.push(candidate);
                continue;
            }
            let (mut states, store) = (Vec::new(), &mut self.states);
            stream.embed(&self.batches, self.room.embedding, &mut |state| {
                states.push(store.push(state)?);
                Ok(())
            })?;
            known.push((sum, self.groups.len()));
            self.groups.push(Group { members: vec![candidate], states });
        }
        Ok(())
    }

    /// All layers of all candidates.
    fn run(&mut self, progress: &dyn Progress) -> Result<(), Error> {
        let layers =
            self.streams.iter().flatten().next().map_or(0, |s| s.config().num_hidden_layers);
        let all = self.streams.len();
        let streams = std::mem::take(&mut self.streams);
        // Whoever is alone need not be compared any more.
        let together: Mutex<Vec<bool>> = Mutex::new(vec![true; all]);
        let (digests, lock) = (self.digests, "nobody panics while it holds the lock");
        let read = |number: usize| -> Option<Read> {
            let (layer, candidate) = (number / all, number % all);
            let stream = streams[candidate].as_ref()?;
            let read = stream.layer(layer).map(|layers| {
                let digest = digests[candidate].take(layer);
                let compared = together.lock().expect(lock)[candidate];
                (layers, compared.then_some(digest))
            });
            Some(read)
        };
        let mut next: BTreeMap<(usize, [u64; 2]), usize> = BTreeMap::new();
        let mut after: Vec<Group> = Vec::new();
        let done = ahead(layers * all, self.room.prefetch, read, |number, read| {
            let (layer, candidate) = (number / all, number % all);
            if candidate == 0 {
                next.clear();
                progress.note(&format!("layer {} of {layers}", layer + 1));
            }
            match read {
                Some(Ok((weights, digest))) => {
                    self.step(layer, candidate, &weights, digest, &mut next, &mut after)?;
                }
                Some(Err(error)) => self.fail(candidate, error),
                None => {}
            }
            progress.advance(1);
            if candidate + 1 == all {
                self.turn(&mut after);
                let mut together = together.lock().expect(lock);
                together.fill(false);
                for group in self.groups.iter().filter(|g| g.members.len() > 1) {
                    group.members.iter().for_each(|member| together[*member] = true);
                }
            }
            Ok(())
        });
        self.streams = streams;
        done
    }

    /// A candidate's layer: with the states of its group, unless another member had the same one.
    fn step(
        &mut self,
        layer: usize,
        candidate: usize,
        weights: &Layers,
        digest: Option<[u64; 2]>,
        next: &mut BTreeMap<(usize, [u64; 2]), usize>,
        after: &mut Vec<Group>,
    ) -> Result<(), Error> {
        let Some(from) = self.groups.iter().position(|g| g.members.contains(&candidate)) else {
            return Ok(());
        };
        if let Some(same) = digest.and_then(|digest| next.get(&(from, digest))) {
            after[*same].members.push(candidate);
            return Ok(());
        }
        // The others of the group may need its states.
        let alone = self.groups[from].members.len() == 1;
        let mut states = Vec::with_capacity(self.batches.len());
        for (batch, number) in self.groups[from].states.clone().into_iter().enumerate() {
            if self.cancel.is_cancelled() {
                return Err(Error::Cancelled);
            }
            let mut state = self.states.take(number)?;
            let ran = if alone {
                let ran = run(weights, layer, &mut state);
                self.layer_tokens += state.batch().tokens() as u64;
                self.states.put(number, state)?;
                states.push(number);
                ran
            } else {
                let mut own = state.clone();
                self.states.put(number, state)?;
                let ran = run(weights, layer, &mut own);
                self.layer_tokens += own.batch().tokens() as u64;
                states.push(self.states.push(own)?);
                ran
            };
            if let Err(error) = ran {
                if !alone {
                    states.into_iter().for_each(|number| self.states.forget(number));
                }
                let before: usize = self.batches[..batch].iter().map(|b| b.sequences().len()).sum();
                self.fail(candidate, error.at(|item, position| (before + item, position)));
                return Ok(());
            }
        }
        if let Some(digest) = digest {
            next.insert((from, digest), after.len());
        }
        if alone {
            self.groups[from].states.clear();
        }
        after.push(Group { members: vec![candidate], states });
        Ok(())
    }

    /// From the groups before a layer to those after it.
    fn turn(&mut self, after: &mut Vec<Group>) {
        for group in std::mem::replace(&mut self.groups, std::mem::take(after)) {
            group.states.into_iter().for_each(|number| self.states.forget(number));
        }
    }

    fn fail(&mut self, candidate: usize, error: Error) {
        self.failed[candidate].get_or_insert(error);
        for group in &mut self.groups {
            group.members.retain(|member| *member != candidate);
        }
    }

    /// The answers' scores by each candidate's own head.
    fn finish(mut self) -> Result<CandidateScores, Error> {
        let asked = asked(self.items, &self.batches);
        let config = self.streams.iter().flatten().next().map(|s| s.config().clone());
        let layers = config.as_ref().map_or(1, |c| c.num_hidden_layers) as u64;
        let mut scores = Vec::with_capacity(self.streams.len());
        for candidate in 0..self.streams.len() {
            let failed = self.failed[candidate].take();
            let group = self.groups.iter().position(|g| g.members.contains(&candidate));
            scores.push(match (failed, &self.streams[candidate], &config, group) {
                (Some(error), ..) => Err(error),
                (None, Some(stream), Some(config), Some(group)) => {
                    let numbers = self.groups[group].states.clone();
                    match stream.head(0..config.vocab_size) {
                        Ok(head) => self.answers(config, &head, &numbers, &asked)?,
                        Err(error) => Err(error),
                    }
                }
                _ => unreachable!("a candidate that has not failed is in a group"),
            });
        }
        let tokens = self.batches.iter().map(|b| b.tokens() as u64).sum();
        let cost = Cost { tokens, run: self.layer_tokens.div_ceil(layers) };
        Ok(CandidateScores { scores, cost })
    }

    /// The scores; the inner error is the candidate's own.
    fn answers(
        &mut self,
        config: &Config,
        head: &Head,
        states: &[usize],
        asked: &[Vec<Asked>],
    ) -> Result<Result<Vec<ItemScore>, Error>, Error> {
        let width = config.hidden_size;
        let mut tokens: Vec<Vec<(f64, bool)>> = self.items.iter().map(|_| Vec::new()).collect();
        let norm = |hidden: &[f32]| {
            let mut normed = vec![0.0; hidden.len()];
            head.norm_into(hidden, &mut normed);
            normed
        };
        for (number, asked) in states.iter().zip(asked) {
            let state = self.states.take(*number)?;
            let score = |asked: &[Asked]| {
                let rows = asked.iter().map(|a| &state.hidden[a.row * width..(a.row + 1) * width]);
                let targets: Vec<u32> = asked.iter().map(|a| a.target).collect();
                let scored = score_tokens(head, &rows.collect::<Vec<_>>().concat(), &targets, norm);
                scored.map_err(|(i, value)| {
                    let Asked { item, position, .. } = asked[i];
                    Error::NotFinite(NonFinite::of_head(value, item, position))
                })
            };
            let scored = all_of(asked.par_chunks(ROWS).map(score).collect());
            self.states.put(*number, state)?;
            let scored: Vec<_> = match scored {
                Ok(scored) => scored,
                Err(error) => return Ok(Err(error)),
            };
            for (asked, token) in asked.iter().zip(scored.into_iter().flatten()) {
                tokens[asked.item].push(token);
            }
        }
        Ok(Ok(tokens.into_iter().map(item_score).collect()))
    }
}

fn run(weights: &Layers, layer: usize, state: &mut State) -> Result<(), Error> {
    weights.run(state, layer..layer + 1, &mut NoTap, &Interventions::default())
}
