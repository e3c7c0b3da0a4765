//! The rule that the card of the seed's sibling prints (arm `card-v5`; method 2).

use super::setting::Setting;
use super::space::{Coordinate, Space, UNKNOWN};
use crate::job::{FATHER, MOTHER};
use crate::recipe::{density, share, unit};
use crate::{BlendMethod, Error, RunConfig};
use darwin_core::Part;
use darwin_merge::{GroupShares, LayerSpec, Recipe, RouterMode};
use std::sync::Arc;

/// How much the tensors' scores weigh beside the genes.
const TAU: f64 = 0.7;

/// Shares outside of these are a parent's whole tensor.
const COPIED: [f64; 2] = [0.05, 0.95];

/// What the rule reads in a tensor of both parents.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorShare {
    /// Its canonical name.
    pub tensor: String,
    /// Its part.
    pub part: Part,
    /// The mother's score over the sum of both parents'.
    pub share: f64,
}

impl TensorShare {
    /// The score of values with this entropy in bits, standard deviation and L2 norm.
    pub(crate) fn score([entropy, sd, norm]: [f64; 3]) -> f64 {
        0.5 * entropy + 0.3 * sd + 0.002 * norm.min(100.0)
    }
}

/// Genes of the rule: overall, attention, feed-forward, density.
pub(crate) struct CardV5 {
    config: Arc<RunConfig>,
    tensors: Arc<[TensorShare]>,
    line: f64,
}

impl CardV5 {
    pub(crate) fn new(setting: &Setting, tensors: Arc<[TensorShare]>) -> Self {
        Self { config: setting.config.clone(), tensors, line: setting.line_best().0 }
    }
}

impl Space for CardV5 {
    fn genes(&self) -> Vec<Coordinate> {
        let share = Coordinate { bounds: (0.0, 1.0), ..UNKNOWN };
        vec![share, share, share, Coordinate { mean: 0.8, sd: 0.2, bounds: (0.05, 1.0) }]
    }

    fn decode(&self, genes: &[f64]) -> Result<Recipe, Error> {
        let [ratio, attention, feed_forward, density_m] = genes[..] else {
            return Err(Error::Optimiser("a genome of card-v5 has four genes".to_owned()));
        };
        let mut groups = GroupShares::new();
        for tensor in self.tensors.iter() {
            let gene = match tensor.part {
                Part::Mixer => attention,
                Part::Routed | Part::Shared | Part::Router => feed_forward,
                _ => ratio,
            };
            let t = TAU * tensor.share + (1.0 - TAU) * gene;
            let t = match t {
                t if t < COPIED[0] => 0.0,
                t if t > COPIED[1] => 1.0,
                t => t,
            };
            groups.insert(&*tensor.tensor, vec![share(t)]);
        }
        let method = match self.config.merge.method {
            BlendMethod::DareTies => "dare_ties",
            BlendMethod::Linear => "linear",
        };
        let mut builder = Recipe::blend(method, FATHER, MOTHER)
            .default_share(share(0.0))
            .router(LayerSpec::all(), RouterMode::Blend)
            .groups(groups)
            .unit(unit(&self.config))
            .seed(self.config.seeds.masks);
        if self.config.merge.method == BlendMethod::DareTies {
            builder = builder.density(density(1.0), density(density_m)).parameter("rescale", 0.0);
        }
        builder.build().map_err(Error::below)
    }

    fn injected(&self) -> Vec<Vec<f64>> {
        [0.0, 1.0, 0.5, self.line].map(|t| vec![t, t, t, 1.0]).to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_score_is_the_published_sum() {
        let score = TensorShare::score([6.0, 0.02, 250.0]);
        assert!((score - (3.0 + 0.006 + 0.2)).abs() < 1e-12, "{score}");
    }
}
