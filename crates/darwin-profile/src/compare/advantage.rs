//! Causal donor advantage (method 1.6).
//!
//! A_l = NLL(F) - NLL(F with layer l from M); B_l = NLL(M with layer l from F) - NLL(M). What comes
//! before layer l is the parent's own, so that the L - l layers from l on are all that layer l
//! costs: (L + 1) / 2 full passes for each direction.

use super::routers::RouterSums;
use super::variants::{Losses, Swap, Variants};
use crate::Error;
use crate::pass::Meter;
use crate::sample::{Sample, batches};
use darwin_core::{Cancel, Part, Progress};
use darwin_engine::{LayerSource, Room};
use std::collections::BTreeMap;

/// Per-sample values, in the order of the samples.
pub(crate) struct Swaps {
    /// NLL of father and mother.
    pub(crate) nll: [Vec<f64>; 2],
    /// Per layer, A and B.
    pub(crate) layers: Vec<[Vec<f64>; 2]>,
    pub(crate) routers: RouterSums,
}

/// Per-sample A and B of single components.
pub(crate) type ComponentSwaps = BTreeMap<(usize, Part), [Vec<f64>; 2]>;

/// What the passes need.
pub(crate) struct Passes<'a> {
    pub(crate) models: [&'a dyn LayerSource; 2],
    /// What they are called.
    pub(crate) names: &'a [String; 2],
    pub(crate) samples: &'a [Sample],
    pub(crate) batch_tokens: usize,
    pub(crate) room: &'a Room,
    /// Bytes of hidden states of a sweep; what they do not hold makes another sweep.
    pub(crate) states: u64,
    pub(crate) progress: &'a dyn Progress,
    pub(crate) cancel: &'a Cancel,
}

impl Passes<'_> {
    fn layers(&self) -> usize {
        self.models[0].config().num_hidden_layers
    }

    /// Sweeps: batches that go through the layers together, with so many variants.
    fn sweeps(&self, variants: usize) -> Vec<Vec<&[Sample]>> {
        let row = 4 * self.models[0].config().hidden_size * variants;
        let most = usize::try_from(self.states).unwrap_or(usize::MAX) / row.max(1);
        let all = batches(self.samples, self.batch_tokens.min(most.max(64)));
        let (mut sweeps, mut tokens): (Vec<Vec<&[Sample]>>, usize) = (Vec::new(), usize::MAX);
        for batch in all {
            let own: usize = batch.iter().map(|s| s.ids.len()).sum();
            tokens = tokens.saturating_add(own);
            match sweeps.last_mut() {
                Some(sweep) if tokens <= most => sweep.push(batch),
                _ => {
                    sweeps.push(vec![batch]);
                    tokens = own;
                }
            }
        }
        sweeps
    }

    fn sweep(
        &self,
        batches: &[&[Sample]],
        swaps: &(dyn Fn(usize) -> Vec<Swap> + Sync),
        routers: Option<&mut RouterSums>,
        meter: &mut Meter,
    ) -> Result<Losses, Error> {
        let (models, names, room) = (self.models, self.names, self.room);
        let (progress, cancel) = (self.progress, self.cancel);
        Variants { models, names, room, batches, progress, cancel }.run(swaps, routers, meter)
    }

    /// Both parents, and every layer swapped in both directions.
    pub(crate) fn swap_layers(&self, meter: &mut Meter) -> Result<Swaps, Error> {
        let layers = self.layers();
        let mut swaps = Swaps {
            nll: [Vec::new(), Vec::new()],
            layers: vec![[Vec::new(), Vec::new()]; layers],
            routers: RouterSums::default(),
        };
        let both = |layer| [0, 1].map(|side| Swap { side, layer, component: None }).to_vec();
        for batches in self.sweeps(2 * layers + 2) {
            let routers = Some(&mut swaps.routers);
            let losses = self.sweep(&batches, &both, routers, meter)?;
            for (Swap { side, layer, .. }, swapped) in &losses.swapped {
                let values = &mut swaps.layers[*layer][*side];
                values.extend(gain(*side, &losses.own[*side], swapped));
            }
            for (all, own) in swaps.nll.iter_mut().zip(losses.own) {
                all.extend(own);
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
        let mut swaps = ComponentSwaps::new();
        if chosen.is_empty() {
            return Ok(swaps);
        }
        let parts = |layer| {
            let sides = [0, 1].into_iter().filter(|_| chosen.contains(&layer));
            let swap =
                |side| Part::OF_LAYER.map(|part| Swap { side, layer, component: Some(part) });
            sides.flat_map(swap).collect()
        };
        for batches in self.sweeps(8 * chosen.len() + 2) {
            let losses = self.sweep(&batches, &parts, None, meter)?;
            for (Swap { side, layer, component }, swapped) in &losses.swapped {
                let Some(component) = component else { continue };
                let values = &mut swaps.entry((*layer, *component)).or_default()[*side];
                values.extend(gain(*side, &losses.own[*side], swapped));
            }
        }
        Ok(swaps)
    }
}

/// A = NLL(F) - NLL(F with M's part); B = NLL(M with F's part) - NLL(M). Above 0, mother better.
fn gain(side: usize, own: &[f64], swapped: &[f64]) -> Vec<f64> {
    let pairs = own.iter().zip(swapped);
    pairs.map(|(own, swapped)| if side == 0 { own - swapped } else { swapped - own }).collect()
}
