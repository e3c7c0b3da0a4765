//! What a pass with derivatives by share costs, in plain forward passes of the same tokens.
//!
//!     cargo bench -p darwin-engine --bench derivative -- [FATHER MOTHER] [--items N]
//!
//! FATHER and MOTHER are checkpoint folders of one shape, examples/parents without them. The point is
//! their midpoint; items are N (256) prompts of 40 random tokens with answers of 9. The times are the
//! least of several, of both kinds in turn, so that a busy machine meets both alike.

#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a benchmark prints and may fail")]

use darwin_checkpoint::{
    AnyModel, Dtype, Error as SourceError, Manifest, TensorId, TensorPlan, TensorSource,
};
use darwin_core::keyed::{Key, Rng};
use darwin_core::{Cancel, NoProgress};
use darwin_engine::derivative::{Derivatives, Direction, Keep, derivatives};
use darwin_engine::{LayerSource, Model, Room, ScoreItem, Stream, score};
use serde_json::Value;
use std::ops::Range;
use std::time::Instant;

/// Repeats of each job.
const REPEATS: usize = 7;

/// `from + (to - from) / 2`, rounded to the type of `from`.
struct Midpoint<'a>(&'a dyn TensorSource, &'a dyn TensorSource);

impl TensorSource for Midpoint<'_> {
    fn name(&self) -> &str {
        "the midpoint"
    }

    fn manifest(&self) -> &Manifest {
        self.0.manifest()
    }

    fn config(&self) -> &Value {
        self.0.config()
    }

    fn prepare(&self, id: TensorId) -> Result<TensorPlan, SourceError> {
        self.0.prepare(id)
    }

    fn read_tile(
        &self,
        plan: &TensorPlan,
        rows: Range<usize>,
        out: &mut [f32],
    ) -> Result<(), SourceError> {
        self.0.read_tile(plan, rows.clone(), out)?;
        let Some(other) = self.1.manifest().find(&self.manifest().get(plan.id).name) else {
            return Ok(());
        };
        let mut to = vec![0.0; out.len()];
        self.1.read_tile(&self.1.prepare(other)?, rows, &mut to)?;
        out.iter_mut().zip(to).for_each(|(a, b)| *a += 0.5 * (b - *a));
        if plan.dtype == Dtype::Bf16 {
            plan.dtype.round(out);
        }
        Ok(())
    }

    fn read_raw(&self, _: TensorId, _: Range<usize>, _: &mut Vec<u8>) -> Result<bool, SourceError> {
        Ok(false)
    }
}

fn main() {
    // cargo runs benchmarks in the crate's folder
    std::env::set_current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../..")).unwrap();
    let (mut folders, mut count) = (Vec::new(), 256);
    let mut args = std::env::args().skip(1).filter(|a| a != "--bench");
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--items" => count = args.next().unwrap().parse().unwrap(),
            _ => folders.push(arg),
        }
    }
    if folders.is_empty() {
        folders = ["father", "mother"].map(|name| format!("examples/parents/{name}")).to_vec();
    }
    let parents: Vec<AnyModel> =
        folders.iter().map(|folder| AnyModel::open(folder).unwrap()).collect();
    let (father, mother): (&dyn TensorSource, &dyn TensorSource) = (&parents[0], &parents[1]);
    let midpoint = Midpoint(father, mother);
    let (model, stream) = (Model::load(&midpoint).unwrap(), Stream::open(&midpoint).unwrap());
    let kept = Direction::between(father, mother).unwrap().keeping();
    let read = Direction::between(father, mother).unwrap();
    let items = items(&model, count);
    let tokens: usize = items.iter().map(ScoreItem::fed_tokens).sum();
    println!(
        "{} -> {}: {count} items, {tokens} tokens, {} groups, {} threads",
        folders[0],
        folders[1],
        kept.groups().len(),
        rayon::current_num_threads()
    );

    let run = |point: &dyn LayerSource, direction: &Direction<'_>, keep: &Keep| -> Derivatives {
        derivatives(point, direction, &items, keep, &NoProgress, &Cancel::default()).unwrap()
    };
    let inputs = Keep::Inputs(Room::default());
    let jobs: [(&str, &dyn Fn()); 4] = [
        ("forward pass (score)", &|| drop(score(&model, &items, &Cancel::default()).unwrap())),
        ("activations kept", &|| drop(run(&model, &kept, &Keep::Activations))),
        ("inputs kept, model loaded", &|| drop(run(&model, &kept, &inputs))),
        ("inputs kept, layers read", &|| drop(run(&stream, &read, &inputs))),
    ];
    let mut least = [f64::INFINITY; 4];
    for _ in 0..REPEATS {
        for (least, (_, job)) in least.iter_mut().zip(jobs) {
            let start = Instant::now();
            job();
            *least = least.min(start.elapsed().as_secs_f64());
        }
    }
    for (least_of_job, (what, _)) in least.iter().zip(jobs) {
        println!(
            "{what:>27}: {:8.1} ms, {:6.0} tokens/s, {:.2} forward passes",
            1e3 * least_of_job,
            tokens as f64 / least_of_job,
            least_of_job / least[0]
        );
    }
}

/// Items that share no beginning.
fn items(model: &Model, count: usize) -> Vec<ScoreItem> {
    let vocab = model.config().vocab_size;
    let mut rng = Rng::new(Key::new(1, &["items"]), 0);
    let mut ids = |n: usize| (0..n).map(|_| rng.below(vocab) as u32).collect();
    (0..count).map(|_| ScoreItem { prompt: ids(40), answer: ids(9) }).collect()
}
