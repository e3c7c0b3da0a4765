//! Times.

use std::time::{Duration, Instant};

/// Something per second, and per second that the process had a core: on a busy machine only the
/// second means something.
#[derive(Clone, Copy)]
pub(crate) struct Rate {
    pub(crate) wall: f64,
    pub(crate) cpu: f64,
}

/// Seconds on a core so far, over all threads (Linux; 0 elsewhere).
fn cpu_seconds() -> f64 {
    let Ok(tasks) = std::fs::read_dir("/proc/self/task") else { return 0.0 };
    let nanoseconds = tasks.flatten().filter_map(|task| {
        let stat = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
        stat.split(' ').next()?.parse::<f64>().ok()
    });
    nanoseconds.sum::<f64>() / 1e9
}

/// Median rate of a job that returns how much it did, of 7 runs and at least a second, or of 3 runs
/// where they take long, after a warm-up.
pub(crate) fn measure(mut job: impl FnMut() -> f64) -> Rate {
    job();
    let (mut wall, mut cpu) = (Vec::new(), Vec::new());
    let first = Instant::now();
    let enough = |runs: usize| match first.elapsed() {
        elapsed if elapsed < Duration::from_secs(1) => false,
        elapsed if elapsed < Duration::from_secs(10) => runs >= 7,
        _ => runs >= 3,
    };
    while !enough(wall.len()) {
        let (start, cpu_start) = (Instant::now(), cpu_seconds());
        let done = job();
        wall.push(done / start.elapsed().as_secs_f64());
        cpu.push(done / (cpu_seconds() - cpu_start));
    }
    Rate { wall: median(wall), cpu: median(cpu) }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
