//! Gram matrices of the inputs of every linear map, layer by layer.
//!
//! A map `y = W x` has the Gram matrix `G = sum over tokens of x x^T`. All items go through a layer
//! before the next one ([`GramSweep`]), so what is in memory is one layer's: the matrices of maps that
//! all tokens go through, and for the routed experts the inputs themselves ([`RoutedInputs`]), from
//! which the matrix of one expert is made at a time. An expert's inputs are a part of the tokens',
//! so this takes less than a matrix for each expert would, and an expert that saw fewer tokens than
//! it has inputs is of low rank at no cost.
//!
//! The same bits whatever the number of threads, and whether the model is loaded or streamed.

mod gram;
mod names;
mod takes;

pub use gram::Gram;
pub use takes::{footprint, operations};

use crate::derivative::step::{Kept, Tokens, Work, forward};
use crate::derivative::{Bundle, batch, supported};
use crate::layers::group_tokens;
use crate::moe::Order;
use crate::score::check_items;
use crate::states::States;
use crate::team::{Team, run_all};
use crate::{Config, Error, LayerSource, Layers, Room, ScoreItem};
use darwin_core::{Cancel, Progress};
use names::{Names, names};
use std::sync::{Mutex, PoisonError};

/// Tokens that go through a layer together. A constant: sums begin anew with each group.
const GROUP_TOKENS: usize = 4096;

/// The Gram matrix of maps with the same inputs.
#[derive(Clone, Debug, PartialEq)]
pub struct MapGram {
    /// The maps' weights, by canonical names.
    pub tensors: Vec<String>,
    /// Their matrix.
    pub gram: Gram,
}

/// What goes into the maps of a layer.
#[derive(Debug)]
pub struct LayerInputs {
    /// Maps that all tokens go through.
    pub maps: Vec<MapGram>,
    /// The routed experts, in a layer that has them.
    pub routed: Option<RoutedInputs>,
}

/// The inputs of a layer's routed experts.
#[derive(Debug)]
pub struct RoutedInputs {
    /// The names of both fused weights.
    names: [String; 2],
    hidden: usize,
    width: usize,
    /// (tokens, hidden), into `gate_up_proj`
    x: Vec<f32>,
    /// (tokens x k, width), into `down_proj`
    activated: Vec<f32>,
    /// (tokens, k), until all are there
    chosen: Vec<u32>,
    order: Order,
}

impl RoutedInputs {
    /// The canonical names of `gate_up_proj` and `down_proj`.
    #[must_use]
    pub fn tensors(&self) -> &[String; 2] {
        &self.names
    }

    /// How many experts there are.
    #[must_use]
    pub fn experts(&self) -> usize {
        self.order.starts.len().saturating_sub(1)
    }

    /// Tokens that went to an expert.
    ///
    /// # Panics
    /// If there is no such expert; so do the others.
    #[must_use]
    pub fn tokens(&self, expert: usize) -> usize {
        self.order.starts[expert + 1] - self.order.starts[expert]
    }

    /// The matrix of an expert's `gate_up_proj`.
    #[must_use]
    pub fn gate_up(&self, expert: usize) -> Gram {
        let slots = self.order.starts[expert]..self.order.starts[expert + 1];
        Gram::of_chosen(&self.x, self.hidden, &self.order.tokens[slots])
    }

    /// The matrix of an expert's `down_proj`.
    #[must_use]
    pub fn down(&self, expert: usize) -> Gram {
        let slots = self.order.starts[expert]..self.order.starts[expert + 1];
        Gram::of_chosen(&self.activated, self.width, &self.order.slots[slots])
    }
}

/// Items that go through a layer together.
#[derive(Debug)]
struct Group {
    bundles: Vec<Bundle>,
    tokens: usize,
    /// Of its state.
    number: usize,
}

/// Buffers of one thread.
#[derive(Debug, Default)]
struct Space {
    kept: Kept,
    work: Work,
}

/// Rows of inputs of some tokens.
#[derive(Debug, Default)]
struct Rows {
    mixer: Vec<f32>,
    mixed: Vec<f32>,
    block: Vec<f32>,
    activated: Vec<f32>,
    /// (tokens, k)
    experts: Vec<u32>,
    /// (tokens x k, width), by token
    routed: Vec<f32>,
}

/// Items on their way through a model.
#[derive(Debug)]
pub struct GramSweep {
    groups: Vec<Group>,
    states: States,
    layer: usize,
    tokens: u64,
    spaces: Mutex<Vec<Space>>,
}

impl GramSweep {
    /// Embeds items: prompts and answers, all but the last token of each, after which nothing comes.
    ///
    /// # Errors
    /// [`Error::Model`] for families without such a pass; what [`score`](crate::score) finds wrong
    /// with items; [`Error::Weights`], [`Error::Scratch`].
    pub fn begin(model: &dyn LayerSource, items: &[ScoreItem], room: &Room) -> Result<Self, Error> {
        supported(model.config(), "Gram matrices")?;
        check_items(model.config(), items)?;
        let (mut groups, mut start, mut tokens) = (Vec::new(), 0, 0);
        for (i, item) in items.iter().enumerate() {
            tokens += item.fed_tokens();
            if tokens >= GROUP_TOKENS || i + 1 == items.len() {
                let bundles = Bundle::cut(start, &items[start..=i], group_tokens(tokens));
                groups.push(Group { bundles, tokens, number: 0 });
                (start, tokens) = (i + 1, 0);
            }
        }
        let batches: Vec<_> = groups.iter().map(|group| batch(&group.bundles)).collect();
        let (mut states, mut numbers) = (States::new(room), Vec::new());
        model.embed(&batches, room.embedding, &mut |state| {
            numbers.push(states.push(state)?);
            Ok(())
        })?;
        groups.iter_mut().zip(numbers).for_each(|(group, number)| group.number = number);
        let tokens = groups.iter().map(|group| group.tokens as u64).sum();
        Ok(Self { groups, states, layer: 0, tokens, spaces: Mutex::default() })
    }

    /// Tokens that go through each layer.
    #[must_use]
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// All items through the next layer. Progress is in tokens.
    ///
    /// # Errors
    /// [`Error::Layers`] where the weights are not of the next layer; [`Error::Scratch`],
    /// [`Error::Cancelled`]; [`Error::NotFinite`], its sequence being the item.
    pub fn pass(
        &mut self,
        weights: &Layers,
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Result<(), Error> {
        self.run(weights, progress, cancel, None)
    }

    /// [`GramSweep::pass`], and what went into the layer's maps.
    ///
    /// # Errors
    /// As [`GramSweep::pass`].
    pub fn collect(
        &mut self,
        weights: &Layers,
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Result<LayerInputs, Error> {
        let names = names(weights.config(), self.layer);
        let mut inputs = Collected::new(weights.config(), names, self.tokens as usize);
        self.run(weights, progress, cancel, Some(&mut inputs))?;
        Ok(inputs.finish(weights.config()))
    }

    fn run(
        &mut self,
        weights: &Layers,
        progress: &dyn Progress,
        cancel: &Cancel,
        mut inputs: Option<&mut Collected>,
    ) -> Result<(), Error> {
        let (config, layer, own) = (weights.config(), self.layer, weights.range());
        if !own.contains(&layer) {
            let asked = own.clone();
            return Err(Error::Layers { asked, layers: config.num_hidden_layers, reached: layer });
        }
        for group in &self.groups {
            if cancel.is_cancelled() {
                return Err(Error::Cancelled);
            }
            let mut state = self.states.take(group.number)?;
            let collects = inputs.is_some();
            let rows = group.run(weights, layer, &mut state.hidden, &self.spaces, collects)?;
            self.states.put(group.number, state)?;
            if let Some(inputs) = &mut inputs {
                inputs.add(rows);
            }
            progress.advance(group.tokens as u64);
        }
        self.layer += 1;
        Ok(())
    }
}

impl Group {
    /// Through a layer, in place on `hidden`; the rows that went into its maps, a bundle after the
    /// other, if they are wanted.
    fn run(
        &self,
        weights: &Layers,
        layer: usize,
        mut hidden: &mut [f32],
        spaces: &Mutex<Vec<Space>>,
        collects: bool,
    ) -> Result<Vec<Rows>, Error> {
        let config = weights.config();
        let mut jobs = Vec::with_capacity(self.bundles.len());
        for bundle in &self.bundles {
            let (own, rest) =
                std::mem::take(&mut hidden).split_at_mut(bundle.tokens() * config.hidden_size);
            hidden = rest;
            jobs.push((bundle, own));
        }
        let idle = || spaces.lock().unwrap_or_else(PoisonError::into_inner);
        let of = weights.get(layer);
        let shared = weights.shares(jobs.len(), self.tokens);
        run_all(jobs, shared, |(bundle, hidden): (&Bundle, &mut [f32]), team: Team<'_>| {
            let mut space = idle().pop().unwrap_or_default();
            let tokens = Tokens { config, team, offsets: &bundle.offsets };
            let (x, Space { kept, work }) = (hidden.to_vec(), &mut space);
            forward((layer, of), &tokens, &x, kept, work, Some(hidden))
                .map_err(|error| error.at(|sequence, at| (bundle.first + sequence, at)))?;
            let rows = if collects {
                Rows::of(config, &space.kept.inputs(config, of, bundle.tokens()))
            } else {
                Rows::default()
            };
            idle().push(space);
            Ok(rows)
        })
    }
}

impl Rows {
    fn of(config: &Config, inputs: &crate::derivative::Inputs<'_>) -> Self {
        let mut rows = Self {
            mixer: inputs.mixer.to_vec(),
            mixed: inputs.mixed.to_vec(),
            block: inputs.block.to_vec(),
            activated: inputs.activated.to_vec(),
            ..Self::default()
        };
        if let Some(routed) = &inputs.routed {
            let width = config.moe_intermediate_size;
            rows.experts = routed.experts.to_vec();
            rows.routed = vec![0.0; routed.activated.len()];
            for (slot, row) in routed.order.slots.iter().zip(routed.activated.chunks(width)) {
                rows.routed[*slot as usize * width..][..width].copy_from_slice(row);
            }
        }
        rows
    }
}

/// Sums of a layer that are not complete yet.
struct Collected {
    mixer: MapGram,
    mixed: MapGram,
    block: MapGram,
    activated: Option<MapGram>,
    routed: Option<RoutedInputs>,
}

impl Collected {
    fn new(config: &Config, names: Names, tokens: usize) -> Self {
        let map = |(tensors, inputs)| MapGram { tensors, gram: Gram::new(inputs) };
        let (hidden, width) = (config.hidden_size, config.moe_intermediate_size);
        let slots = tokens * config.num_experts_per_tok;
        let routed = |names| RoutedInputs {
            names,
            hidden,
            width,
            x: Vec::with_capacity(tokens * hidden),
            activated: Vec::with_capacity(slots * width),
            chosen: Vec::with_capacity(slots),
            order: Order::default(),
        };
        Self {
            mixer: map((names.mixer, hidden)),
            mixed: map(names.mixed),
            block: map((names.block, hidden)),
            activated: names.activated.map(map),
            routed: names.routed.map(routed),
        }
    }

    /// Adds the rows of a group, which may be cut anywhere.
    fn add(&mut self, parts: Vec<Rows>) {
        let joined =
            |of: fn(&Rows) -> &[f32]| -> Vec<f32> { parts.iter().flat_map(of).copied().collect() };
        self.mixer.gram.add(&joined(|rows| &rows.mixer));
        self.mixed.gram.add(&joined(|rows| &rows.mixed));
        let block = joined(|rows| &rows.block);
        self.block.gram.add(&block);
        if let Some(map) = &mut self.activated {
            map.gram.add(&joined(|rows| &rows.activated));
        }
        if let Some(routed) = &mut self.routed {
            routed.x.extend_from_slice(&block);
            for rows in parts {
                routed.chosen.extend_from_slice(&rows.experts);
                routed.activated.extend_from_slice(&rows.routed);
            }
        }
    }

    fn finish(self, config: &Config) -> LayerInputs {
        let mut routed = self.routed;
        if let Some(routed) = &mut routed {
            let chosen = std::mem::take(&mut routed.chosen);
            routed.order.sort(&chosen, config.num_experts_per_tok, config.num_experts);
        }
        let maps = [self.mixer, self.mixed, self.block].into_iter().chain(self.activated);
        LayerInputs { maps: maps.filter(|map| !map.tensors.is_empty()).collect(), routed }
    }
}
