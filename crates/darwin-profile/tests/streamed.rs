//! Profiles of models that are not loaded: the files of the loaded model, whatever the budget.

#![allow(clippy::unwrap_used, reason = "tests may be plain")]

mod common;

use common::{Tiny, encoded, encoded_below};
use darwin_checkpoint::{Checkpoint, MemorySource, Tapped, TensorSource};
use darwin_core::{Cancel, NoProgress};
use darwin_engine::{Budget, Error, Plan, Room};
use darwin_eval::Encoded;
use darwin_profile::{
    CompareOptions, ProfileOptions, Samples, Unloaded, compare, compare_streamed, plan_compare,
    plan_profile, profile, profile_streamed,
};
use darwin_testkit::{Tiny as Sizes, sibling, tiny_llama, tiny_qwen3_moe, tiny_qwen35};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

fn options() -> ProfileOptions {
    ProfileOptions { batch_tokens: 200, ..ProfileOptions::default() }
}

fn streamed(source: &dyn TensorSource, tiny: &Tiny, items: &Encoded, plan: &Plan) -> Samples {
    let subject = Unloaded { source, reference: &tiny.reference };
    profile_streamed(&subject, items, &options(), plan, &NoProgress, &Cancel::default()).unwrap().1
}

/// From "everything fits" down to one layer, one batch and one band of the head.
fn plans(source: &dyn TensorSource, tiny: &Tiny, items: &Encoded, scratch: PathBuf) -> Vec<Plan> {
    let subject = Unloaded { source, reference: &tiny.reference };
    let plan = |memory| {
        let budget = Budget { memory, scratch: Some(scratch.clone()) };
        plan_profile(&subject, items, &options(), &budget, 0)
    };
    let free = plan(None).unwrap().plan;
    let Err(darwin_profile::Error::Engine(Error::Memory { least, .. })) = plan(Some(1)) else {
        panic!("a byte is not enough")
    };
    let mut plans = vec![free.clone()];
    plans.push(plan(Some(least)).unwrap().plan);
    plans.push(plan(Some((least + free.peak) / 2)).unwrap().plan);
    let room =
        Room { prefetch: false, states: 0, scratch: Some(scratch.clone()), embedding: 0, head: 1 };
    plans.push(Plan { room, batch_tokens: 1, ..free });
    plans
}

#[test]
fn a_profile_is_the_same_file_whatever_the_budget() {
    let scratch = tempfile::tempdir().unwrap();
    let golden =
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../darwin-testkit/fixtures/golden/engine");
    let families = std::fs::read_dir(golden).unwrap().flatten().map(|entry| entry.path());
    let families = families.filter(|path| path.join("config.json").is_file());
    let mut sources: Vec<MemorySource> = families
        .map(|path| MemorySource::read(&Checkpoint::open(path).unwrap()).unwrap())
        .collect();
    assert!(sources.len() > 20);
    sources.extend([tiny_llama(2), tiny_qwen3_moe(2), tiny_qwen35(1)]);
    // more than one band of the head
    sources.push(Sizes { vocab: 20_000, ..Sizes::default() }.build("wide", 3));
    for source in sources {
        let tiny = Tiny::new("tiny", source);
        let vocab = tiny.model.config().vocab_size;
        let items = encoded_below(0..7, vocab);
        let options = ProfileOptions { batch_tokens: 5000, ..ProfileOptions::default() };
        let (whole, samples) =
            profile(&tiny.subject(), &items, &options, &NoProgress, &Cancel::default()).unwrap();
        let whole = serde_json::to_string(&whole).unwrap();
        for plan in plans(&tiny.source, &tiny, &items, scratch.path().to_owned()) {
            let found = streamed(&tiny.source, &tiny, &items, &plan);
            assert_eq!(found, samples, "{plan:?}");
            assert_eq!(serde_json::to_string(&found.profile()).unwrap(), whole);
        }
    }
}

#[test]
fn a_profile_reads_every_weight_once() {
    let tiny = Tiny::new("tiny", tiny_qwen35(1));
    for items in [encoded(0..1), encoded(0..40)] {
        let all = std::cell::Cell::new(0);
        for plan in plans(&tiny.source, &tiny, &items, std::env::temp_dir()) {
            let bytes = AtomicU64::new(0);
            let counted = Tapped::new(&tiny.source, |plan, rows, _| {
                let row = plan.cols * plan.dtype.size();
                bytes.fetch_add((rows.len() * row) as u64, Ordering::Relaxed);
            });
            streamed(&counted, &tiny, &items, &plan);
            let tensors = tiny.source.manifest().tensors().iter();
            let whole: usize = tensors.map(|t| t.elements() * t.dtype.size()).sum();
            all.set(all.get() + 1);
            // rows of the embedding are read for each batch where there is no room for a table
            if plan.room.embedding > 0 {
                let share = bytes.into_inner() as f64 / whole as f64;
                assert!(share <= 1.05, "{share} of the model with {plan:?}");
            }
        }
        assert_eq!(all.get(), 4);
    }
}

#[test]
fn a_missing_scratch_folder_is_named() {
    let tiny = Tiny::new("tiny", tiny_qwen35(1));
    let items = encoded(0..2);
    let missing = std::env::temp_dir().join("darwin-no-such-folder");
    let plan = plans(&tiny.source, &tiny, &items, missing).pop().unwrap();
    let subject = Unloaded { source: &tiny.source, reference: &tiny.reference };
    let error =
        profile_streamed(&subject, &items, &options(), &plan, &NoProgress, &Cancel::default())
            .unwrap_err()
            .to_string();
    assert!(error.contains("darwin-no-such-folder"), "{error}");
}

fn own(tiny: &Tiny, items: &Encoded) -> darwin_core::files::Profile {
    let options = ProfileOptions::default();
    profile(&tiny.subject(), items, &options, &NoProgress, &Cancel::default()).unwrap().0
}

#[test]
fn a_comparison_is_the_same_whatever_the_budget_and_reads_each_layer_once() {
    let scratch = tempfile::tempdir().unwrap();
    for source in [tiny_qwen35(1), tiny_llama(2), tiny_qwen3_moe(2)] {
        let father = Tiny::new("f", source.clone());
        let mother = Tiny::new("m", sibling(&source, "m", 5, 0.3));
        let items = encoded(0..9);
        let options =
            CompareOptions { per_domain_components: Some(3), ..CompareOptions::default() };
        let profiles = [own(&father, &items), own(&mother, &items)];
        let profiles = [&profiles[0], &profiles[1]];
        let whole = compare(
            &father.subject(),
            &mother.subject(),
            profiles,
            &items,
            &options,
            &NoProgress,
            &Cancel::default(),
        )
        .unwrap();
        let bytes = AtomicU64::new(0);
        let counted = Tapped::new(&father.source, |plan, rows, _| {
            let row = plan.cols * plan.dtype.size();
            bytes.fetch_add((rows.len() * row) as u64, Ordering::Relaxed);
        });
        let parents = [
            &Unloaded { source: &counted, reference: &father.reference },
            &Unloaded { source: &mother.source, reference: &mother.reference },
        ];
        let plan = |memory, folder: Option<&std::path::Path>| {
            let budget = Budget { memory, scratch: folder.map(Into::into) };
            plan_compare(parents, &items, &options, &budget, 0)
        };
        let Err(darwin_profile::Error::Engine(Error::Memory { least, .. })) = plan(Some(1), None)
        else {
            panic!("a byte is not enough")
        };
        let mut plans = vec![plan(None, None).unwrap(), plan(Some(least), None).unwrap()];
        let mut tight = plans[0].clone();
        tight.plan.room = Room {
            prefetch: false,
            states: 0,
            scratch: Some(scratch.path().to_owned()),
            embedding: 0,
            head: 1,
        };
        tight.plan.batch_tokens = 100;
        plans.push(tight);
        let (free, mut several) = (plans[0].clone(), plans[0].clone());
        several.states = free.states / 3;
        several.plan.layers = 2;
        plans.push(several);
        for plan in plans {
            bytes.store(0, Ordering::Relaxed);
            let found = compare_streamed(
                parents,
                profiles,
                &items,
                &options,
                &plan,
                &NoProgress,
                &Cancel::default(),
            )
            .unwrap();
            assert_eq!(found, whole, "{plan:?}");
            if plan.plan == free.plan && plan.states == free.states {
                // the sweep over the layers, the one over components, differences, experts
                let tensors = father.source.manifest().tensors().iter();
                let stored: usize = tensors.map(|t| t.elements() * t.dtype.size()).sum();
                let share = bytes.load(Ordering::Relaxed) as f64 / stored as f64;
                assert!(share <= 4.0, "{share} of the father");
            }
        }
    }
}

#[test]
fn an_advantage_of_unloaded_parents_costs_no_more_than_promised() {
    let source = tiny_qwen35(1);
    let father = Tiny::new("f", source.clone());
    let mother = Tiny::new("m", sibling(&source, "m", 5, 0.3));
    let items = encoded(0..4);
    let profiles = [own(&father, &items), own(&mother, &items)];
    let parents = [
        &Unloaded { source: &father.source, reference: &father.reference },
        &Unloaded { source: &mother.source, reference: &mother.reference },
    ];
    let options = CompareOptions { components: false, ..CompareOptions::default() };
    let plan = plan_compare(parents, &items, &options, &Budget::default(), 0).unwrap();
    let found = compare_streamed(
        parents,
        [&profiles[0], &profiles[1]],
        &items,
        &options,
        &plan,
        &NoProgress,
        &Cancel::default(),
    )
    .unwrap();
    let layers = found.layers.len() as u64;
    assert_eq!(found.forward_tokens, (layers + 3) * found.calibration.tokens);
}
