//! The genome and which `t` a tensor gets (method 3.1).

use crate::prior::Prior;
use darwin_core::Part;
use darwin_core::stats::{logit, sigmoid};
use darwin_merge::{MixerKind, Selector};
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// logit 0.98: shares live in 0.02..0.98.
const SHARE_BOX: f64 = 3.891_820_298_110_627;
/// Offsets and router genes live in -2..2 (logit units).
const OFFSET_BOX: f64 = 2.0;
/// Router genes below -this choose the father, above the mother, between them the blend.
const ROUTER_EDGE: f64 = 2.0 / 3.0;

/// The share of the head that a search starts from: nearly the father's, whose protected domains
/// the head decides more than any other part.
const HEAD_START: f64 = 0.05;

/// What has an offset of its own from the overall share. The head is not among them: it has a share
/// of its own.
pub const COMPONENTS: [Selector; 6] = [
    Selector::Mixer(MixerKind::Linear),
    Selector::Mixer(MixerKind::Full),
    Selector::Part(Part::Routed),
    Selector::Part(Part::Shared),
    Selector::Part(Part::Embed),
    Selector::Part(Part::Norm),
];

/// What a gene means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GeneKind {
    /// logit of the overall share of the mother.
    Ratio,
    /// Offset of one of [`COMPONENTS`].
    Component(Selector),
    /// logit of the head's share.
    Head,
    /// Offset of a depth block.
    Block(usize),
    /// logit of the density of the mother's task vector.
    DensityM,
    /// logit of the weight of the diagnostics (0 in `blind`).
    Tau,
    /// Router choice of a depth block.
    Router(usize),
    /// logit of the card's factor c: density = 1 - c x share of literal-dead experts.
    CardC,
}

/// A gene: what it means, its start and its box.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Gene {
    /// What it means.
    pub kind: GeneKind,
    /// Start of the search.
    pub mean: f64,
    /// Standard deviation at the start.
    pub sd: f64,
    /// The box.
    pub bounds: (f64, f64),
}

impl Gene {
    fn share(kind: GeneKind, mean: f64) -> Self {
        Self { kind, mean, sd: 0.2 * 2.0 * SHARE_BOX, bounds: (-SHARE_BOX, SHARE_BOX) }
    }

    fn offset(kind: GeneKind) -> Self {
        Self { kind, mean: 0.0, sd: 0.2 * 2.0 * OFFSET_BOX, bounds: (-OFFSET_BOX, OFFSET_BOX) }
    }
}

/// Where a router comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RouterChoice {
    /// The father's.
    Father,
    /// Interpolated with the layer's routed share.
    Blend,
    /// The mother's.
    Mother,
}

/// The shares that one layer's components get.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LayerShares {
    /// Linear or full attention with its norm.
    pub mixer: f64,
    /// Routed experts with the post-attention norm.
    pub routed: f64,
    /// Shared expert and its gate.
    pub shared: f64,
    /// The router.
    pub router: RouterChoice,
    /// Density of the mother's task vector in this layer.
    pub density_m: f64,
}

/// A decoded genome: a share of the mother for every part of the model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Shares {
    /// The embedding.
    pub embed: f64,
    /// The final norm.
    pub norm: f64,
    /// The output head.
    pub head: f64,
    /// Density for tensors outside the layers.
    pub density_m: f64,
    /// One entry per layer.
    pub layers: Vec<LayerShares>,
}

impl Shares {
    /// The same share everywhere: a point of the plain interpolation line.
    #[must_use]
    pub fn uniform(t: f64, num_layers: usize) -> Self {
        let router = if t <= 0.0 {
            RouterChoice::Father
        } else if t >= 1.0 {
            RouterChoice::Mother
        } else {
            RouterChoice::Blend
        };
        let layer = LayerShares { mixer: t, routed: t, shared: t, router, density_m: 1.0 };
        Self { embed: t, norm: t, head: t, density_m: 1.0, layers: vec![layer; num_layers] }
    }
}

/// A genome's shape: its genes, the blocks they speak of, and the prior they are fused with.
#[derive(Clone, Debug)]
pub struct Genome {
    genes: Vec<Gene>,
    blocks: Vec<Range<usize>>,
    /// Whether each layer is linear attention.
    linear: Vec<bool>,
    prior: Prior,
}

impl Genome {
    /// The genome of an arm. `linear[l]` tells the kind of layer l's mixer.
    #[must_use]
    pub fn new(
        blocks: Vec<Range<usize>>,
        linear: Vec<bool>,
        prior: Prior,
        has_density: bool,
    ) -> Self {
        let mut genes = vec![Gene::share(GeneKind::Ratio, 0.0)];
        genes.extend(COMPONENTS.map(|c| Gene::offset(GeneKind::Component(c))));
        genes.push(Gene::share(GeneKind::Head, logit(HEAD_START)));
        if blocks.len() > 1 {
            genes.extend((0..blocks.len()).map(|b| Gene::offset(GeneKind::Block(b))));
        }
        if has_density {
            let kind =
                if prior.card_dead_share.is_some() { GeneKind::CardC } else { GeneKind::DensityM };
            genes.push(Gene::share(kind, logit(0.8)));
        }
        if prior.fuses() {
            genes.push(Gene::share(GeneKind::Tau, 0.0));
        }
        if prior.router_fixed.is_none() {
            genes.extend((0..blocks.len()).map(|b| Gene::offset(GeneKind::Router(b))));
        }
        Self { genes, blocks, linear, prior }
    }

    /// The genes, in the order of the vectors.
    #[must_use]
    pub fn genes(&self) -> &[Gene] {
        &self.genes
    }

    /// The depth blocks.
    #[must_use]
    pub fn blocks(&self) -> &[Range<usize>] {
        &self.blocks
    }

    /// Both parents and the midpoint as genes, injected into generation 0 of every arm alike.
    #[must_use]
    pub fn injected(&self) -> Vec<Vec<f64>> {
        let at = |ratio: f64, router: f64| {
            self.genes
                .iter()
                .map(|g| match g.kind {
                    GeneKind::Ratio | GeneKind::Head => ratio,
                    GeneKind::Router(_) => router,
                    GeneKind::Tau => -SHARE_BOX,
                    GeneKind::DensityM => SHARE_BOX,
                    GeneKind::CardC => -SHARE_BOX,
                    GeneKind::Component(_) | GeneKind::Block(_) => 0.0,
                })
                .collect()
        };
        vec![at(-SHARE_BOX, -1.0), at(SHARE_BOX, 1.0), at(0.0, 0.0)]
    }

    /// Decodes genes into shares: r_genome, fusion with the prior, then the constraints.
    ///
    /// # Panics
    /// If the vector has another length than [`Genome::genes`]: a bug of the caller.
    #[must_use]
    pub fn decode(&self, genes: &[f64]) -> Shares {
        assert_eq!(genes.len(), self.genes.len(), "one value per gene");
        let value =
            |wanted: GeneKind| self.genes.iter().position(|g| g.kind == wanted).map(|i| genes[i]);
        let offsets = |kinds: &mut dyn Iterator<Item = GeneKind>| -> Vec<f64> {
            let raw: Vec<f64> = kinds.map(|kind| value(kind).unwrap_or(0.0)).collect();
            let mean = raw.iter().sum::<f64>() / raw.len().max(1) as f64;
            raw.iter().map(|d| d - mean).collect()
        };
        let ratio = value(GeneKind::Ratio).unwrap_or(0.0);
        let components = offsets(&mut COMPONENTS.into_iter().map(GeneKind::Component));
        let component = |wanted: Selector| {
            COMPONENTS.iter().zip(&components).find(|(c, _)| **c == wanted).map_or(0.0, |(_, d)| *d)
        };
        let blocks = offsets(&mut (0..self.blocks.len()).map(GeneKind::Block));
        let tau = value(GeneKind::Tau).map_or(0.0, sigmoid);
        let density = value(GeneKind::DensityM).map_or(1.0, sigmoid);
        let card_c = value(GeneKind::CardC).map(sigmoid);
        let fuse = |r_mri: f64, logit_share: f64| tau * r_mri + (1.0 - tau) * sigmoid(logit_share);
        let mut layers = Vec::with_capacity(self.linear.len());
        for (l, is_linear) in self.linear.iter().enumerate() {
            let block = self.blocks.iter().position(|b| b.contains(&l)).unwrap_or(0);
            let base = ratio + blocks.get(block).copied().unwrap_or(0.0);
            let kind = if *is_linear { MixerKind::Linear } else { MixerKind::Full };
            let part = |selector: Selector| fuse(self.prior.share(l), base + component(selector));
            let gene = value(GeneKind::Router(block));
            layers.push(LayerShares {
                mixer: part(Selector::Mixer(kind)),
                routed: part(Part::Routed.into()),
                shared: part(Part::Shared.into()),
                router: self.router(l, gene),
                density_m: match (card_c, &self.prior.card_dead_share) {
                    (Some(c), Some(dead)) => 1.0 - c * dead[l],
                    _ => density,
                },
            });
        }
        let outside = |part: Part| fuse(self.prior.mean_share(), ratio + component(part.into()));
        Shares {
            embed: outside(Part::Embed),
            norm: outside(Part::Norm),
            head: value(GeneKind::Head).map_or(0.0, sigmoid),
            density_m: density,
            layers,
        }
    }

    fn router(&self, layer: usize, gene: Option<f64>) -> RouterChoice {
        match (&self.prior.router_fixed, gene) {
            (Some(fixed), _) => fixed[layer],
            (None, Some(g)) if g > ROUTER_EDGE => RouterChoice::Mother,
            (None, Some(g)) if g < -ROUTER_EDGE => RouterChoice::Father,
            _ => RouterChoice::Blend,
        }
    }
}
