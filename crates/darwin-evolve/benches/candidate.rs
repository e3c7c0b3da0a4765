//! What a candidate costs beside what it must cost: merge in memory, load and score, against a
//! plain scoring pass of a loaded model over the same tokens. One run, one ratio.

#![allow(clippy::print_stdout, reason = "a benchmark prints")]

use darwin_checkpoint::HashCache;
use darwin_core::{Cancel, NoProgress, Split};
use darwin_eval::{Candidate, Evaluator, ItemSet, Likelihood, Scorer};
use darwin_evolve::{Parents, RunConfig, Shares, Ui, recipe};
use darwin_merge::Merge;
use std::path::Path;
use std::time::Instant;

const REPEATS: usize = 9;

fn main() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("two above");
    std::env::set_current_dir(root).expect("the workspace is there");
    let config = RunConfig::read(Path::new("examples/first-light.yaml")).expect("valid");
    let layers = 8;
    let (cancel, hashes) = (Cancel::default(), HashCache::default());
    let ui = Ui::silent(&cancel, &hashes);
    let parents = Parents::open(&config, ui).expect("the example parents");
    let items = ItemSet::open(&config.items_of(Split::Proxy), Split::Proxy).expect("items");
    let evaluator = Likelihood::new(items.take_per_domain(config.proxy.per_domain), &parents.text)
        .expect("items");
    let mut shares = Shares::uniform(0.4, layers);
    shares.layers.iter_mut().for_each(|l| l.density_m = 0.8);
    let evolved = recipe(&config, &shares).expect("valid");
    let (mut plain, mut candidate) = (Vec::new(), Vec::new());
    for _ in 0..REPEATS {
        let start = Instant::now();
        evaluator.evaluate_model(&parents.father_model, &cancel).expect("scores");
        plain.push(start.elapsed().as_secs_f64());
        let start = Instant::now();
        let merge = Merge::new(&evolved, &parents.sources).expect("plans");
        let asked = [Candidate { name: "candidate", source: &merge }];
        let results = evaluator.evaluate(&asked, &NoProgress, &cancel).expect("evaluates");
        assert!(results[0].is_ok());
        candidate.push(start.elapsed().as_secs_f64());
    }
    let (plain, candidate) = (median(plain), median(candidate));
    println!(
        "candidate (dare_ties, in memory) {:.1} ms, plain scoring pass {:.1} ms over {} tokens: ratio {:.3} (to reach: 1.2)",
        1e3 * candidate,
        1e3 * plain,
        evaluator.cost().tokens,
        candidate / plain
    );
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
