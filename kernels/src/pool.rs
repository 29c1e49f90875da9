//! The worker threads: one job at a time, divided into tasks that idle threads claim.
//!
//! A claim takes one off `remaining` by compare-and-swap. Nothing about a job is read before a claim on it succeeded,
//! and a job ends only when every claimed task is done, so a worker that wakes up late can neither run a task twice
//! nor see half of the next job.
//!
//! Which thread runs a task never changes a result: tasks write to places of their own and no kernel splits a sum
//! over tasks.

use std::any::Any;
use std::cell::{Cell, UnsafeCell};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long an idle worker keeps looking for a job before it sleeps: longer than the gaps inside a forward pass,
/// shorter than anyone would notice on an idle machine.
const SPIN_BEFORE_SLEEP: Duration = Duration::from_millis(2);

/// Pauses between two yields. Without the yield a spinning worker keeps the very thread it waits for off a shared
/// core until the end of its time slice.
const PAUSES_PER_YIELD: u32 = 32;

thread_local! {
    /// Set while this thread runs a task, so that a job started inside a task runs in place instead of deadlocking.
    static IN_TASK: Cell<bool> = const { Cell::new(false) };
}

/// A persistent pool of worker threads; the calling thread takes part in every job.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// Held through a job: callers from several threads take turns.
    turn: Mutex<()>,
}

struct Shared {
    /// Unclaimed tasks of the current job.
    remaining: AtomicUsize,
    /// Tasks of the current job that have ended.
    done: AtomicUsize,
    job: UnsafeCell<Job>,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    closing: AtomicBool,
    sleepers: AtomicUsize,
    bed: Mutex<()>,
    wake: Condvar,
}

#[derive(Clone, Copy)]
struct Job {
    tasks: usize,
    task: *const (dyn Fn(usize) + Sync),
}

// SAFETY: `job` is written only while no task is claimed or claimable (by the holder of `turn`, before `remaining` is
// raised) and read only after a successful claim, which happens after that write. The closure behind `task` is Sync
// and outlives the job, because `Pool::run` returns only when every task is done.
unsafe impl Sync for Shared {}
// SAFETY: as above.
unsafe impl Send for Shared {}

impl Pool {
    /// A pool of `threads` threads, the calling one counted; 0 is taken as 1.
    pub fn new(threads: usize) -> Self {
        let idle: &'static (dyn Fn(usize) + Sync) = &|_| {};
        let shared = Arc::new(Shared {
            remaining: AtomicUsize::new(0),
            done: AtomicUsize::new(0),
            job: UnsafeCell::new(Job { tasks: 0, task: idle }),
            panic: Mutex::new(None),
            closing: AtomicBool::new(false),
            sleepers: AtomicUsize::new(0),
            bed: Mutex::new(()),
            wake: Condvar::new(),
        });
        let workers = (1..threads.max(1))
            .map(|i| {
                let shared = Arc::clone(&shared);
                std::thread::Builder::new()
                    .name(format!("kernels-{i}"))
                    .spawn(move || shared.work())
                    .expect("the system can start a thread")
            })
            .collect();
        Pool { shared, workers, turn: Mutex::new(()) }
    }

    /// How many threads take part in a job, the calling one counted.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `task(0)`, …, `task(tasks - 1)`, each once, on whichever thread is free, and returns when all are done.
    ///
    /// A job started from inside a task runs on that task's thread alone.
    ///
    /// # Panics
    /// When a task panics, after the others have ended, with that task's panic.
    pub fn run(&self, tasks: usize, task: impl Fn(usize) + Sync) {
        if tasks <= 1 || self.workers.is_empty() || IN_TASK.get() {
            (0..tasks).for_each(task);
            return;
        }
        let _turn = lock(&self.turn);
        let shared = &*self.shared;
        let task: &(dyn Fn(usize) + Sync) = &task;
        // SAFETY: no task is claimable or running (the previous job has ended and we hold the turn). Widening the
        // lifetime is sound because we do not return before every task is done.
        unsafe {
            let task: *const (dyn Fn(usize) + Sync) = task;
            *shared.job.get() = Job {
                tasks,
                task: std::mem::transmute::<*const (dyn Fn(usize) + Sync), *const (dyn Fn(usize) + Sync + 'static)>(
                    task,
                ),
            };
        }
        shared.done.store(0, Ordering::Relaxed);
        // Sequentially consistent with the sleeper's "count myself, then look": one of the two sees the other.
        shared.remaining.store(tasks, Ordering::SeqCst);
        if shared.sleepers.load(Ordering::SeqCst) > 0 {
            let _bed = lock(&shared.bed);
            shared.wake.notify_all();
        }
        shared.run_claimed_tasks();
        let mut pauses = 0;
        while shared.done.load(Ordering::Acquire) != tasks {
            pause(&mut pauses);
        }
        let panic = lock(&shared.panic).take();
        if let Some(panic) = panic {
            drop(_turn);
            resume_unwind(panic);
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.closing.store(true, Ordering::SeqCst);
        {
            let _bed = lock(&self.shared.bed);
            self.shared.wake.notify_all();
        }
        for worker in self.workers.drain(..) {
            // A worker catches the panics of its tasks, so there is nothing to learn from the result.
            let _ = worker.join();
        }
    }
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("threads", &self.threads()).finish()
    }
}

impl Shared {
    /// Claims a task; its number in the current job.
    fn claim(&self) -> Option<(Job, usize)> {
        let mut left = self.remaining.load(Ordering::Relaxed);
        while left > 0 {
            match self.remaining.compare_exchange_weak(left, left - 1, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => {
                    // SAFETY: the claim succeeded, so this job is live until we count the task as done.
                    let job = unsafe { *self.job.get() };
                    return Some((job, job.tasks - left));
                }
                Err(now) => left = now,
            }
        }
        None
    }

    fn run_claimed_tasks(&self) -> bool {
        let mut any = false;
        while let Some((job, index)) = self.claim() {
            any = true;
            IN_TASK.set(true);
            // SAFETY: the closure outlives the job, which cannot end before the count below.
            let result = catch_unwind(AssertUnwindSafe(|| unsafe { (*job.task)(index) }));
            IN_TASK.set(false);
            if let Err(panic) = result {
                lock(&self.panic).get_or_insert(panic);
            }
            self.done.fetch_add(1, Ordering::Release);
        }
        any
    }

    fn work(&self) {
        let mut pauses = 0;
        let mut idle_since = Instant::now();
        while !self.closing.load(Ordering::Relaxed) {
            if self.run_claimed_tasks() {
                idle_since = Instant::now();
                continue;
            }
            if pause(&mut pauses) && idle_since.elapsed() > SPIN_BEFORE_SLEEP {
                self.sleep();
                idle_since = Instant::now();
            }
        }
    }

    fn sleep(&self) {
        let mut bed = lock(&self.bed);
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        while self.remaining.load(Ordering::SeqCst) == 0 && !self.closing.load(Ordering::SeqCst) {
            bed = self.wake.wait(bed).unwrap_or_else(|poison| poison.into_inner());
        }
        self.sleepers.fetch_sub(1, Ordering::SeqCst);
    }
}

/// One pause; true when it was a yield.
fn pause(pauses: &mut u32) -> bool {
    *pauses += 1;
    if pauses.is_multiple_of(PAUSES_PER_YIELD) {
        std::thread::yield_now();
        true
    } else {
        std::hint::spin_loop();
        false
    }
}

/// The locks guard no data that a panic could leave half-written.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poison| poison.into_inner())
}

/// A mutable slice that tasks share, each writing to a range of its own.
#[derive(Clone, Copy)]
pub(crate) struct Shares<T> {
    start: *mut T,
    len: usize,
}

// SAFETY: `range` is the only way in, and its callers keep the ranges of different tasks apart.
unsafe impl<T: Send> Sync for Shares<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Send for Shares<T> {}

impl<T> Shares<T> {
    pub(crate) fn new(slice: &mut [T]) -> Self {
        Shares { start: slice.as_mut_ptr(), len: slice.len() }
    }

    /// The `len` elements from `start`.
    ///
    /// # Safety
    /// The slice this was made from is still borrowed, and no two tasks use overlapping ranges at the same time.
    #[allow(clippy::mut_from_ref)]
    pub(crate) unsafe fn range(&self, start: usize, len: usize) -> &mut [T] {
        assert!(start + len <= self.len, "a task's range is inside the slice");
        // SAFETY: in bounds by the assertion, unaliased by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(start), len) }
    }

    /// The start of the slice, for tasks whose places are strided and so are no range.
    pub(crate) fn as_mut_ptr(&self) -> *mut T {
        self.start
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_once_and_writes_are_seen() {
        for threads in [0, 1, 2, 5] {
            let pool = Pool::new(threads);
            for tasks in [0, 1, 2, 3, 17, 200] {
                for _ in 0..50 {
                    let mut hits = vec![0u32; tasks];
                    let shares = Shares::new(&mut hits);
                    // SAFETY: each task writes to its own element.
                    pool.run(tasks, |i| unsafe { shares.range(i, 1)[0] += 1 });
                    assert!(hits.iter().all(|&hit| hit == 1));
                }
            }
        }
    }

    #[test]
    fn sleeping_workers_wake_up() {
        let pool = Pool::new(3);
        for _ in 0..5 {
            std::thread::sleep(4 * SPIN_BEFORE_SLEEP);
            let count = AtomicUsize::new(0);
            pool.run(64, |_| {
                count.fetch_add(1, Ordering::Relaxed);
            });
            assert_eq!(count.into_inner(), 64);
        }
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
        let pool = Pool::new(2);
        let result = catch_unwind(AssertUnwindSafe(|| {
            pool.run(10, |i| assert_ne!(i, 3, "task three"));
        }));
        assert!(result.is_err());
        let count = AtomicUsize::new(0);
        pool.run(10, |_| {
            count.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(count.into_inner(), 10);
    }

    #[test]
    fn a_job_inside_a_task_runs_in_place_and_callers_take_turns() {
        let pool = Pool::new(2);
        let count = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    for _ in 0..20 {
                        pool.run(4, |_| {
                            pool.run(4, |_| {
                                count.fetch_add(1, Ordering::Relaxed);
                            });
                        });
                    }
                });
            }
        });
        assert_eq!(count.into_inner(), 3 * 20 * 16);
    }
}
