//! `Progress`: counters and events of a schedule for displays, which poll `snapshot` and `events_since`.

use std::{
    collections::VecDeque,
    sync::{
        Mutex, MutexGuard, OnceLock, PoisonError, RwLock,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use super::{
    budget::{Budget, Spending},
    journal::Counts,
    rate_limit::{Lane, LaneView},
};

/// Progress of one schedule, updated by runs and read by displays.
#[derive(Default)]
pub struct Progress {
    began: OnceLock<Instant>,
    pub(super) total: AtomicUsize,
    pub(super) done: AtomicUsize,
    pub(super) failed: AtomicUsize,
    pub(super) running: AtomicUsize,
    /// Runs that ended in this session, for rate and estimate.
    pub(super) ended_live: AtomicUsize,
    /// In order of first use.
    counters: RwLock<Vec<Counter>>,
    events: Mutex<Events>,
    /// Lanes and budget of the schedule.
    paid: OnceLock<(Vec<Lane>, Budget)>,
}

struct Counter {
    unit: String,
    done: AtomicU64,
    live: AtomicU64,
    /// 0 if unknown.
    total: AtomicU64,
    window: Mutex<Window>,
}

/// Progress at one moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Runs in the schedule.
    pub total: usize,
    /// Runs with an outcome, including those of earlier sessions.
    pub done: usize,
    /// Runs that failed in this session.
    pub failed: usize,
    /// Runs in flight.
    pub running: usize,
    /// Runs that ended in this session per minute since its start; absent in the first second.
    pub runs_per_minute: Option<f64>,
    /// Work by unit.
    pub counters: Vec<CounterView>,
    /// Seconds since the schedule started.
    pub elapsed_s: f64,
    /// Estimated seconds until everything is done, at the rate of this session; absent before there is a rate.
    pub eta_s: Option<f64>,
    /// Cost of calls; absent before the schedule starts.
    pub spending: Option<Spending>,
    /// Lanes in their given order.
    pub lanes: Vec<LaneView>,
}

/// One unit of work at one moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CounterView {
    /// `turns`, `tokens`, …
    pub unit: String,
    /// Including replayed work.
    pub done: u64,
    /// If known.
    pub total: Option<u64>,
    /// Over the last 30 s, without replayed work; absent in the first second.
    pub per_second: Option<f64>,
}

/// A message that is displayed once.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Event {
    /// Consecutive number from 0.
    pub number: u64,
    /// Seconds since the schedule started.
    pub elapsed_s: f64,
    /// Kind of event.
    pub kind: EventKind,
    /// Id of the run concerned.
    pub run: Option<String>,
    /// One line, or a problem with its hint.
    pub text: String,
}

/// Kinds of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// A run is done.
    Done,
    /// A run failed.
    Failed,
    /// A line printed by the experiment.
    Said,
    /// Anything else.
    Note,
}

/// The latest `MAX_EVENTS` events.
#[derive(Default)]
struct Events {
    next: u64,
    kept: VecDeque<Event>,
}

const MAX_EVENTS: usize = 1024;

impl Progress {
    /// No runs, no work.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the expected total of a unit of work.
    pub fn expect(&self, unit: &str, total: u64) {
        self.with_counter(unit, |counter| counter.total.store(total, Relaxed));
    }

    /// Counts finished work. Work that is not `live` was done in an earlier session and does not count into rates.
    pub fn count(&self, unit: &str, n: u64, live: bool) {
        self.with_counter(unit, |counter| {
            counter.done.fetch_add(n, Relaxed);
            if live {
                counter.live.fetch_add(n, Relaxed);
                lock(&counter.window).add(self.elapsed().as_secs(), n);
            }
        });
    }

    /// Displays a line of the experiment verbatim.
    pub fn say(&self, text: impl Into<String>) {
        self.event(EventKind::Said, None, text.into());
    }

    /// Displays a note.
    pub fn note(&self, text: impl Into<String>) {
        self.event(EventKind::Note, None, text.into());
    }

    /// Events with this number or a higher one, as far as they are still stored.
    pub fn events_since(&self, number: u64) -> Vec<Event> {
        lock(&self.events).kept.iter().filter(|event| event.number >= number).cloned().collect()
    }

    /// The current state.
    pub fn snapshot(&self) -> Snapshot {
        let elapsed = self.elapsed();
        let counters = self.counters.read().unwrap_or_else(PoisonError::into_inner);
        let (total, done, failed) = (self.total.load(Relaxed), self.done.load(Relaxed), self.failed.load(Relaxed));
        // Work gives a better estimate than runs, because all runs may end in the last minute.
        let by_work = counters.iter().find_map(|counter| {
            let (done, live) = (counter.done.load(Relaxed), counter.live.load(Relaxed));
            let total = counter.total.load(Relaxed);
            (total > 0 && live > 0).then(|| (total.saturating_sub(done), live))
        });
        let ended_live = self.ended_live.load(Relaxed);
        let by_runs = || (ended_live > 0).then(|| (total.saturating_sub(done + failed) as u64, ended_live as u64));
        let eta_s = by_work.or_else(by_runs).map(|(left, live)| left as f64 * elapsed.as_secs_f64() / live as f64);
        Snapshot {
            total,
            done,
            failed,
            running: self.running.load(Relaxed),
            runs_per_minute: (elapsed.as_secs() > 0).then(|| ended_live as f64 * 60.0 / elapsed.as_secs_f64()),
            counters: counters.iter().map(|counter| counter.view(elapsed.as_secs())).collect(),
            elapsed_s: elapsed.as_secs_f64(),
            eta_s,
            spending: self.paid.get().map(|(_, budget)| budget.spending()),
            lanes: self.paid.get().iter().flat_map(|(lanes, _)| lanes).map(Lane::view).collect(),
        }
    }

    /// Sets the lanes and the budget to display.
    pub(super) fn watch(&self, lanes: &[Lane], budget: &Budget) {
        self.paid.get_or_init(|| (lanes.to_vec(), budget.clone()));
    }

    /// Starts the clock.
    pub(super) fn begin(&self, runs: usize) {
        self.began.get_or_init(Instant::now);
        self.total.store(runs, Relaxed);
    }

    /// Expected totals by unit, where known.
    pub(super) fn totals(&self) -> Counts {
        let counters = self.counters.read().unwrap_or_else(PoisonError::into_inner);
        let known = counters.iter().map(|counter| (counter.unit.clone(), counter.total.load(Relaxed)));
        known.filter(|(_, total)| *total > 0).collect()
    }

    /// Finished work by unit.
    pub(super) fn work(&self) -> Counts {
        let counters = self.counters.read().unwrap_or_else(PoisonError::into_inner);
        counters.iter().map(|counter| (counter.unit.clone(), counter.done.load(Relaxed))).collect()
    }

    pub(super) fn event(&self, kind: EventKind, run: Option<&str>, text: String) {
        let mut events = lock(&self.events);
        let number = events.next;
        events.next += 1;
        if events.kept.len() == MAX_EVENTS {
            events.kept.pop_front();
        }
        let elapsed_s = self.elapsed().as_secs_f64();
        events.kept.push_back(Event { number, elapsed_s, kind, run: run.map(str::to_owned), text });
    }

    fn elapsed(&self) -> Duration {
        self.began.get().map_or(Duration::ZERO, Instant::elapsed)
    }

    fn with_counter(&self, unit: &str, act: impl FnOnce(&Counter)) {
        let counters = self.counters.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(counter) = counters.iter().find(|counter| counter.unit == unit) {
            return act(counter);
        }
        drop(counters);
        let mut counters = self.counters.write().unwrap_or_else(PoisonError::into_inner);
        let index = counters.iter().position(|counter| counter.unit == unit).unwrap_or_else(|| {
            counters.push(Counter::new(unit));
            counters.len() - 1
        });
        act(&counters[index]);
    }
}

impl Counter {
    fn new(unit: &str) -> Self {
        Self {
            unit: unit.to_owned(),
            done: AtomicU64::new(0),
            live: AtomicU64::new(0),
            total: AtomicU64::new(0),
            window: Mutex::new(Window::default()),
        }
    }

    fn view(&self, now_s: u64) -> CounterView {
        let total = self.total.load(Relaxed);
        CounterView {
            unit: self.unit.clone(),
            done: self.done.load(Relaxed),
            total: (total > 0).then_some(total),
            per_second: lock(&self.window).rate(now_s),
        }
    }
}

const WINDOW_S: usize = 30;

/// Amounts of the last 30 s, one bucket per second.
#[derive(Default)]
struct Window {
    buckets: [u64; WINDOW_S],
    /// Second of the newest bucket.
    newest: u64,
    /// Second of the first amount.
    first: Option<u64>,
}

impl Window {
    fn add(&mut self, second: u64, n: u64) {
        self.advance(second);
        self.first.get_or_insert(second);
        self.buckets[self.newest as usize % WINDOW_S] += n;
    }

    /// Mean over the complete seconds in the window; the current second is incomplete and would bias the mean.
    fn rate(&mut self, now: u64) -> Option<f64> {
        self.advance(now);
        let seconds = self.newest.saturating_sub(self.first?).min(WINDOW_S as u64 - 1);
        let sum: u64 = (1..=seconds).map(|back| self.buckets[(self.newest - back) as usize % WINDOW_S]).sum();
        (seconds > 0).then(|| sum as f64 / seconds as f64)
    }

    /// Empties the buckets of seconds that have passed.
    fn advance(&mut self, second: u64) {
        let passed = second.saturating_sub(self.newest).min(WINDOW_S as u64);
        for back in 0..passed {
            self.buckets[(second - back) as usize % WINDOW_S] = 0;
        }
        self.newest = self.newest.max(second);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_covers_complete_seconds_only() {
        let mut window = Window::default();
        window.add(0, 100);
        assert_eq!(window.rate(0), None);
        assert_eq!(window.rate(1), Some(100.0));
        window.add(1, 50);
        window.add(1, 50);
        window.add(2, 999);
        assert_eq!(window.rate(2), Some(100.0));
        assert_eq!(window.rate(4), Some(1199.0 / 4.0));
        assert_eq!(window.rate(31), Some(999.0 / 29.0), "seconds 2 to 30");
        assert_eq!(window.rate(1000), Some(0.0));
        window.add(1001, 58);
        assert_eq!(window.rate(1002), Some(2.0));
    }

    #[test]
    fn replayed_work_does_not_count_into_rates() {
        let progress = Progress::new();
        progress.begin(2);
        progress.expect("turns", 10);
        progress.count("turns", 6, false);
        assert_eq!(progress.snapshot().eta_s, None);
        std::thread::sleep(Duration::from_millis(20));
        progress.count("turns", 2, true);
        let snapshot = progress.snapshot();
        assert_eq!((snapshot.counters[0].done, snapshot.counters[0].total), (8, Some(10)));
        let eta = snapshot.eta_s.unwrap();
        assert!((eta - snapshot.elapsed_s).abs() < 1e-9, "2 of 4 units are done in this session: as long again");
    }

    #[test]
    fn old_events_are_dropped_without_renumbering() {
        let progress = Progress::new();
        for n in 0..MAX_EVENTS + 5 {
            progress.note(n.to_string());
        }
        let events = progress.events_since(0);
        assert_eq!(events.len(), MAX_EVENTS);
        assert_eq!((events[0].number, events[0].text.as_str()), (5, "5"));
        assert_eq!(progress.events_since(MAX_EVENTS as u64 + 4).len(), 1);
    }
}
