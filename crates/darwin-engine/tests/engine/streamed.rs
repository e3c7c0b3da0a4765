//! Sweeps over the layers: the bits of the loaded model, whatever is kept in memory, and every
//! weight read once.

use crate::fixture::{CASES, Everything, golden, model, source};
use darwin_checkpoint::{Tapped, TensorSource};
use darwin_core::{Cancel, NoProgress};
use darwin_engine::{
    Batch, Budget, Error, Interventions, LayerSource, NoTap, Room, Sequence, Site, Stream, Sweep,
    Workload,
};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

/// Two batches of a case's sequences, the second without its first sequence.
fn batches(case: &str) -> Vec<Batch> {
    let all: Vec<Sequence> = golden(case).into_iter().map(|g| Sequence::new(g.ids)).collect();
    vec![Batch::new(all.clone()), Batch::new(all[1.min(all.len() - 1)..].to_vec())]
}

fn rooms(scratch: &Path) -> Vec<Room> {
    let scratch = Some(scratch.to_owned());
    vec![
        Room::default(),
        Room { states: 3000, scratch: scratch.clone(), ..Room::default() },
        Room { prefetch: false, states: 0, scratch, embedding: 0, head: 1 },
    ]
}

/// What all layers show, and the logits at every third position.
type Seen = (Vec<Everything>, Vec<Vec<f32>>);

fn swept(model: &dyn LayerSource, batches: &[Batch], room: &Room) -> Seen {
    let mut taps: Vec<Everything> = batches.iter().map(|_| Everything::default()).collect();
    let mut sweep = Sweep::begin(model, batches, room).unwrap();
    sweep.run(&mut taps, &NoProgress, &Cancel::default()).unwrap();
    let positions: Vec<Vec<usize>> =
        batches.iter().map(|b| (0..b.tokens()).step_by(3).collect()).collect();
    let vocab = model.config().vocab_size;
    let mut logits: Vec<Vec<f32>> = positions.iter().map(|p| vec![0.0; p.len() * vocab]).collect();
    sweep
        .logits(&positions, &mut |found| {
            for (i, row) in found.values.chunks(found.band.len()).enumerate() {
                let at = (found.first + i) * vocab;
                let (start, end) = (at + found.band.start, at + found.band.end);
                logits[found.batch][start..end].copy_from_slice(row);
            }
        })
        .unwrap();
    (taps, logits)
}

#[test]
fn a_stream_has_the_bits_of_the_loaded_model() {
    let scratch = tempfile::tempdir().unwrap();
    for case in CASES {
        let (source, model, batches) = (source(case), model(case), batches(case));
        let layers = model.config().num_hidden_layers;
        let plain = batches.iter().map(|batch| {
            let mut state = model.embed(batch).unwrap();
            let mut tap = Everything::default();
            model.run(&mut state, 0..layers, &mut tap, &Interventions::new()).unwrap();
            let positions: Vec<usize> = (0..batch.tokens()).step_by(3).collect();
            tap.values.retain(|(site, _), _| !matches!(site, Site::FinalNorm | Site::Logits));
            (tap, model.logits(&state, &positions))
        });
        let (taps, logits): (Vec<Everything>, Vec<Vec<f32>>) = plain.unzip();
        for room in rooms(scratch.path()) {
            let stream = Stream::open(&source).unwrap();
            for model in [&stream as &dyn LayerSource, &model] {
                let (found, scores) = swept(model, &batches, &room);
                assert!(scores == logits, "{case}: logits with {room:?}");
                for (found, tap) in found.iter().zip(&taps) {
                    assert!(found.values == tap.values, "{case}: layers with {room:?}");
                    assert_eq!(found.experts, tap.experts);
                }
            }
        }
    }
}

/// Bytes that were read of a source while `f` ran.
fn read_by(source: &dyn TensorSource, f: impl FnOnce(&dyn TensorSource)) -> u64 {
    let bytes = AtomicU64::new(0);
    f(&Tapped::new(source, |plan, rows, _| {
        let row = plan.cols * plan.dtype.size();
        bytes.fetch_add((rows.len() * row) as u64, Ordering::Relaxed);
    }));
    bytes.into_inner()
}

#[test]
fn every_weight_is_read_once_however_many_batches() {
    for case in CASES {
        let source = source(case);
        let batches: Vec<Batch> = batches(case).into_iter().cycle().take(7).collect();
        let whole = Stream::open(&source).unwrap().footprint();
        let rows: std::collections::BTreeSet<u32> =
            batches.iter().flat_map(Batch::sequences).flat_map(|s| s.ids.clone()).collect();
        let embedding = rows.len() as u64 * whole.stored_row;
        for keep in [0, 2] {
            let read = read_by(&source, |source| {
                let stream = Stream::open(source).unwrap().keeping(keep);
                swept(&stream, &batches, &Room::default());
            });
            let layers: u64 = whole.stored_layers.iter().sum();
            let norm = read - layers - whole.stored_head - embedding;
            assert!(norm < 1 << 13, "{case}: {norm} bytes more than layers, head and embeddings");
            assert!(read as f64 <= 1.05 * (whole.stored + embedding) as f64, "{case}");
        }
        // a second sweep finds the first layers where they were left
        let again = read_by(&source, |source| {
            let stream = Stream::open(source).unwrap().keeping(2);
            (0..2).for_each(|_| drop(swept(&stream, &batches, &Room::default())));
        });
        let kept = whole.stored_layers[..2.min(whole.stored_layers.len())].iter().sum::<u64>();
        let once = whole.stored_layers.iter().sum::<u64>() + whole.stored_head + embedding;
        assert!(again.abs_diff(2 * once - kept) < 1 << 14, "{case}");
    }
}

#[test]
fn plans_fit_their_budgets_or_say_what_would() {
    let source = source("plain");
    let stream = Stream::open(&source).unwrap();
    let work = Workload {
        tokens: 3_000_000,
        distinct: 100,
        longest: 300,
        batch_tokens: 4096,
        states: 1,
        models: 1,
        sweeps: 1,
        kept: 10 << 20,
    };
    let plan = |memory, scratch: Option<&str>| {
        let scratch = scratch.map(Into::into);
        stream.plan(&work, &Budget { memory, scratch })
    };
    let free = plan(None, None).unwrap();
    assert_eq!((free.room.states, free.spilled, free.batch_tokens), (u64::MAX, 0, 4096));
    assert!(plan(Some(free.peak), None).unwrap().peak <= free.peak);
    let Err(Error::Memory { least, with_scratch: Some(less), .. }) = plan(Some(1 << 20), None)
    else {
        panic!("a megabyte is not enough")
    };
    let states = work.tokens * 4 * stream.config().hidden_size as u64;
    assert!(less + states <= least && least < free.peak);
    assert!(plan(Some(least), None).unwrap().peak <= least);
    assert!(plan(Some(least - 1), None).is_err());
    let tight = plan(Some(less), Some("/nowhere")).unwrap();
    assert!(tight.peak <= less && tight.spilled > 0 && tight.room.states < states);
    assert!(tight.batch_tokens < 4096);
    let refused = plan(Some(less - 1), Some("/nowhere")).unwrap_err().to_string();
    assert!(refused.contains("the least is"), "{refused}");
}

#[test]
fn a_state_cannot_skip_a_layer() {
    let source = source("plain");
    let stream = Stream::open(&source).unwrap();
    let mut states = Vec::new();
    let batches = batches("plain");
    stream
        .embed(&batches, 0, &mut |state| {
            states.push(state);
            Ok(())
        })
        .unwrap();
    let second = stream.layer(1).unwrap();
    assert_eq!(second.range(), 1..2);
    for layers in [0..1, 1..2] {
        let error = second.run(&mut states[0], layers, &mut NoTap, &Interventions::new());
        assert!(matches!(error, Err(Error::Layers { .. })));
    }
}
