//! A generation of candidates in one pass over the layers, beside one pass each.
//!
//!     cargo bench -p darwin-engine --bench candidates -- [--candidates 8] [--items 64]
//!
//! Candidates are children of two random parents: each layer lies between the parents', by a share
//! of each candidate's own from some layer on, and the same for all before. Prints the time of
//! single passes over that of one pass together, and what was read of the parents over what they
//! hold.

#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a benchmark prints and may fail")]

#[path = "../engine/models.rs"]
#[expect(dead_code, reason = "the other benchmark uses all of it")]
mod models;

use darwin_checkpoint::{Dtype, Memo, TensorSource};
use darwin_core::{Cancel, NoProgress};
use darwin_engine::{CandidateSet, Model, Room, ScoreItem, score};
use darwin_testkit::{Blend, sibling};
use std::sync::Arc;
use std::time::Instant;

fn main() {
    let (mut count, mut number) = (8, 64);
    let mut args = std::env::args().skip(1).filter(|a| a != "--bench");
    while let Some(arg) = args.next() {
        let value = args.next().and_then(|value| value.parse().ok());
        match (arg.as_str(), value) {
            ("--candidates", Some(value)) => count = value,
            ("--items", Some(value)) => number = value,
            _ => panic!("known are --candidates N and --items N, found {arg}"),
        }
    }
    let sizes = models::Sizes { layers: 8, ..models::MIDDLE };
    let father = Arc::new(models::random(sizes, Dtype::Bf16));
    let mother = Arc::new(sibling(father.as_ref(), "mother", 5, 0.1));
    let ids =
        |n: usize, seed: usize| (0..n).map(|i| ((i * 37 + seed * 101) % 8000) as u32).collect();
    let items: Vec<ScoreItem> = (0..number)
        .map(|i| ScoreItem { prompt: ids(48 + i % 32, i), answer: ids(4 + i % 5, i + 1) })
        .collect();
    let bytes: usize =
        father.manifest().tensors().iter().map(|t| t.elements() * t.dtype.size()).sum();
    println!("{count} candidates, {number} items, parents of {:.0} MB", bytes as f64 / 1e6);
    for same in [0, sizes.layers / 2] {
        let parents: [Arc<dyn TensorSource>; 2] = [father.clone(), mother.clone()];
        one(&parents, bytes as u64, &items, (count, same, sizes.layers));
    }
}

fn children(parents: &[Arc<Memo>; 2], (count, same, layers): (usize, usize, usize)) -> Vec<Blend> {
    let share = |candidate: usize, layer: usize| match layer < same {
        true => 0.5,
        false => (candidate + 1) as f32 / (count + 1) as f32,
    };
    let child = |candidate| {
        let shares = (0..layers).map(|layer| share(candidate, layer)).collect();
        Blend::new(parents[0].clone(), parents[1].clone(), shares)
    };
    (0..count).map(child).collect()
}

fn one(
    parents: &[Arc<dyn TensorSource>; 2],
    bytes: u64,
    items: &[ScoreItem],
    kind: (usize, usize, usize),
) {
    let (_, same, layers) = kind;
    let memos = |limit| parents.each_ref().map(|p| Arc::new(Memo::new(p.clone(), limit)));
    let share = |memos: &[Arc<Memo>; 2]| {
        memos.iter().map(|memo| memo.bytes_read()).sum::<u64>() as f64 / (2 * bytes) as f64
    };
    let cancel = Cancel::default();
    let single = memos(0);
    let start = Instant::now();
    let alone: Vec<_> = children(&single, kind)
        .iter()
        .map(|child| score(&Model::load(child).unwrap(), items, &cancel).unwrap())
        .collect();
    let one_by_one = start.elapsed().as_secs_f64();
    let shared = memos(2 * bytes / layers as u64);
    let start = Instant::now();
    let children = children(&shared, kind);
    let sources = children.iter().map(|child| child as &dyn TensorSource).collect();
    let set = CandidateSet::new(sources);
    let found = set.score(items, &Room::default(), &NoProgress, &cancel).unwrap();
    let together = start.elapsed().as_secs_f64();
    let equal = found.scores.iter().zip(&alone).all(|(a, b)| a.as_ref().unwrap() == b);
    assert!(equal, "the same bits either way");
    println!(
        "{same} of {layers} layers alike: one by one {one_by_one:.2} s and {:.2} of the parents' \
         bytes, together {together:.2} s and {:.2}; {:.2} times as fast",
        share(&single),
        share(&shared),
        one_by_one / together
    );
}
