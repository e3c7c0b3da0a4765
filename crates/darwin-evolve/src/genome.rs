//! The genome and which `t` a tensor gets (method 3.1).

use crate::prior::Prior;
use darwin_core::stats::{logit, sigmoid};
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// logit 0.98: shares live in 0.02..0.98.
const SHARE_BOX: f64 = 3.891_820_298_110_627;
/// Offsets and router genes live in -2..2 (logit units).
const OFFSET_BOX: f64 = 2.0;
/// Router genes below -this choose the father, above the mother, between them the blend.
const ROUTER_EDGE: f64 = 2.0 / 3.0;

/// Components with an offset of their own.
pub const COMPONENTS: [&str; 5] = ["linear_attn", "self_attn", "routed", "shared", "embed"];

/// What a gene means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GeneKind {
    /// logit of the overall share of the mother.
    Ratio,
    /// Offset of a component, by position in [`COMPONENTS`].
    Component(usize),
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
    /// Embedding, final norm and head.
    pub embed: f64,
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
        Self { embed: t, density_m: 1.0, layers: vec![layer; num_layers] }
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
        genes.extend((0..COMPONENTS.len()).map(|c| Gene::offset(GeneKind::Component(c))));
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
        let mut genome = Self { genes, blocks, linear, prior };
        genome.start_from_prior();
        genome
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
                    GeneKind::Ratio => ratio,
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
        let offsets = |kind: fn(usize) -> GeneKind, n: usize| -> Vec<f64> {
            let raw: Vec<f64> = (0..n).map(|i| value(kind(i)).unwrap_or(0.0)).collect();
            let mean = raw.iter().sum::<f64>() / n.max(1) as f64;
            raw.iter().map(|d| d - mean).collect()
        };
        let ratio = value(GeneKind::Ratio).unwrap_or(0.0);
        let components = offsets(GeneKind::Component, COMPONENTS.len());
        let blocks = offsets(GeneKind::Block, self.blocks.len());
        let tau = value(GeneKind::Tau).map_or(0.0, sigmoid);
        let density = value(GeneKind::DensityM).map_or(1.0, sigmoid);
        let card_c = value(GeneKind::CardC).map(sigmoid);
        let fuse = |r_mri: f64, logit_share: f64| tau * r_mri + (1.0 - tau) * sigmoid(logit_share);
        let mut layers = Vec::with_capacity(self.linear.len());
        for (l, is_linear) in self.linear.iter().enumerate() {
            let block = self.blocks.iter().position(|b| b.contains(&l)).unwrap_or(0);
            let base = ratio + blocks.get(block).copied().unwrap_or(0.0);
            let mixer = usize::from(!is_linear);
            let part = |component: usize, name: &str| {
                let t = fuse(self.prior.share(l, name), base + components[component]);
                self.prior.constrain(l, name, t)
            };
            let gene = value(GeneKind::Router(block));
            layers.push(LayerShares {
                mixer: part(mixer, "mixer"),
                routed: part(2, "routed"),
                shared: part(3, "shared"),
                router: self.router(l, gene),
                density_m: match (card_c, &self.prior.card_dead_share) {
                    (Some(c), Some(dead)) => 1.0 - c * dead[l],
                    _ => density,
                },
            });
        }
        Shares {
            embed: fuse(self.prior.embed_share(), ratio + components[4]),
            density_m: density,
            layers,
        }
    }

    fn router(&self, layer: usize, gene: Option<f64>) -> RouterChoice {
        let wanted = match (&self.prior.router_fixed, gene) {
            (Some(fixed), _) => fixed[layer],
            (None, Some(g)) if g > ROUTER_EDGE => RouterChoice::Mother,
            (None, Some(g)) if g < -ROUTER_EDGE => RouterChoice::Father,
            _ => RouterChoice::Blend,
        };
        if wanted == RouterChoice::Mother && self.prior.router_from_mother_forbidden(layer) {
            RouterChoice::Father
        } else {
            wanted
        }
    }

    /// Mean and standard deviation of ratio, component and block genes from the prior (method 2).
    fn start_from_prior(&mut self) {
        if !self.prior.starts() {
            return;
        }
        let layers: Vec<usize> = (0..self.linear.len()).collect();
        let overall = self.prior.mean_logit(&layers, None);
        for gene in &mut self.genes {
            let (mean, sd) = match gene.kind {
                GeneKind::Ratio => (overall, self.prior.mean_sd(&layers, None)),
                GeneKind::Block(b) => {
                    let own: Vec<usize> = self.blocks[b].clone().collect();
                    (self.prior.mean_logit(&own, None) - overall, self.prior.mean_sd(&own, None))
                }
                GeneKind::Component(c) => {
                    let (own, name): (Vec<usize>, _) = match COMPONENTS[c] {
                        "linear_attn" => {
                            (layers.iter().copied().filter(|l| self.linear[*l]).collect(), "mixer")
                        }
                        "self_attn" => {
                            (layers.iter().copied().filter(|l| !self.linear[*l]).collect(), "mixer")
                        }
                        "embed" => continue,
                        other => (layers.clone(), other),
                    };
                    if own.is_empty() {
                        continue;
                    }
                    (
                        self.prior.mean_logit(&own, Some(name)) - overall,
                        self.prior.mean_sd(&own, Some(name)),
                    )
                }
                _ => continue,
            };
            let (low, high) = gene.bounds;
            gene.mean = mean.clamp(0.9 * low, 0.9 * high);
            // Never so sure that the search cannot leave, never wider than the blind start.
            gene.sd = sd.clamp(0.25 * gene.sd, gene.sd);
        }
    }
}
