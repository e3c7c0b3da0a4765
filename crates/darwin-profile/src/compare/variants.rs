//! Runs both parents and all layer-swap variants together: every layer of both parents is loaded
//! once for all variants.

use super::routers::{RouterSums, RouterTap};
use crate::Error;
use crate::broken::Broken;
use crate::pass::{Answers, Meter, stop_if};
use crate::sample::{Sample, batch_of};
use darwin_core::{Cancel, LayerIdx, Part, Progress};
use darwin_engine::{
    Batch, Interventions, LayerSource, Layers, Logits, NoTap, Room, State, States, each_layer,
};

/// Which weights come from the other parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Swap {
    /// The recipient model: 0 father, 1 mother.
    pub(crate) side: usize,
    pub(crate) layer: usize,
    /// All of the layer where there is none.
    pub(crate) component: Option<Part>,
}

/// Losses of one sweep.
pub(crate) struct Losses {
    /// Nats per answer of father and mother, in the order of the samples.
    pub(crate) own: [Vec<f64>; 2],
    /// Those of every swap.
    pub(crate) swapped: Vec<(Swap, Vec<f64>)>,
}

/// Logits that are held at once.
const LOGITS_AT_ONCE: usize = 1 << 21;

/// A sweep of both parents over some batches.
pub(crate) struct Variants<'a> {
    pub(crate) models: [&'a dyn LayerSource; 2],
    /// What they are called.
    pub(crate) names: &'a [String; 2],
    pub(crate) room: &'a Room,
    pub(crate) batches: &'a [&'a [Sample]],
    pub(crate) progress: &'a dyn Progress,
    pub(crate) cancel: &'a Cancel,
}

/// Where the states are.
struct Carried {
    states: States,
    /// Of each parent, by batch.
    own: [Vec<usize>; 2],
    /// Of each swap that has begun.
    swapped: Vec<(Swap, Vec<usize>)>,
}

impl Variants<'_> {
    /// Runs the parents and the swaps of each layer: a swap takes over its parent's state before
    /// its layer. What routers do goes into `routers`.
    pub(crate) fn run(
        &self,
        swaps: &(dyn Fn(usize) -> Vec<Swap> + Sync),
        mut routers: Option<&mut RouterSums>,
        meter: &mut Meter,
    ) -> Result<Losses, Error> {
        let layers = self.models[0].config().num_hidden_layers;
        let all: Vec<Batch> = self.batches.iter().map(|batch| batch_of(batch)).collect();
        let tokens: usize = all.iter().map(Batch::tokens).sum();
        let mut carried = self.begin(&all)?;
        if let Some(routers) = routers.as_deref_mut() {
            routers.begin(&all, layers);
        }
        meter.add(2 * tokens, layers);
        each_layer(&self.models, self.room.prefetch, |layer, weights| {
            self.progress.note(&format!("layer {} of {layers}", layer + 1));
            let new = swaps(layer);
            meter.add(new.len() * tokens, layers - layer);
            let first = carried.swapped.len();
            carried.swapped.extend(new.into_iter().map(|swap| (swap, Vec::new())));
            for (number, batch) in all.iter().enumerate() {
                stop_if(self.cancel)?;
                let routers = routers.as_deref_mut();
                carried
                    .batch(layer, weights, (number, batch), first, routers)
                    .map_err(|broke| self.of_variant(*broke, number))?;
                self.progress.advance(batch.tokens() as u64);
            }
            Ok::<_, Error>(())
        })?;
        self.losses(carried)
    }

    /// Says of which variant and sample a value is that is not finite.
    fn of_variant(&self, broke: (Error, usize, Option<Swap>), batch: usize) -> Error {
        let (error, side, swap) = broke;
        let sample = |i: usize| format!("sample {}", self.batches[batch][i].id);
        error.of_model(&self.called(side, swap), sample)
    }

    /// What a parent is called, with what it has of the other.
    fn called(&self, side: usize, swap: Option<Swap>) -> String {
        let [own, other] = [side, 1 - side].map(|i| &self.names[i]);
        match swap {
            None => own.clone(),
            Some(Swap { layer, component: None, .. }) => {
                format!("{own} with layer {layer} of {other}")
            }
            Some(Swap { layer, component: Some(part), .. }) => {
                format!("{own} with the {} of layer {layer} of {other}", part.name())
            }
        }
    }

    /// The losses of a variant, which are finite.
    fn finite(&self, side: usize, swap: Option<Swap>, losses: Vec<f64>) -> Result<Vec<f64>, Error> {
        let samples = self.batches.iter().flat_map(|batch| batch.iter());
        match samples.zip(&losses).find(|(_, loss)| !loss.is_finite()) {
            None => Ok(losses),
            Some((sample, loss)) => {
                let broken = Broken::of(None, "head", "loss", *loss, &sample.id);
                Err(Error::broken(&self.called(side, swap), broken))
            }
        }
    }

    fn begin(&self, all: &[Batch]) -> Result<Carried, Error> {
        let mut states = States::new(self.room);
        let mut own = [Vec::new(), Vec::new()];
        for (model, own) in self.models.iter().zip(&mut own) {
            // Both tables of embeddings are not there at once.
            model.embed(all, self.room.embedding, &mut |state| {
                own.push(states.push(state)?);
                Ok(())
            })?;
        }
        Ok(Carried { states, own, swapped: Vec::new() })
    }

    /// The losses of everything that has passed the layers, band by band of each parent's head.
    fn losses(&self, mut carried: Carried) -> Result<Losses, Error> {
        let Carried { states, own, swapped } = &mut carried;
        let mut found = Losses { own: Default::default(), swapped: Vec::new() };
        for (side, own) in own.iter().enumerate() {
            let mine: Vec<usize> =
                (0..swapped.len()).filter(|i| swapped[*i].0.side == side).collect();
            let sets: Vec<&[usize]> = std::iter::once(own.as_slice())
                .chain(mine.iter().map(|i| swapped[*i].1.as_slice()))
                .collect();
            let mut losses = self.answers(self.models[side], states, &sets)?.into_iter();
            found.own[side] = self.finite(side, None, losses.next().unwrap_or_default())?;
            for (i, losses) in mine.into_iter().zip(losses) {
                let swap = swapped[i].0;
                found.swapped.push((swap, self.finite(side, Some(swap), losses)?));
            }
        }
        Ok(found)
    }

    /// Nats per answer of each set of states, one for each batch.
    fn answers(
        &self,
        model: &dyn LayerSource,
        states: &mut States,
        sets: &[&[usize]],
    ) -> Result<Vec<Vec<f64>>, Error> {
        let fresh = || self.batches.iter().map(|batch| Answers::new(batch)).collect::<Vec<_>>();
        let mut all: Vec<Vec<Answers>> = sets.iter().map(|_| fresh()).collect();
        let mut logits = Vec::new();
        for band in self.room.bands(model.config()) {
            let head = model.head(band.clone())?;
            let rows = (LOGITS_AT_ONCE / band.len()).max(1);
            for (numbers, answers) in sets.iter().zip(&mut all) {
                stop_if(self.cancel)?;
                for (number, answers) in numbers.iter().zip(answers) {
                    let state = states.take(*number)?;
                    for i in 0..answers.positions.len().div_ceil(rows) {
                        let end = answers.positions.len().min((i + 1) * rows);
                        head.logits_into(&state, &answers.positions[i * rows..end], &mut logits);
                        let (band, first) = (band.clone(), i * rows);
                        answers.add(&Logits { batch: 0, first, band, values: &logits });
                    }
                    states.put(*number, state)?;
                }
            }
        }
        let nll = |answers: &Vec<Answers>| {
            let batches = answers.iter().zip(self.batches);
            batches.flat_map(|(answers, samples)| answers.nll(samples)).collect()
        };
        Ok(all.iter().map(nll).collect())
    }
}

impl Carried {
    /// A layer of a batch: the parents, the swaps that begin here (from number `first` on), and
    /// those that have begun. An error comes with the side and the swap that it is of.
    fn batch(
        &mut self,
        layer: usize,
        weights: &[Layers],
        (number, batch): (usize, &Batch),
        first: usize,
        routers: Option<&mut RouterSums>,
    ) -> Result<(), Box<(Error, usize, Option<Swap>)>> {
        let config = weights[0].config();
        let mut taps = [0, 1].map(|_| RouterTap::new(config, batch.tokens()));
        for side in 0..2 {
            let at = self.own[side][number];
            let own_error =
                |error: darwin_engine::Error| Box::new((Error::from(error), side, None));
            let mut state = self.states.take(at).map_err(own_error)?;
            for i in first..self.swapped.len() {
                let swap = self.swapped[i].0;
                if swap.side == side {
                    let mut own = state.clone();
                    let (mine, donor) = (&weights[side], &weights[1 - side]);
                    let ran = match swap.component {
                        None => run(donor, layer, &mut own),
                        Some(part) => {
                            let hybrid = mine.with_part(LayerIdx(layer), part, donor);
                            run(&hybrid, layer, &mut own)
                        }
                    };
                    ran.map_err(|error| Box::new((error.into(), side, Some(swap))))?;
                    let at = self.states.push(own).map_err(own_error)?;
                    self.swapped[i].1.push(at);
                }
            }
            let ran = match routers {
                Some(_) => {
                    let tap = &mut taps[side];
                    let nothing = Interventions::default();
                    weights[side].run(&mut state, layer..layer + 1, tap, &nothing)
                }
                None => run(&weights[side], layer, &mut state),
            };
            ran.map_err(own_error)?;
            self.states.put(at, state).map_err(own_error)?;
        }
        if let Some(routers) = routers {
            routers.add(batch, number, layer, &taps);
        }
        for i in 0..first {
            let (swap, numbers) = &self.swapped[i];
            let (side, at) = (swap.side, numbers[number]);
            let own_error =
                |error: darwin_engine::Error| Box::new((Error::from(error), side, Some(*swap)));
            let mut state = self.states.take(at).map_err(own_error)?;
            run(&weights[side], layer, &mut state).map_err(own_error)?;
            self.states.put(at, state).map_err(own_error)?;
        }
        Ok(())
    }
}

fn run(weights: &Layers, layer: usize, state: &mut State) -> Result<(), darwin_engine::Error> {
    weights.run(state, layer..layer + 1, &mut NoTap, &Interventions::default())
}
