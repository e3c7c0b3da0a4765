//! Validates the proxy: its rank correlation with the real benchmark, measured on random genomes
//! (method 3.3).

use crate::Error;
use crate::genome::Genome;
use crate::recipe::recipe;
use crate::search::Stages;
use crate::stage::{Bench, Named};
use darwin_core::Progress;
use darwin_core::keyed::{Key, Rng};
use darwin_core::stats::spearman;
use serde::{Deserialize, Serialize};

/// What was measured.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct RankCheck {
    /// Random genomes.
    pub n: usize,
    /// Spearman's rho between the proxy's fitness and the real one.
    pub rho: f64,
}

/// Evaluates random genomes of the blind box in both phases; `None` when the configuration asks
/// for fewer than four.
///
/// # Errors
/// Whatever evaluation or journal bring.
pub(crate) fn rank_check(
    bench: &mut Bench<'_>,
    stages: &Stages<'_>,
    genome: &Genome,
    progress: &dyn Progress,
) -> Result<Option<RankCheck>, Error> {
    let n = bench.config.rank_check;
    if n < 4 {
        return Ok(None);
    }
    progress.start("rank check", 2 * n as u64, "steps");
    let genes = random_genes(genome, n, bench.config.seeds.run);
    let mut fitness = [Vec::new(), Vec::new()];
    for (phase, stage) in [&stages.proxy, &stages.real].into_iter().enumerate() {
        for (step, genes) in genes.iter().enumerate() {
            let named = Named { arm: "rank_check", step, generation: 0, genes, label: None };
            let candidate = recipe(bench.config, &genome.decode(genes))?;
            fitness[phase].push(stage.evaluate(bench, &named, &candidate)?.fitness);
            progress.advance(1);
        }
    }
    progress.finish();
    Ok(spearman(&fitness[0], &fitness[1]).map(|rho| RankCheck { n, rho }))
}

/// Uniform in the middle 80 % of each gene's box.
fn random_genes(genome: &Genome, n: usize, seed: u64) -> Vec<Vec<f64>> {
    let mut rng = Rng::new(Key::new(seed, &["rank check"]), 0);
    (0..n)
        .map(|_| {
            let at = |(low, high): (f64, f64), u: f64| low + (high - low) * (0.1 + 0.8 * u);
            genome.genes().iter().map(|g| at(g.bounds, rng.uniform())).collect()
        })
        .collect()
}
