//! `darwin.t`: the share of the mother per layer, component, expert and tensor (method 3.1).

use super::{Densities, GroupShares, LayerSpec, Selector};
use darwin_core::{ExpertIdx, LayerIdx, Share};
use std::collections::BTreeMap;
use std::fmt;

/// How a block's share and a component's share act together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Blocks {
    /// A block's share wins for all its tensors.
    #[default]
    Override,
    /// Components act inside the block as offsets in logit space from the default:
    /// `t = sigmoid(logit t_block + logit t_component - logit default)` (method 3.1).
    Compose,
}

/// A set of experts, as a [`LayerSpec`] is one of layers: `7`, `"0-3,7"`, `"8-last"`, `all`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExpertSpec(LayerSpec);

impl ExpertSpec {
    /// Reads a set of experts.
    ///
    /// # Errors
    /// The part that is not understood.
    pub fn parse(text: &str) -> Result<Self, String> {
        LayerSpec::parse(text).map(Self)
    }

    /// One expert.
    #[must_use]
    pub fn one(expert: ExpertIdx) -> Self {
        Self(LayerSpec::one(LayerIdx(expert.0)))
    }

    /// Whether an expert of a layer with so many experts belongs to the set.
    #[must_use]
    pub fn contains(&self, expert: ExpertIdx, experts: usize) -> bool {
        self.0.contains(LayerIdx(expert.0), experts)
    }

    /// The first position that a layer with so many experts does not have.
    pub(crate) fn beyond(&self, experts: usize) -> Option<super::LayerPosition> {
        self.0.beyond(experts)
    }
}

impl fmt::Display for ExpertSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The share of some experts of some layers.
#[derive(Clone, Debug, PartialEq)]
pub struct ExpertShares {
    /// The experts.
    pub experts: ExpertSpec,
    /// Their share.
    pub t: Share,
}

/// The shares of some layers.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerShares {
    /// The layers.
    pub layers: LayerSpec,
    /// Their share, where no component says otherwise.
    pub t: Option<Share>,
    /// Shares of single components in them.
    pub components: BTreeMap<Selector, Share>,
    /// Shares of single routed experts in them; the first entry that holds an expert decides.
    pub experts: Vec<ExpertShares>,
    /// Densities of the task vectors in them, where they differ from `darwin.density`.
    pub density: Option<Densities>,
}

impl LayerShares {
    /// Some layers of which nothing is said yet.
    #[must_use]
    pub fn of(layers: LayerSpec) -> Self {
        Self { layers, t: None, components: BTreeMap::new(), experts: Vec::new(), density: None }
    }
}

/// The share of the mother: `darwin.t`. The most precise rule decides: a group, an expert of a
/// block, a component of a block, the block, the component, the default.
#[derive(Clone, Debug, PartialEq)]
pub struct Shares {
    /// Where nothing else decides.
    pub default: Share,
    /// Factor of both task vectors: the child is B + scale ((1 - t)(F - B) + t (M - B)).
    pub scale: Option<f64>,
    /// Per component, in all layers.
    pub components: BTreeMap<Selector, Share>,
    /// How `layers` and `components` act together.
    pub blocks: Blocks,
    /// Per block of layers; the first entry that holds a layer decides.
    pub layers: Vec<LayerShares>,
    /// Per tensor, and per expert in it.
    pub groups: Option<GroupShares>,
}

impl Shares {
    /// One share for everything.
    #[must_use]
    pub fn uniform(t: Share) -> Self {
        Self {
            default: t,
            scale: None,
            components: BTreeMap::new(),
            blocks: Blocks::default(),
            layers: Vec::new(),
            groups: None,
        }
    }

    /// Every share that it names.
    pub(crate) fn all(&self) -> impl Iterator<Item = Share> + '_ {
        let blocks = self.layers.iter().flat_map(|entry| {
            let experts = entry.experts.iter().map(|of| of.t);
            entry.t.into_iter().chain(entry.components.values().copied()).chain(experts)
        });
        let groups = self.groups.iter().flat_map(|groups| groups.iter());
        std::iter::once(self.default)
            .chain(self.components.values().copied())
            .chain(blocks)
            .chain(groups.flat_map(|(_, shares)| shares.iter().copied()))
    }

    /// The densities that a block gives a layer.
    pub(crate) fn density(&self, layer: Option<(LayerIdx, usize)>) -> Option<Densities> {
        self.block(layer).and_then(|entry| entry.density)
    }

    fn block(&self, layer: Option<(LayerIdx, usize)>) -> Option<&LayerShares> {
        let (layer, num_layers) = layer?;
        self.layers.iter().find(|entry| entry.layers.contains(layer, num_layers))
    }

    /// The share of what is selected in a layer (`None` outside the layers), and the rule that gave
    /// it. Groups and lists of experts are not looked at.
    #[must_use]
    pub fn resolve(
        &self,
        selector: Selector,
        layer: Option<(LayerIdx, usize)>,
    ) -> (Share, &'static str) {
        let of = |map: &BTreeMap<Selector, Share>| {
            selector.and_coarser().find_map(|selector| map.get(&selector).copied())
        };
        let component = of(&self.components);
        let block = self.block(layer);
        if let Some(t) = block.and_then(|entry| of(&entry.components)) {
            return (t, "t of the component in its block");
        }
        match (block.and_then(|entry| entry.t), component) {
            (Some(t), Some(component)) if self.blocks == Blocks::Compose => (
                compose(t, component, self.default),
                "t of the block composed with the component's",
            ),
            (Some(t), _) => (t, "t of the block"),
            (None, Some(component)) => (component, "t of the component"),
            (None, None) => (self.default, "default t"),
        }
    }

    /// The shares of a layer's routed experts where its block lists any, the others' being `rest`.
    pub(crate) fn of_experts(
        &self,
        layer: Option<(LayerIdx, usize)>,
        experts: usize,
        rest: Share,
    ) -> Option<Vec<Share>> {
        let list = &self.block(layer)?.experts;
        let of = |expert| {
            let found = list.iter().find(|of| of.experts.contains(ExpertIdx(expert), experts));
            found.map_or(rest, |of| of.t)
        };
        (!list.is_empty()).then(|| (0..experts).map(of).collect())
    }
}

fn compose(block: Share, component: Share, default: Share) -> Share {
    let logit = |t: Share| (t.get() / (1.0 - t.get())).ln();
    let sum = logit(block) + logit(component) - logit(default);
    // 0 and 1 have infinite logits; where they contradict each other the block wins.
    Share::new(1.0 / (1.0 + (-sum).exp())).unwrap_or(block)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::MixerKind;
    use darwin_core::Part;

    fn share(t: f64) -> Share {
        Share::new(t).unwrap()
    }

    #[test]
    fn composition_mirrors_when_the_parents_are_swapped() {
        for (b, c, d) in [(0.5988, 0.32, 0.8), (0.9, 0.59, 0.8), (0.1, 0.5, 0.3)] {
            let t = compose(share(b), share(c), share(d)).get();
            let mirrored = compose(share(1.0 - b), share(1.0 - c), share(1.0 - d)).get();
            assert!((t + mirrored - 1.0).abs() < 1e-12);
        }
        assert!((compose(share(0.7), share(0.4), share(0.4)).get() - 0.7).abs() < 1e-12);
        assert_eq!(compose(share(1.0), share(0.0), share(0.4)).get(), 1.0);
    }

    #[test]
    fn the_most_precise_rule_decides() {
        let mut shares = Shares::uniform(share(0.1));
        let linear = Selector::Mixer(MixerKind::Linear);
        let at = |shares: &Shares, selector, layer: usize| {
            shares.resolve(selector, Some((LayerIdx(layer), 4))).0.get()
        };
        shares.components.insert(Part::Mixer.into(), share(0.2));
        assert_eq!(at(&shares, linear, 0), 0.2);
        shares.components.insert(linear, share(0.3));
        assert_eq!(at(&shares, linear, 0), 0.3);
        assert_eq!(at(&shares, Selector::Mixer(MixerKind::Full), 0), 0.2);
        let mut block = LayerShares::of(LayerSpec::parse("1-2").unwrap());
        block.components.insert(Part::Mixer.into(), share(0.4));
        block
            .experts
            .push(ExpertShares { experts: ExpertSpec::parse("0,last").unwrap(), t: share(0.9) });
        shares.layers.push(block);
        assert_eq!(at(&shares, linear, 1), 0.4);
        assert_eq!(at(&shares, linear, 3), 0.3);
        let of = |layer| shares.of_experts(Some((LayerIdx(layer), 4)), 3, share(0.5));
        assert_eq!(of(2), Some(vec![share(0.9), share(0.5), share(0.9)]));
        assert_eq!((of(0), shares.of_experts(None, 3, share(0.5))), (None, None));
        assert_eq!(shares.all().count(), 5);
    }
}
