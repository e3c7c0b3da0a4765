//! What genes mean: from a vector to a recipe.

use super::setting::Setting;
use crate::genome::{GeneKind, Genome};
use crate::job::FATHER;
use crate::prior::Prior;
use crate::recipe::{group_recipe, recipe};
use crate::{Error, RunConfig};
use darwin_core::stats::logit;
use darwin_core::{Group, Part};
use darwin_merge::Recipe;
use std::sync::Arc;

/// Shares of groups live here (method 3.1).
pub(crate) const SHARES: (f64, f64) = (-0.5, 1.5);

/// A gene as an optimiser sees it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Coordinate {
    /// Where the search begins.
    pub(crate) mean: f64,
    /// Its standard deviation there.
    pub(crate) sd: f64,
    /// The box.
    pub(crate) bounds: (f64, f64),
}

/// A share that nothing is known of.
pub(super) const UNKNOWN: Coordinate = Coordinate { mean: 0.5, sd: 0.2, bounds: SHARES };

/// A space that a population lives in.
pub(crate) trait Space: Send {
    /// Start, spread and box of every gene.
    fn genes(&self) -> Vec<Coordinate>;

    /// The candidate of some genes.
    fn decode(&self, genes: &[f64]) -> Result<Recipe, Error>;

    /// What generation 0 begins with: both parents, the midpoint, the line's best point.
    fn injected(&self) -> Vec<Vec<f64>>;
}

/// The small genome: overall share, offsets of components and blocks, routers, density.
pub(crate) struct Small {
    config: Arc<RunConfig>,
    genome: Genome,
    line: f64,
}

impl Small {
    pub(crate) fn new(setting: &Setting, prior: Prior) -> Self {
        let config = setting.config.clone();
        let has_density = config.merge.method == crate::BlendMethod::DareTies;
        let linear = setting.shape.linear.clone();
        let blocks = match prior.card_golden_layer() {
            Some(golden) if linear.len() > 1 => card_blocks(golden, linear.len()),
            _ => setting.blocks(),
        };
        let genome = Genome::new(blocks, linear, prior, has_density);
        Self { config, genome, line: setting.line_best().0 }
    }
}

/// The card's blocks: the golden layer alone, the last alone, the rest (method 2).
fn card_blocks(golden: usize, layers: usize) -> Vec<std::ops::Range<usize>> {
    let last = layers - 1;
    let mut cuts: Vec<usize> = [0, golden, golden + 1, last, layers].to_vec();
    cuts.retain(|cut| *cut <= layers);
    cuts.sort_unstable();
    cuts.dedup();
    cuts.windows(2).map(|w| w[0]..w[1]).collect()
}

impl Space for Small {
    fn genes(&self) -> Vec<Coordinate> {
        let of = |g: &crate::Gene| Coordinate { mean: g.mean, sd: g.sd, bounds: g.bounds };
        self.genome.genes().iter().map(of).collect()
    }

    fn decode(&self, genes: &[f64]) -> Result<Recipe, Error> {
        recipe(&self.config, &self.genome.decode(genes))
    }

    fn injected(&self) -> Vec<Vec<f64>> {
        let mut injected = self.genome.injected();
        let midpoint = injected.last().expect("both parents and the midpoint");
        let on_line = self.genome.genes().iter().zip(midpoint).map(|(gene, middle)| {
            let (low, high) = gene.bounds;
            let share = matches!(gene.kind, GeneKind::Ratio | GeneKind::Head);
            if share { logit(self.line).clamp(low, high) } else { *middle }
        });
        injected.push(on_line.collect());
        injected
    }
}

/// The published blind predecessor's four genes: overall, attention, feed-forward, density.
pub(crate) struct V4 {
    config: Arc<RunConfig>,
    layers: usize,
    line: f64,
}

impl V4 {
    pub(crate) fn new(setting: &Setting) -> Self {
        let layers = setting.shape.linear.len();
        Self { config: setting.config.clone(), layers, line: setting.line_best().0 }
    }
}

impl Space for V4 {
    fn genes(&self) -> Vec<Coordinate> {
        let share = Coordinate { bounds: (0.0, 1.0), ..UNKNOWN };
        vec![share, share, share, Coordinate { mean: 0.8, sd: 0.2, bounds: (0.05, 1.0) }]
    }

    fn decode(&self, genes: &[f64]) -> Result<Recipe, Error> {
        let [ratio, attention, feed_forward, density] = genes[..] else {
            return Err(Error::Optimiser("a genome of v4 has four genes".to_owned()));
        };
        let mut shares = crate::Shares::uniform(ratio, self.layers);
        shares.density_m = density;
        for layer in &mut shares.layers {
            layer.mixer = attention;
            (layer.routed, layer.shared) = (feed_forward, feed_forward);
            layer.density_m = density;
        }
        recipe(&self.config, &shares)
    }

    fn injected(&self) -> Vec<Vec<f64>> {
        [0.0, 1.0, 0.5, self.line].map(|t| vec![t, t, t, 1.0]).to_vec()
    }
}

/// A gene for each layer and part, each a share.
pub(crate) struct Wide {
    config: Arc<RunConfig>,
    groups: Arc<[Group]>,
    /// The gene of each group.
    gene: Vec<usize>,
    genes: usize,
    line: f64,
}

impl Wide {
    pub(crate) fn new(setting: &Setting) -> Self {
        let (groups, config) = (setting.shape.groups.clone(), setting.config.clone());
        let (gene, genes) = classes(&groups, |group| (group.layer, group.part));
        Self { config, groups, gene, genes, line: setting.line_best().0 }
    }
}

/// The class of each group by a key, counted in the order of their first members, and their number.
fn classes<K: PartialEq>(groups: &[Group], key: impl Fn(&Group) -> K) -> (Vec<usize>, usize) {
    let mut keys: Vec<K> = Vec::new();
    let class = |group: &Group| {
        let key = key(group);
        keys.iter().position(|known| *known == key).unwrap_or_else(|| {
            keys.push(key);
            keys.len() - 1
        })
    };
    let of: Vec<usize> = groups.iter().map(class).collect();
    let number = of.iter().max().map_or(0, |most| most + 1);
    (of, number)
}

impl Space for Wide {
    fn genes(&self) -> Vec<Coordinate> {
        vec![UNKNOWN; self.genes]
    }

    fn decode(&self, genes: &[f64]) -> Result<Recipe, Error> {
        let shares: Vec<f64> = self.gene.iter().map(|gene| genes[*gene]).collect();
        group_recipe(&self.config, crate::job::MOTHER, &self.groups, &shares)
    }

    fn injected(&self) -> Vec<Vec<f64>> {
        [0.0, 1.0, 0.5, self.line].map(|t| vec![t; self.genes]).to_vec()
    }
}

/// Around the result of an ascent: how far along it, and an offset for each part.
pub(crate) struct Along {
    pub(crate) config: Arc<RunConfig>,
    pub(crate) mother: &'static str,
    pub(crate) groups: Arc<[Group]>,
    /// Where the ascent began.
    pub(crate) start: Vec<f64>,
    /// Where it ended.
    pub(crate) end: Vec<f64>,
    /// The class of each group.
    class: Vec<usize>,
    /// The spread of each gene.
    sds: Vec<f64>,
}

impl Along {
    /// `curvature` is that of the goal by group's share; a gene's spread is the step that costs half
    /// a point of the goal by it (method 2), in bounds.
    pub(crate) fn new(
        setting: &Setting,
        mother: &'static str,
        [start, end]: [Vec<f64>; 2],
        curvature: &[f64],
    ) -> Self {
        let (config, groups) = (setting.config.clone(), setting.shape.groups.clone());
        let linear = setting.shape.linear.clone();
        let kind = |group: &Group| {
            let mixer = group.layer.filter(|_| group.part == Part::Mixer);
            (group.part, mixer.map(|layer| linear[layer.0]))
        };
        let (class, genes) = classes(&groups, kind);
        let mut sums = vec![0.0; genes + 1];
        for (i, curvature) in curvature.iter().enumerate() {
            let step = end[i] - start[i];
            sums[0] += curvature * step * step;
            sums[class[i] + 1] += curvature;
        }
        const HALF_A_POINT: f64 = 0.005;
        let sd = |sum: &f64| (2.0 * HALF_A_POINT / (-sum).max(1e-9)).sqrt().clamp(0.02, 0.3);
        let sds = sums.iter().map(sd).collect();
        Self { config, mother, groups, start, end, class, sds }
    }
}

impl Space for Along {
    fn genes(&self) -> Vec<Coordinate> {
        let gene = |(i, sd): (usize, &f64)| match i {
            0 => Coordinate { mean: 1.0, sd: *sd, bounds: (-0.5, 2.0) },
            _ => Coordinate { mean: 0.0, sd: *sd, bounds: (-1.0, 1.0) },
        };
        self.sds.iter().enumerate().map(gene).collect()
    }

    fn decode(&self, genes: &[f64]) -> Result<Recipe, Error> {
        let shares: Vec<f64> = (0..self.groups.len())
            .map(|i| {
                let along = self.start[i] + genes[0] * (self.end[i] - self.start[i]);
                (along + genes[1 + self.class[i]]).clamp(SHARES.0, SHARES.1)
            })
            .collect();
        group_recipe(&self.config, self.mother, &self.groups, &shares)
    }

    fn injected(&self) -> Vec<Vec<f64>> {
        let at = |step: f64| {
            let mut genes = vec![0.0; self.sds.len()];
            genes[0] = step;
            genes
        };
        vec![at(1.0), at(0.0)]
    }
}

/// The name of a recipe's father is fixed; a control may have another mother.
pub(crate) fn is_real(recipe: &Recipe) -> bool {
    recipe.models().iter().all(|model| [FATHER, crate::job::MOTHER].contains(model))
}
