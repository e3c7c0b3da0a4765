//! The corpus, replayed and mutated: no input may panic, take long or take much memory.
//!
//! One test for every target, so that an abort names it; the input that is being read lies in the
//! temporary folder under the name that [`waiting`] gives until it has been read.

#![allow(clippy::print_stdout, reason = "a test may say what it did")]

use darwin_core::keyed::{Key, Rng};
use darwin_fuzz::{Target, mutate, target};
use std::alloc::{GlobalAlloc, Layout, System};
use std::fs::File;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// The most processor time of its thread that reading one input may take: other work on the machine
/// does not count.
const TIME: Duration = Duration::from_secs(5);

/// The longest that reading one input may take with the work that it hands to the pool.
const WAITING: Duration = Duration::from_secs(60);

/// The most memory that reading one input may take.
const MEMORY: usize = 512 << 20;

/// The mutations of each target take about this long.
const MUTATIONS: Duration = Duration::from_secs(4);

/// Mutations of each target at most.
const MOST: u64 = 20_000;

/// Seeds whose fault is known and not mended yet: `target/file`.
const PENDING: &[&str] = &[];

/// Counts what is held.
struct Counting;

static HELD: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system's allocator as it came; counting does not allocate.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let held = HELD.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(held, Ordering::Relaxed);
        // SAFETY: the caller's promises are those that the system's allocator asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promises are those that the system's allocator asks for.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The seeds of a target by name, in order.
fn corpus(target: &Target) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target.name);
    let mut paths: Vec<PathBuf> = std::fs::read_dir(&folder)
        .expect("every target has a corpus")
        .map(|entry| entry.expect("a readable corpus").path())
        .collect();
    paths.sort();
    let read = |path: PathBuf| {
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        (format!("{}/{name}", target.name), std::fs::read(&path).expect("readable"))
    };
    paths.into_iter().map(read).filter(|(name, _)| !PENDING.contains(&name.as_str())).collect()
}

/// Where the input lies that is being read.
fn waiting(target: &Target) -> PathBuf {
    std::env::temp_dir().join(format!("darwin-fuzz-{}-{}", target.name, std::process::id()))
}

/// What this thread has used of a processor.
fn processor_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the structure lives for the call, which fills it.
    let found = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    assert_eq!(found, 0, "the system counts processor time");
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Reads an input and looks at what it took.
fn execute(target: &Target, input: &[u8], what: &str) {
    let kept = waiting(target);
    let written = File::create(&kept).and_then(|mut file| file.write_all(input));
    written.expect("the folder for temporary files can be written");
    let before = HELD.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    let (begun, used) = (Instant::now(), processor_time());
    let ended = catch_unwind(AssertUnwindSafe(|| target.run(input)));
    let (waited, took) = (begun.elapsed(), processor_time() - used);
    let peak = PEAK.load(Ordering::Relaxed).saturating_sub(before);
    let at = kept.display();
    let name = target.name;
    assert!(ended.is_ok(), "target {name} panics on {what}; the input is kept as {at}");
    assert!(
        waited < WAITING,
        "target {name} takes {waited:?} on {what}; the input is kept as {at}"
    );
    assert!(took < TIME, "target {name} takes {took:?} on {what}; the input is kept as {at}");
    assert!(peak < MEMORY, "target {name} takes {peak} bytes on {what}; the input is kept as {at}");
}

fn replay(name: &str) {
    let target = target(name).expect("a target");
    let seeds = corpus(target);
    assert!(!seeds.is_empty(), "{name} has seeds");
    for (seed, input) in &seeds {
        execute(target, input, seed);
    }
    let seeds: Vec<Vec<u8>> = seeds.into_iter().map(|(_, input)| input).collect();
    let begun = Instant::now();
    let mut done = 0;
    while done < MOST && begun.elapsed() < MUTATIONS {
        let mut rng = Rng::new(Key::new(done, &["corpus", name]), 0);
        let input = mutate(target.form, &seeds, &mut rng);
        execute(target, &input, &format!("mutation {done}"));
        done += 1;
    }
    std::fs::remove_file(waiting(target)).expect("written for every input");
    println!("{name}: {} seeds, {done} mutations", seeds.len());
}

macro_rules! targets {
    ($($name:ident),+) => {
        $(#[test]
        fn $name() {
            replay(stringify!($name));
        })+

        #[test]
        fn every_target_is_replayed() {
            let names = [$(stringify!($name)),+];
            for target in darwin_fuzz::TARGETS {
                assert!(names.contains(&target.name), "{} is replayed", target.name);
            }
        }
    };
}

targets!(
    safetensors,
    index,
    gguf,
    config,
    adapter,
    recipe,
    shares,
    run_config,
    tokenizer,
    template,
    items,
    journal,
    kept
);
