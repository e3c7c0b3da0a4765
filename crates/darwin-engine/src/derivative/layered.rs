//! One layer of point and direction at a time: all batches through a layer before the next.

use super::head::{self, Ending};
use super::step::{Kept, Step, Tokens, Work};
use super::{Bundle, Derivatives, Pass, batch, parts};
use crate::layers::{MAX_GROUP_TOKENS, group_tokens};
use crate::states::States;
use crate::sweep::{ahead, each_layer};
use crate::team::{Team, run_all};
use crate::{Batch, Error, Interventions, Layers, NoTap, Room, State};
use std::sync::{Mutex, PoisonError};

/// Buffers of one thread.
#[derive(Default)]
struct Space {
    kept: Kept,
    work: Work,
    head: head::Work,
}

/// Items that go through a layer together, a bundle for each thread.
struct Group {
    bundles: Vec<Bundle>,
    tokens: usize,
}

/// A bundle, its values of a state, and where its results go.
struct Job<'a> {
    bundle: &'a Bundle,
    input: &'a [f32],
    grad: &'a mut [f32],
    nlls: &'a mut [f64],
    sums: &'a mut [f64],
}

impl Pass<'_> {
    /// Keeps inputs of layers.
    pub(super) fn layered(&self, room: &Room, result: &mut Derivatives) -> Result<(), Error> {
        let (point, direction, config) = (self.point, self.direction, self.point.config());
        let layers = config.num_hidden_layers;
        let groups = self.groups(result.tokens as usize);
        let batches: Vec<_> = groups.iter().map(|group| batch(&group.bundles)).collect();
        let mut states = States::new(room);
        let mut numbers = self.inputs(room, &groups, &batches, &mut states)?;

        let spaces = Mutex::default();
        let ends = numbers.pop().unwrap_or_default();
        let ending = Ending::new(point.head(0..config.vocab_size)?, direction.ends()?);
        let large = point.layer(0)?;
        for (number, group) in ends.iter().zip(&groups) {
            let mut state = states.take(*number)?;
            let backward = |space: &mut Space, tokens: &Tokens<'_>, job: Job<'_>| {
                let (work, tally) =
                    ((&mut space.head, &mut space.work.maps), &mut job.bundle.tally(job.sums));
                ending.backward(tokens, &job.bundle.asked, job.grad, work, job.nlls, tally)
            };
            self.each(group, &large, None, &mut state, result, &spaces, backward)?;
            states.put(*number, state)?;
        }
        drop((ending, large));

        let read = |i: usize| {
            let layer = layers - 1 - i;
            Ok::<_, Error>(Step::new(layer, point.layer(layer)?, direction.layer(layer)?))
        };
        ahead(layers, room.prefetch, read, |i, step| {
            let step = step?;
            let inputs = &numbers[layers - 1 - i];
            for ((number, end), group) in inputs.iter().zip(&ends).zip(&groups) {
                self.go_on(group)?;
                let (input, mut state) = (states.take(*number)?, states.take(*end)?);
                let backward = |space: &mut Space, tokens: &Tokens<'_>, job: Job<'_>| {
                    let Space { kept, work, .. } = space;
                    step.forward(tokens, job.input, kept, work, None)?;
                    let tally = &mut job.bundle.tally(job.sums);
                    step.backward(tokens, job.input, kept, work, job.grad, tally)
                };
                self.each(
                    group,
                    &step.weights,
                    Some(&input),
                    &mut state,
                    result,
                    &spaces,
                    backward,
                )?;
                states.put(*number, input)?;
                states.forget(*number);
                states.put(*end, state)?;
            }
            Ok::<(), Error>(())
        })?;

        let ids = |group: &Group| group.bundles.iter().flat_map(|b| b.ids.clone()).collect();
        for (number, group) in ends.iter().zip(&groups) {
            let (table, mut state) = (direction.embedding(ids(group))?, states.take(*number)?);
            self.each(group, &point.layer(0)?, None, &mut state, result, &spaces, |_, _, job| {
                let tally = &mut job.bundle.tally(job.sums);
                self.embedding(job.bundle, &table, job.grad, tally);
                Ok(())
            })?;
            states.put(*number, state)?;
        }
        Ok(())
    }

    /// All batches through all layers: the numbers of their states before each layer, and after the
    /// last.
    fn inputs(
        &self,
        room: &Room,
        groups: &[Group],
        batches: &[Batch],
        states: &mut States,
    ) -> Result<Vec<Vec<usize>>, Error> {
        let mut numbers: Vec<Vec<usize>> = vec![Vec::new()];
        self.point.embed(batches, room.embedding, &mut |state| {
            numbers[0].push(states.push(state)?);
            Ok(())
        })?;
        each_layer(&[self.point], room.prefetch, |layer, weights| {
            let mut after = Vec::with_capacity(groups.len());
            for (number, group) in numbers[layer].iter().zip(groups) {
                self.go_on(group)?;
                let before = states.take(*number)?;
                let mut state = before.clone();
                states.put(*number, before)?;
                let (nothing, first) = (Interventions::default(), group.bundles[0].first);
                weights[0]
                    .run(&mut state, layer..layer + 1, &mut NoTap, &nothing)
                    .map_err(|error| error.at(|i, at| (first + i, at)))?;
                after.push(states.push(state)?);
            }
            numbers.push(after);
            Ok::<(), Error>(())
        })?;
        Ok(numbers)
    }

    /// Stops if that was asked for, or tells that a group goes through a layer.
    fn go_on(&self, group: &Group) -> Result<(), Error> {
        if self.cancel.is_cancelled() {
            return Err(Error::Cancelled);
        }
        self.progress.advance(group.tokens as u64);
        Ok(())
    }

    /// All items in groups of a bundle for each thread.
    fn groups(&self, tokens: usize) -> Vec<Group> {
        let threads = rayon::current_num_threads();
        let mut bundles = Bundle::cut(0, self.items, group_tokens(tokens)).into_iter().peekable();
        let mut groups = Vec::new();
        while bundles.peek().is_some() {
            let mut group = Group { bundles: Vec::new(), tokens: 0 };
            while group.tokens < threads * MAX_GROUP_TOKENS
                && let Some(bundle) = bundles.next()
            {
                group.tokens += bundle.tokens();
                group.bundles.push(bundle);
            }
            groups.push(group);
        }
        groups
    }

    /// Does something with every bundle of a group and its part of the states.
    #[expect(clippy::too_many_arguments, reason = "a group, its states, and where results go")]
    fn each(
        &self,
        group: &Group,
        weights: &Layers,
        input: Option<&State>,
        state: &mut State,
        result: &mut Derivatives,
        spaces: &Mutex<Vec<Space>>,
        run: impl Fn(&mut Space, &Tokens<'_>, Job<'_>) -> Result<(), Error> + Sync,
    ) -> Result<(), Error> {
        let (config, bundles) = (self.point.config(), &group.bundles);
        let (first, groups) = (bundles[0].first, result.groups.len());
        let nlls = parts(&mut result.nll[first..], bundles, 1);
        let sums = parts(&mut result.values[first * groups..], bundles, groups);
        let mut rest = state.hidden.as_mut_slice();
        let mut start = 0;
        let mut jobs = Vec::with_capacity(bundles.len());
        for ((bundle, nlls), sums) in bundles.iter().zip(nlls).zip(sums) {
            let values = bundle.tokens() * config.hidden_size;
            let (grad, later) = rest.split_at_mut(values);
            rest = later;
            let input = input.map_or(&[][..], |input| &input.hidden[start..start + values]);
            start += values;
            jobs.push(Job { bundle, input, grad, nlls, sums });
        }
        let idle = || spaces.lock().unwrap_or_else(PoisonError::into_inner);
        let shared = weights.shares(jobs.len(), group.tokens);
        run_all(jobs, shared, |job: Job<'_>, team: Team<'_>| {
            let mut space = idle().pop().unwrap_or_default();
            let (first, offsets) = (job.bundle.first, &job.bundle.offsets);
            run(&mut space, &Tokens { config, team, offsets }, job)
                .map_err(|error| error.at(|sequence, at| (first + sequence, at)))?;
            idle().push(space);
            Ok::<(), Error>(())
        })
        .map(drop)
    }
}
