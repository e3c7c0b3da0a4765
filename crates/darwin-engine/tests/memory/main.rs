//! What a model takes in memory is what was foretold from its headers: the most bytes that were
//! allocated at a time, counted by the allocator. One test, so that nothing else allocates.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test")]

use darwin_checkpoint::{Dtype, MemorySource, TensorSource};
use darwin_core::{Cancel, NoProgress};
use darwin_engine::{
    Batch, Budget, Interventions, Model, NoTap, Record, Run, Sequence, Site, Stream, Sweep, Tap,
    Workload,
};
use darwin_testkit::Tiny;
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

/// The system's allocator, which counts.
struct Counting;

static NOW: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

fn add(bytes: usize) {
    let now = NOW.fetch_add(bytes, Ordering::Relaxed) + bytes;
    MOST.fetch_max(now, Ordering::Relaxed);
}

// SAFETY: every call is the system allocator's.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        add(layout.size());
        // SAFETY: handed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        add(layout.size());
        // SAFETY: handed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, old: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: handed on.
        unsafe { System.dealloc(old, layout) };
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The most bytes that were allocated beside those before.
fn peak(work: impl FnOnce()) -> u64 {
    let before = NOW.load(Ordering::Relaxed);
    MOST.store(before, Ordering::Relaxed);
    work();
    (MOST.load(Ordering::Relaxed) - before) as u64
}

/// Wide, so that the buffers of threads are a large part; every token chooses every expert, so that
/// the buffers of experts are as large as they can be.
fn wide(full_attention: &[bool]) -> MemorySource {
    let sizes = Tiny {
        hidden: 1536,
        experts: 2,
        top_k: 2,
        full_attention: full_attention.to_vec(),
        dtype: Dtype::Bf16,
        ..Tiny::default()
    };
    sizes.build("wide", 1)
}

fn sequences(tokens: usize) -> Vec<Sequence> {
    let one = |s: usize| Sequence::new((0..31).map(|i| ((s * 7 + i) % 200) as u32).collect());
    (0..tokens / 31).map(one).collect()
}

/// Within a tenth of what was foretold.
fn assert_near(what: &str, found: u64, foretold: u64) {
    let ratio = found as f64 / foretold as f64;
    println!("{what}: {found} bytes, foretold {foretold} ({ratio:.3})");
    assert!(
        (0.9..=1.1).contains(&ratio),
        "{what}: {found} bytes, foretold {foretold} ({ratio:.3})"
    );
}

#[test]
fn memory_is_what_was_foretold() {
    for (kinds, full_attention) in
        [("linear", &[false, false][..]), ("full", &[true]), ("both", &[false, true])]
    {
        let source = wide(full_attention);
        for threads in [1, 2, 4] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                loaded(&format!("{kinds}, {threads} threads, loaded"), &source, threads);
                streamed(&format!("{kinds}, {threads} threads, streamed"), &source);
            });
        }
    }
}

fn loaded(what: &str, source: &dyn TensorSource, threads: usize) {
    const BATCH: usize = 2048;
    let run = Run::Passes { batch: BATCH, longest: 31, tapped: false };
    let foretold = Stream::open(source).unwrap().resident(&run, threads);
    let found = peak(|| {
        let model = Model::load(source).unwrap();
        let mut state = model.embed(&Batch::new(sequences(BATCH))).unwrap();
        let layers = 0..model.config().num_hidden_layers;
        model.run(&mut state, layers, &mut NoTap, &Interventions::default()).unwrap();
        let positions: Vec<usize> = (0..threads * 48).collect();
        assert_eq!(model.logits(&state, &positions).len() % positions.len(), 0);
    });
    assert_near(what, found, foretold.bytes());
}

fn streamed(what: &str, source: &dyn TensorSource) {
    let batches: Vec<Batch> = (0..2).map(|_| Batch::new(sequences(2048))).collect();
    let stream = Stream::open(source).unwrap();
    let work = Workload {
        tokens: 2 * 66 * 31,
        distinct: 200,
        longest: 31,
        batch_tokens: 2048,
        states: 1,
        models: 1,
        sweeps: 1,
        kept: 0,
    };
    let plan = stream.plan(&work, &Budget::default()).unwrap();
    let found = peak(|| {
        let mut sweep = Sweep::begin(&stream, &batches, &plan.room).unwrap();
        let mut taps = [Looking::default(), Looking::default()];
        sweep.run(&mut taps, &NoProgress, &Cancel::default()).unwrap();
        sweep.logits(&[vec![0, 1], vec![5]], &mut |_| {}).unwrap();
    });
    // A promise, with room for what the allocator keeps for itself, which is not counted here.
    assert!(found <= plan.peak, "{what}: {found} bytes, promised {}", plan.peak);
    assert_near(what, (found as f64 * 1.06) as u64, plan.peak);
}

/// Looks at what a profile looks at, and keeps what came in.
#[derive(Default)]
struct Looking {
    entered: Vec<f32>,
}

impl Tap for Looking {
    fn wants(&self, site: Site, _: usize) -> bool {
        use Site as S;
        let resid = [S::ResidIn, S::MixerOut, S::ExpertOut, S::SharedOut, S::ResidOut];
        resid.contains(&site) || [S::MixerHeads, S::RouterLogits, S::TopK].contains(&site)
    }

    fn record(&mut self, record: &Record<'_>) {
        match record.site {
            Site::ResidIn => {
                self.entered
                    .reserve_exact(record.batch.tokens() * record.shape[1] - self.entered.len());
                self.entered.extend_from_slice(record.values);
            }
            Site::ResidOut if record.first_token + record.shape[0] == record.batch.tokens() => {
                self.entered = Vec::new();
            }
            _ => {}
        }
    }
}
