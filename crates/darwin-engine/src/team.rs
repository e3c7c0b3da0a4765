//! Threads that work on one pass together.
//!
//! A decoded token goes through hundreds of products of some ten microseconds each. Waking a
//! sleeping thread takes as long, so helpers join once per forward pass and spin between kernels.
//! A part of the work is claimed by whoever is free; what a part computes
//! does not depend on who does it, nor on how many parts there are.

use crate::finite::Report;
use rayon::prelude::*;
use std::cell::UnsafeCell;
use std::marker::PhantomData;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

/// The least time of a part, nanoseconds: handing one over takes about a tenth of it.
const LEAST_PART: usize = 5_000;

/// About the time of an activation, a norm or a sum for each value, nanoseconds.
pub(crate) const PER_VALUE: f64 = 0.5;

/// Parts for each thread, so that one that was held up does not hold up the others.
const PARTS_PER_THREAD: usize = 4;

/// How often an idle member looks for work before it lets others onto its core.
const SPINS: usize = 2_000;

/// The threads of a pass: the one that leads it, and helpers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Team<'a> {
    shared: Option<&'a Shared>,
    threads: usize,
}

impl Team<'static> {
    /// The calling thread.
    pub(crate) fn alone() -> Self {
        Self { shared: None, threads: 1 }
    }
}

impl Team<'_> {
    /// Calls `f` with all threads of the pool as a team. Threads that are busy elsewhere join when
    /// they are free, or never.
    pub(crate) fn gather<R>(f: impl FnOnce(Team<'_>) -> R) -> R {
        let threads = rayon::current_num_threads();
        if threads == 1 {
            return f(Team::alone());
        }
        let shared = Shared::default();
        rayon::in_place_scope(|scope| {
            let end = Dismissal(&shared.over);
            for helper in 1..threads {
                let shared = &shared;
                scope.spawn(move |_| shared.help(helper));
            }
            let result = f(Team { shared: Some(&shared), threads });
            drop(end);
            result
        })
    }

    /// Members at most; each has a number below it.
    pub(crate) fn threads(&self) -> usize {
        self.threads
    }

    /// Cuts `0..n` at multiples of `unit` and calls `f` with the ranges, and with the number of the
    /// member that runs it, in any order. `cost` is about the time of one of the `n` in
    /// nanoseconds: too little work is not cut.
    pub(crate) fn split(
        &self,
        n: usize,
        unit: usize,
        cost: f64,
        f: impl Fn(Range<usize>, usize) + Sync,
    ) {
        let most = self.threads * PARTS_PER_THREAD;
        let parts = (n as f64 * cost) as usize / LEAST_PART;
        let parts = if self.threads == 1 { 1 } else { parts.clamp(1, most) };
        let step = n.div_ceil(parts).next_multiple_of(unit);
        if step >= n {
            f(0..n, 0);
            return;
        }
        self.each(n.div_ceil(step), |part, member| {
            f(part * step..n.min((part + 1) * step), member)
        });
    }

    /// Cuts `out` between rows of `width` values and calls `f` with numbers of rows and these rows;
    /// `cost` is about the time of a row in nanoseconds.
    pub(crate) fn rows(
        &self,
        out: &mut [f32],
        width: usize,
        cost: f64,
        f: impl Fn(Range<usize>, &mut [f32]) + Sync,
    ) {
        let (rows, cells) = (out.len() / width, Disjoint::new(out));
        self.split(rows, 1, cost, |rows, _| {
            // SAFETY: `split` gives every row to one range, and ends before `out` is given back.
            let values = unsafe { cells.range(rows.start * width..rows.end * width) };
            f(rows, values);
        });
    }

    /// Calls `f` with every part below `parts` and the number of the member that runs it.
    pub(crate) fn each(&self, parts: usize, f: impl Fn(usize, usize) + Sync) {
        match self.shared {
            Some(shared) if parts > 1 => shared.lead(parts, &f),
            _ => (0..parts).for_each(|part| f(part, 0)),
        }
    }
}

/// Runs jobs on the threads of the pool: on one each, or, if `shared`, one after another on all.
/// All are run, also where one fails, so that the reported error depends on the jobs and not on
/// which of them ends first.
pub(crate) fn run_all<J: Send, R: Send, E: Report + Send>(
    jobs: Vec<J>,
    shared: bool,
    run: impl Fn(J, Team<'_>) -> Result<R, E> + Sync,
) -> Result<Vec<R>, E> {
    let done: Vec<Result<R, E>> = if shared {
        Team::gather(|team| jobs.into_iter().map(|job| run(job, team)).collect())
    } else if jobs.len() == 1 {
        jobs.into_iter().map(|job| run(job, Team::alone())).collect()
    } else {
        jobs.into_par_iter().map(|job| run(job, Team::alone())).collect()
    };
    all_of(done)
}

/// All results, or the error to report.
pub(crate) fn all_of<R, E: Report>(done: Vec<Result<R, E>>) -> Result<Vec<R>, E> {
    let (mut results, mut failed) = (Vec::with_capacity(done.len()), None);
    for one in done {
        match (one, failed.take()) {
            (Ok(result), before) => {
                results.push(result);
                failed = before;
            }
            (Err(error), None) => failed = Some(error),
            (Err(error), Some(before)) => failed = Some(E::or(before, error)),
        }
    }
    failed.map_or(Ok(results), Err)
}

/// Lets the helpers go, also when the leader panics.
struct Dismissal<'a>(&'a AtomicBool);

impl Drop for Dismissal<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

type Task<'a> = &'a (dyn Fn(usize, usize) + Sync);

/// What leader and helpers look at.
#[derive(Debug, Default)]
struct Shared {
    /// The number of parts in the upper half, the next one to claim in the lower.
    claims: AtomicU64,
    /// Parts that are done.
    done: AtomicUsize,
    /// Whether the pass is over.
    over: AtomicBool,
    /// The task of the parts. Written by the leader while no part can be claimed, read by those
    /// who have claimed one.
    task: UnsafeCell<Option<Task<'static>>>,
}

// SAFETY: `task` is written only while no part can be claimed and all claimed ones are done, and
// read only between claiming a part and having done it; claims and `done` order the two.
unsafe impl Sync for Shared {}

/// Counts a part as done, also when it panics.
struct Done<'a>(&'a AtomicUsize);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Release);
    }
}

/// Waits until every claimed part is done and lets none be claimed any more.
struct Closing<'a>(&'a Shared);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        let (parts, next) = halves(self.0.claims.swap(0, Ordering::AcqRel));
        let mut idle = Idle::default();
        while self.0.done.load(Ordering::Acquire) < next.min(parts) {
            idle.wait();
        }
    }
}

fn halves(claims: u64) -> (usize, usize) {
    ((claims >> 32) as usize, (claims & u64::from(u32::MAX)) as usize)
}

impl Shared {
    /// Runs all parts of a task with whoever helps.
    fn lead(&self, parts: usize, task: Task<'_>) {
        assert!(u32::try_from(parts).is_ok(), "parts fit their half of the word");
        // SAFETY: only the lifetime changes; `Closing` keeps this function from ending, in whatever
        // way, before the last use of the task.
        let task = unsafe { std::mem::transmute::<Task<'_>, Task<'static>>(task) };
        // SAFETY: nobody reads the task now: no part can be claimed since the last `Closing`, which
        // waited for all that had been claimed, and only the leader writes.
        unsafe { *self.task.get() = Some(task) };
        self.done.store(0, Ordering::Relaxed);
        self.claims.store((parts as u64) << 32, Ordering::Release);
        let closing = Closing(self);
        while self.work(0) {}
        drop(closing);
    }

    /// Works whenever there is work, until the pass is over.
    fn help(&self, member: usize) {
        let mut idle = Idle::default();
        while !self.over.load(Ordering::Acquire) {
            if self.work(member) {
                idle = Idle::default();
            } else {
                idle.wait();
            }
        }
    }

    /// Claims a part and runs it; false where there is none.
    fn work(&self, member: usize) -> bool {
        let mut claims = self.claims.load(Ordering::Relaxed);
        loop {
            let (parts, next) = halves(claims);
            if next >= parts {
                return false;
            }
            let (order, otherwise) = (Ordering::AcqRel, Ordering::Relaxed);
            match self.claims.compare_exchange_weak(claims, claims + 1, order, otherwise) {
                Ok(_) => {
                    let _done = Done(&self.done);
                    // SAFETY: this part is claimed and not done, so the leader does not write the task,
                    // and what it points to is there (`Closing`).
                    if let Some(task) = unsafe { *self.task.get() } {
                        task(next, member);
                    }
                    return true;
                }
                Err(now) => claims = now,
            }
        }
    }
}

/// Waiting awake, then politely.
#[derive(Default)]
struct Idle {
    spins: usize,
}

impl Idle {
    fn wait(&mut self) {
        self.spins += 1;
        if self.spins < SPINS { std::hint::spin_loop() } else { std::thread::yield_now() }
    }
}

/// Values that the members of a team write in different places.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Disjoint<'a, T> {
    first: *mut T,
    len: usize,
    values: PhantomData<&'a mut [T]>,
}

// SAFETY: it stands for a `&mut [T]`, which may be sent where `T` may.
unsafe impl<T: Send> Send for Disjoint<'_, T> {}
// SAFETY: a shared reference gives out `&mut T` only through unsafe functions whose callers keep the
// places apart, so that each value is with one thread at a time, as if it had been sent.
unsafe impl<T: Send> Sync for Disjoint<'_, T> {}

impl<'a, T> Disjoint<'a, T> {
    pub(crate) fn new(values: &'a mut [T]) -> Self {
        Self { first: values.as_mut_ptr(), len: values.len(), values: PhantomData }
    }

    /// Some of the values.
    ///
    /// # Safety
    /// No two ranges that are in use at a time share a value.
    ///
    /// # Panics
    /// If the range leaves the values.
    #[expect(clippy::mut_from_ref, reason = "the callers keep the ranges apart")]
    pub(crate) unsafe fn range(&self, range: Range<usize>) -> &mut [T] {
        assert!(range.start <= range.end && range.end <= self.len, "the range lies inside");
        // SAFETY: the range lies inside the slice that `new` borrowed for as long as `'a`, and the
        // caller keeps it apart from all that are in use.
        unsafe { std::slice::from_raw_parts_mut(self.first.add(range.start), range.len()) }
    }

    /// One of the values.
    ///
    /// # Safety
    /// The value is in no other range that is in use at the time.
    ///
    /// # Panics
    /// As for [`Disjoint::range`].
    #[expect(clippy::mut_from_ref, reason = "the callers keep the ranges apart")]
    pub(crate) unsafe fn at(&self, i: usize) -> &mut T {
        // SAFETY: the caller keeps the value apart from all that are in use.
        unsafe { &mut self.range(i..i + 1)[0] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(threads: usize) -> rayon::ThreadPool {
        rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap()
    }

    #[test]
    fn every_part_runs_once_region_after_region() {
        for threads in [1, 2, 5] {
            let mut counts = vec![0_u32; 1000];
            pool(threads).install(|| {
                Team::gather(|team| {
                    for round in 0..200 {
                        let n = 1 + round * 5;
                        let cells = Disjoint::new(&mut counts);
                        // SAFETY: the ranges cover each number once.
                        team.split(n, 1 + round % 7, 1e3, |range, _| unsafe {
                            cells.range(range).iter_mut().for_each(|c| *c += 1);
                        });
                        // SAFETY: every part has a number of its own.
                        team.each(n, |i, _| unsafe { *cells.at(i) += 1 });
                    }
                });
            });
            let want = |i: usize| 2 * (0..200).filter(|round| i < 1 + round * 5).count() as u32;
            assert!(counts.iter().enumerate().all(|(i, c)| *c == want(i)), "{threads} threads");
        }
    }

    #[test]
    fn a_panic_of_a_part_reaches_the_caller() {
        let pool = pool(3);
        for bad in [0, 57, 99] {
            let run = || {
                pool.install(|| Team::gather(|t| t.each(100, |i, _| assert_ne!(i, bad, "part"))));
            };
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).unwrap_err();
        }
        assert_eq!(pool.install(|| Team::gather(|team| team.threads())), 3);
    }

    #[test]
    fn little_work_is_not_cut() {
        let parts = AtomicUsize::new(0);
        pool(4).install(|| {
            Team::gather(|team| {
                team.split(100, 1, 10.0, |range, member| {
                    assert_eq!((range, member), (0..100, 0));
                    parts.fetch_add(1, Ordering::Relaxed);
                });
            });
        });
        assert_eq!(parts.into_inner(), 1);
    }
}
