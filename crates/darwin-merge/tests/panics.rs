//! A panic on one thread reaches the caller, and no other thread waits for what it had taken on.

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use common::model;
use darwin_checkpoint::{MemorySource, Tapped, TensorSource, read_tensor};
use darwin_merge::{Merge, Recipe, Sources};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

/// Has several blocks of statistics.
const TENSOR: &str = "layers.1.mlp.experts.down_proj";

#[test]
fn a_panic_in_statistics_leaves_nobody_waiting() {
    let a: &'static MemorySource = Box::leak(Box::new(model("a", 1, 0.3, false)));
    let first = AtomicBool::new(true);
    let panics = Tapped::new(a, move |plan, _, _| {
        let name = &a.manifest().get(plan.id).name;
        if name == TENSOR && first.swap(false, Ordering::SeqCst) {
            // until the other thread has done all other blocks and waits for this one
            std::thread::sleep(Duration::from_millis(300));
            panic!("a source that panics");
        }
    });
    let mut sources = Sources::new();
    sources.insert("base", Arc::new(model("base", 0, 0.0, false)));
    sources.insert("a", Arc::new(panics));
    sources.insert("b", Arc::new(model("b", 2, 0.2, false)));
    let text = "merge_method: nuslerp\nbase_model: base\nmodels: [{model: a, parameters: \
                {weight: 0.5}}, {model: b, parameters: {weight: 0.5}}]\n";
    let recipe = Recipe::parse(text).unwrap();
    let (tell, done) = mpsc::channel();
    std::thread::spawn(move || {
        let merge = Merge::new(&recipe, &sources).unwrap();
        let id = merge.manifest().find(TENSOR).unwrap();
        let ends = std::thread::scope(|scope| {
            let read = || read_tensor(&merge, id).map(drop);
            let threads = [scope.spawn(read), scope.spawn(read)];
            threads.map(|thread| thread.join())
        });
        tell.send(ends.map(|end| end.map_err(drop))).unwrap();
    });
    let ends = done.recv_timeout(Duration::from_secs(30)).expect("both threads end");
    assert_eq!(ends.iter().filter(|end| end.is_err()).count(), 1, "one thread panics");
    assert!(ends.iter().flatten().all(|end| end.is_err()), "the other one has an error");
}
