//! Many candidates in one pass: each gets the bits that it gets alone, parents are read once, and
//! what is equal is computed once.

use darwin_checkpoint::{Error as Unreadable, Memo, TensorSource};
use darwin_core::{Cancel, NoProgress};
use darwin_engine::{
    CandidateScores, CandidateSet, Error, ItemScore, Model, Room, ScoreItem, score,
};
use darwin_testkit::{Blend, Tiny, sibling, tiny_llama, tiny_qwen3_moe};
use std::sync::Arc;

fn items() -> Vec<ScoreItem> {
    let ids = |n: u32, seed: u32| (0..n).map(|i| (i * 37 + seed * 11) % 250).collect();
    (0..23)
        .map(|i| ScoreItem { prompt: ids(3 + i * 5, i), answer: ids(1 + i % 6, i + 1) })
        .collect()
}

fn alone(source: &dyn TensorSource, items: &[ScoreItem]) -> Vec<ItemScore> {
    score(&Model::load(source).unwrap(), items, &Cancel::default()).unwrap()
}

fn together(sources: Vec<&dyn TensorSource>, items: &[ScoreItem], room: &Room) -> CandidateScores {
    CandidateSet::new(sources).score(items, room, &NoProgress, &Cancel::default()).unwrap()
}

/// Shares of the mother in four layers.
const SHARES: [[f32; 4]; 6] = [
    [0.0, 0.0, 0.5, 0.5],
    [0.0, 0.0, 0.5, 0.25],
    [0.0, 0.0, 1.0, 0.5],
    [0.0, 0.0, 0.5, 0.5],
    [0.75, 0.0, 0.0, 0.0],
    [0.0, 0.0, 0.0, 0.0],
];

#[test]
fn every_candidate_scores_as_alone_and_equal_beginnings_run_once() {
    let scratch = tempfile::tempdir().unwrap();
    let scratch = Some(scratch.path().to_owned());
    let items = items();
    let rooms = [
        Room::default(),
        Room { prefetch: false, states: 0, scratch: scratch.clone(), ..Room::default() },
        Room { states: 100_000, scratch, embedding: 0, ..Room::default() },
    ];
    for father in [Tiny::default().build("f", 1), tiny_llama(2), tiny_qwen3_moe(3)] {
        let mother = Arc::new(sibling(&father, "m", 5, 0.3));
        let father = Arc::new(father);
        let children: Vec<Blend> = SHARES
            .iter()
            .map(|shares| Blend::new(father.clone(), mother.clone(), shares.to_vec()))
            .collect();
        let mut sources: Vec<&dyn TensorSource> =
            children.iter().map(|child| child as &dyn TensorSource).collect();
        // other embeddings, and the same again
        sources.extend([mother.as_ref() as &dyn TensorSource, father.as_ref()]);
        let want: Vec<Vec<ItemScore>> = sources.iter().map(|s| alone(*s, &items)).collect();
        for room in &rooms {
            let CandidateScores { scores, cost } = together(sources.clone(), &items, room);
            for (i, (found, want)) in scores.into_iter().zip(&want).enumerate() {
                assert!(found.unwrap() == *want, "candidate {i} with {room:?}");
            }
            // layers 0 and 1: the father's, one other, the mother's; then what differs
            let runs = 3 + 3 + 5 + 6;
            assert_eq!(cost.run, (cost.tokens * runs).div_ceil(4));
        }
    }
}

#[test]
fn parents_are_read_once_for_all_candidates() {
    let father = Arc::new(Tiny::default().build("f", 1));
    let mother = Arc::new(sibling(father.as_ref(), "m", 5, 0.3));
    let items = items();
    let stored = |source: &dyn TensorSource| -> u64 {
        let tensors = source.manifest().tensors().iter();
        tensors.map(|t| (t.elements() * t.dtype.size()) as u64).sum()
    };
    let layer = stored(father.as_ref()) / 3;
    let memos = [father, mother].map(|parent| Arc::new(Memo::new(parent, layer)));
    let children: Vec<Blend> = (1..9)
        .map(|i| {
            let shares = (0..4).map(|l| (i + l) as f32 / 16.0).collect();
            Blend::new(memos[0].clone(), memos[1].clone(), shares)
        })
        .collect();
    let sources = children.iter().map(|child| child as &dyn TensorSource).collect();
    let scores = together(sources, &items, &Room::default()).scores;
    assert!(scores.iter().all(Result::is_ok));
    for memo in memos {
        let share = memo.bytes_read() as f64 / stored(memo.as_ref()) as f64;
        assert!(share <= 1.1, "{share}");
    }
}

#[test]
fn a_candidate_that_fails_fails_alone() {
    let good = Tiny::default().build("good", 1);
    let other = tiny_llama(1);
    let broken = good.manifest().find("layers.2.mlp.gate.weight").unwrap();
    let bad = Broken { source: &good, tensor: broken };
    let items = items();
    let sources: Vec<&dyn TensorSource> = vec![&good, &bad, &other, &good];
    let mut scores = together(sources, &items, &Room::default()).scores;
    let want = alone(&good, &items);
    assert!(scores.pop().unwrap().unwrap() == want);
    let shape = scores.pop().unwrap().unwrap_err();
    assert!(matches!(shape, Error::Shapes), "{shape}");
    let weights = scores.pop().unwrap().unwrap_err();
    assert!(matches!(weights, Error::Weights(Unreadable::MissingTensor { .. })), "{weights}");
    assert!(scores.pop().unwrap().unwrap() == want);
    let cancel = Cancel::default();
    cancel.cancel();
    let stopped =
        CandidateSet::new(vec![&good]).score(&items, &Room::default(), &NoProgress, &cancel);
    assert!(matches!(stopped, Err(Error::Cancelled)));
    let empty = [ScoreItem { prompt: vec![], answer: vec![1] }];
    let refused = CandidateSet::new(vec![&good]).score(
        &empty,
        &Room::default(),
        &NoProgress,
        &Cancel::default(),
    );
    assert!(matches!(refused, Err(Error::Empty { .. })));
}

/// A source one of whose tensors cannot be read.
struct Broken<'a> {
    source: &'a dyn TensorSource,
    tensor: darwin_checkpoint::TensorId,
}

impl TensorSource for Broken<'_> {
    fn name(&self) -> &str {
        "broken"
    }

    fn manifest(&self) -> &darwin_checkpoint::Manifest {
        self.source.manifest()
    }

    fn config(&self) -> &serde_json::Value {
        self.source.config()
    }

    fn prepare(
        &self,
        id: darwin_checkpoint::TensorId,
    ) -> Result<darwin_checkpoint::TensorPlan, Unreadable> {
        self.source.prepare(id)
    }

    fn read_tile(
        &self,
        plan: &darwin_checkpoint::TensorPlan,
        rows: std::ops::Range<usize>,
        out: &mut [f32],
    ) -> Result<(), Unreadable> {
        if plan.id == self.tensor {
            let (model, tensor) = ("broken".to_owned(), "gate".to_owned());
            return Err(Unreadable::MissingTensor { model, tensor });
        }
        self.source.read_tile(plan, rows, out)
    }

    fn read_raw(
        &self,
        id: darwin_checkpoint::TensorId,
        rows: std::ops::Range<usize>,
        out: &mut Vec<u8>,
    ) -> Result<bool, Unreadable> {
        self.source.read_raw(id, rows, out)
    }
}
