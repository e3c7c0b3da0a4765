//! Causal donor advantage (method 1.6), with shared prefixes.
//!
//! A_l = NLL(F) - NLL(F with layer l from M); B_l = NLL(M with layer l from F) - NLL(M). A parent
//! runs to layer l once; layer l is run with the donor's weights and the rest with the parent's
//! own. That is (L - l) layers for layer l, (L + 1) / 2 full passes for each direction.

use super::routers::{RouterSums, RouterTap};
use crate::pass::{Meter, answer_nll, stop_if};
use crate::sample::{Sample, batch_of, batches};
use crate::{Error, Subject};
use darwin_core::{Cancel, Component, LayerIdx, Progress};
use darwin_engine::{Interventions, Model, NoTap, State, Tap};
use std::collections::BTreeMap;

/// Values of residual stream that a batch keeps for one parent.
const KEPT_VALUES: usize = 1 << 25;

/// Per-sample values, in the order of the samples.
pub(crate) struct Swaps {
    /// NLL of father and mother.
    pub(crate) nll: [Vec<f64>; 2],
    /// Per layer, A and B.
    pub(crate) layers: Vec<[Vec<f64>; 2]>,
    pub(crate) routers: RouterSums,
}

/// Per-sample A and B of single components.
pub(crate) type ComponentSwaps = BTreeMap<(usize, Component), [Vec<f64>; 2]>;

/// What the passes need.
pub(crate) struct Passes<'a> {
    pub(crate) father: &'a Subject<'a>,
    pub(crate) mother: &'a Subject<'a>,
    pub(crate) samples: &'a [Sample],
    pub(crate) batch_tokens: usize,
    pub(crate) progress: &'a dyn Progress,
    pub(crate) cancel: &'a Cancel,
}

impl Passes<'_> {
    fn layers(&self) -> usize {
        self.father.model.config().num_hidden_layers
    }

    /// Batches small enough that a parent's states at all layers can be kept.
    fn batches(&self) -> Vec<&[Sample]> {
        let width = self.father.model.config().hidden_size * (self.layers() + 1);
        batches(self.samples, self.batch_tokens.min((KEPT_VALUES / width).max(64)))
    }

    fn models(&self) -> [&Model; 2] {
        [self.father.model, self.mother.model]
    }

    /// Both parents, and every layer swapped in both directions.
    pub(crate) fn swap_layers(&self, meter: &mut Meter) -> Result<Swaps, Error> {
        let layers = self.layers();
        let mut swaps = Swaps {
            nll: [Vec::new(), Vec::new()],
            layers: vec![[Vec::new(), Vec::new()]; layers],
            routers: RouterSums::default(),
        };
        for batch in self.batches() {
            let tokens: usize = batch.iter().map(|s| s.ids.len()).sum();
            let new_tap = || RouterTap::new(self.father.model.config(), tokens);
            let mut taps = [new_tap(), new_tap()];
            let mut own = Vec::new();
            for (parent, tap) in taps.iter_mut().enumerate() {
                let path = Path::new(self.models()[parent], batch, tap, meter)?;
                swaps.nll[parent].extend_from_slice(&path.nll);
                own.push(path);
            }
            swaps.routers.add(&batch_of(batch), &taps[0], &taps[1]);
            for layer in 0..layers {
                stop_if(self.cancel)?;
                for (side, path) in own.iter().enumerate() {
                    let donor = self.models()[1 - side];
                    let swapped = path.with_layer(layer, donor, batch, meter)?;
                    swaps.layers[layer][side].extend(gain(side, &path.nll, &swapped));
                }
                self.progress.advance(tokens as u64);
            }
        }
        Ok(swaps)
    }

    /// Single components of chosen layers, in both directions.
    pub(crate) fn swap_components(
        &self,
        chosen: &[usize],
        meter: &mut Meter,
    ) -> Result<ComponentSwaps, Error> {
        const COMPONENTS: [Component; 4] =
            [Component::Mixer, Component::Routed, Component::Shared, Component::Router];
        let mut swaps = ComponentSwaps::new();
        if chosen.is_empty() {
            return Ok(swaps);
        }
        for batch in self.batches() {
            let tokens: usize = batch.iter().map(|s| s.ids.len()).sum();
            for side in 0..2 {
                let [model, donor] = [self.models()[side], self.models()[1 - side]];
                let path = Path::new(model, batch, &mut NoTap, meter)?;
                for layer in chosen {
                    stop_if(self.cancel)?;
                    for component in COMPONENTS {
                        let hybrid = model.with_component(LayerIdx(*layer), component, donor);
                        let swapped = path.with_layer(*layer, &hybrid, batch, meter)?;
                        let values = swaps.entry((*layer, component)).or_default();
                        values[side].extend(gain(side, &path.nll, &swapped));
                    }
                }
            }
            self.progress.advance(tokens as u64);
        }
        Ok(swaps)
    }
}

/// A = NLL(F) - NLL(F with M's part); B = NLL(M with F's part) - NLL(M). Above 0, mother better.
fn gain(side: usize, own: &[f64], swapped: &[f64]) -> Vec<f64> {
    let pairs = own.iter().zip(swapped);
    pairs.map(|(own, swapped)| if side == 0 { own - swapped } else { swapped - own }).collect()
}

/// One parent's states on one batch, before every layer.
struct Path<'m> {
    model: &'m Model,
    states: Vec<State>,
    nll: Vec<f64>,
}

impl<'m> Path<'m> {
    fn new(
        model: &'m Model,
        batch: &[Sample],
        tap: &mut dyn Tap,
        meter: &mut Meter,
    ) -> Result<Self, Error> {
        let layers = model.config().num_hidden_layers;
        let mut state = model.embed(&batch_of(batch))?;
        let mut states = Vec::with_capacity(layers);
        for layer in 0..layers {
            states.push(state.clone());
            model.run(&mut state, layer..layer + 1, tap, &Interventions::default())?;
        }
        meter.add(state.batch().tokens(), layers);
        let nll = answer_nll(model, &state, batch);
        Ok(Self { model, states, nll })
    }

    /// NLL per sample with one layer run by another model.
    fn with_layer(
        &self,
        layer: usize,
        donor: &Model,
        batch: &[Sample],
        meter: &mut Meter,
    ) -> Result<Vec<f64>, Error> {
        let layers = self.states.len();
        let none = Interventions::default();
        let mut state = self.states[layer].clone();
        donor.run(&mut state, layer..layer + 1, &mut NoTap, &none)?;
        if layer + 1 < layers {
            self.model.run(&mut state, layer + 1..layers, &mut NoTap, &none)?;
        }
        meter.add(state.batch().tokens(), layers - layer);
        Ok(answer_nll(self.model, &state, batch))
    }
}
