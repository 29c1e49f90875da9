//! Owns a lane: the one way to one provider account (or to the engine on this machine), shared by all runs. It says when a call
//! may start, so that limits per minute and in flight are kept, and what a failure means for everyone else on it:
//!
//! - too fast: the lane closes for all until the time the other side named (else a growing, jittered time), then lets one call
//!   through as a probe, then doubles what may be in flight per round up to half of what it was, then adds one per round;
//! - overloaded (503, 529): half as many in flight, once per round;
//! - out of quota, wrong key, or too fast for longer than its patience: the lane is off for this session.
//!
//! Whoever waits is let through in the order of asking, and only the first of them watches the clock.
//! Must not know: models, providers, what a call does.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::{
    sync::{Mutex as Turnstile, Notify},
    time::{Instant, sleep_until},
};

use super::{
    call::Cost,
    pace::{Pace, Ready},
    plan::seed_for,
};
use tiltmeter_model::failure::{Class, Failure};
use tiltmeter_model::problem::Problem;

/// What an account allows; what is `None` is not limited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LaneLimits {
    pub requests_per_minute: Option<u32>,
    pub input_tokens_per_minute: Option<u64>,
    pub output_tokens_per_minute: Option<u64>,
    pub max_in_flight: Option<usize>,
}

/// Why a lane is off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OffReason {
    /// The account has run dry.
    Quota,
    /// The key is missing, wrong or may not.
    Auth,
    /// Too fast for longer than the lane's patience.
    RateLimit,
}

/// A lane that lets nothing through any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaneOff {
    pub reason: OffReason,
    /// What the other side said.
    pub problem: Problem,
}

/// A lane for display.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LaneView {
    pub name: String,
    pub state: LaneState,
    /// Calls that wait for the lane.
    pub waiting: usize,
    pub in_flight: usize,
    /// How many may be in flight now; absent where nothing limits it.
    pub allowed_in_flight: Option<usize>,
    /// Where the lane has limits per minute.
    pub requests_last_minute: u64,
    pub input_tokens_last_minute: u64,
    pub output_tokens_last_minute: u64,
    /// Calls that were sent in this session.
    pub calls: u64,
    /// How many of them failed.
    pub failed: u64,
    /// How many of those were too fast.
    pub rate_limited: u64,
}

/// What a lane does now.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "is")]
pub enum LaneState {
    Open,
    /// The other side asked for a pause.
    Closed {
        for_s: f64,
    },
    /// After the pause one call is tried.
    Probing,
    Off {
        reason: OffReason,
    },
}

/// A lane; clones are the same lane.
#[derive(Clone)]
pub struct Lane {
    inner: Arc<Inner>,
}

struct Inner {
    name: String,
    max_in_flight: Option<usize>,
    patience: Duration,
    state: Mutex<State>,
    /// The first of those who wait holds it; it is handed on in the order of asking.
    turnstile: Turnstile<()>,
    changed: Notify,
    waiting: AtomicUsize,
}

struct State {
    gate: Gate,
    pace: Pace,
    in_flight: usize,
    /// How many may be in flight.
    allowed: f64,
    /// Up to here `allowed` grows by one per success, above by one per round.
    threshold: f64,
    /// Counts cuts of `allowed`: failures of calls from before the latest cut do not cut again.
    round: u64,
    /// Closings without a success in between.
    strikes: u32,
    /// Since when no call has got through for being too fast.
    limited_since: Option<Instant>,
    calls: u64,
    failed: u64,
    rate_limited: u64,
}

enum Gate {
    Open,
    Closed { until: Instant },
    Probing,
    Off(LaneOff),
}

enum Look {
    Go { probe: bool, round: u64 },
    Wait(Ready),
    Off(LaneOff),
}

const DEFAULT_PATIENCE: Duration = Duration::from_secs(15 * 60);
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

impl Lane {
    /// A lane that is named for its provider and account.
    pub fn new(name: impl Into<String>, limits: LaneLimits) -> Self {
        Self::with_patience(name, limits, DEFAULT_PATIENCE)
    }

    /// A lane that turns itself off where it would have to wait longer than this without one call getting through.
    pub fn with_patience(name: impl Into<String>, limits: LaneLimits, patience: Duration) -> Self {
        let most = limits.max_in_flight.map_or(f64::INFINITY, |most| most.max(1) as f64);
        let state = State {
            gate: Gate::Open,
            pace: Pace::new(&limits),
            in_flight: 0,
            allowed: most,
            threshold: most,
            round: 0,
            strikes: 0,
            limited_since: None,
            calls: 0,
            failed: 0,
            rate_limited: 0,
        };
        let inner = Inner {
            name: name.into(),
            max_in_flight: limits.max_in_flight,
            patience,
            state: Mutex::new(state),
            turnstile: Turnstile::new(()),
            changed: Notify::new(),
            waiting: AtomicUsize::new(0),
        };
        Self { inner: Arc::new(inner) }
    }

    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// How long a call may wait for being too fast.
    pub fn patience(&self) -> Duration {
        self.inner.patience
    }

    /// Why the lane is off, if it is.
    pub fn off(&self) -> Option<LaneOff> {
        match &self.state().gate {
            Gate::Off(off) => Some(off.clone()),
            _ => None,
        }
    }

    /// The lane now.
    pub fn view(&self) -> LaneView {
        let now = Instant::now();
        let mut state = self.state();
        let [requests, input, output] = state.pace.last_minute(now);
        LaneView {
            name: self.inner.name.clone(),
            state: match &state.gate {
                Gate::Open => LaneState::Open,
                Gate::Closed { until } => LaneState::Closed { for_s: until.duration_since(now).as_secs_f64() },
                Gate::Probing => LaneState::Probing,
                Gate::Off(off) => LaneState::Off { reason: off.reason },
            },
            waiting: self.inner.waiting.load(Relaxed),
            in_flight: state.in_flight,
            allowed_in_flight: state.allowed.is_finite().then_some(state.allowed as usize),
            requests_last_minute: requests,
            input_tokens_last_minute: input,
            output_tokens_last_minute: output,
            calls: state.calls,
            failed: state.failed,
            rate_limited: state.rate_limited,
        }
    }

    /// Waits until a call that is expected to need so many tokens may start.
    pub async fn admit(&self, expected: &Cost) -> Result<Permit, LaneOff> {
        let _waiting = Waiting::new(&self.inner.waiting);
        let _turn = self.inner.turnstile.lock().await;
        loop {
            // A change in between is kept by `Notify` for whoever asks next.
            let changed = self.inner.changed.notified();
            let look = self.state().look(Instant::now(), expected);
            match look {
                Look::Go { probe, round } => {
                    return Ok(Permit {
                        lane: self.clone(),
                        expected: *expected,
                        number: None,
                        probe,
                        round,
                        open: true,
                    });
                }
                Look::Off(off) => return Err(off),
                Look::Wait(Ready::At(at)) => {
                    tokio::select! {
                        () = sleep_until(at) => {}
                        () = changed => {}
                    }
                }
                Look::Wait(_) => changed.await,
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn max_in_flight(&self) -> f64 {
        self.inner.max_in_flight.map_or(f64::INFINITY, |most| most.max(1) as f64)
    }
}

impl State {
    fn look(&mut self, now: Instant, expected: &Cost) -> Look {
        let probe = match &self.gate {
            Gate::Off(off) => return Look::Off(off.clone()),
            Gate::Probing => return Look::Wait(Ready::WhenTold),
            Gate::Closed { until } if *until > now => return Look::Wait(Ready::At(*until)),
            Gate::Closed { .. } => true,
            Gate::Open => false,
        };
        // What is still under way from before a pause does not hold up the probe.
        if !probe && self.in_flight as f64 >= self.allowed.floor() {
            return Look::Wait(Ready::WhenTold);
        }
        match self.pace.ready(now, expected) {
            Ready::Now => {}
            later => return Look::Wait(later),
        }
        if probe {
            self.gate = Gate::Probing;
        }
        self.pace.start(now, expected);
        self.in_flight += 1;
        Look::Go { probe, round: self.round }
    }

    /// Half as many in flight, unless that was already done for calls of this round.
    fn cut(&mut self, round: u64) -> bool {
        if round != self.round {
            return false;
        }
        self.round += 1;
        let were = self.allowed.min(self.in_flight.max(1) as f64);
        self.threshold = (were / 2.0).floor().max(1.0);
        self.allowed = self.threshold;
        true
    }

    fn grow(&mut self, most: f64) {
        self.allowed += if self.allowed < self.threshold { 1.0 } else { 1.0 / self.allowed.floor() };
        self.allowed = self.allowed.min(most);
    }
}

/// Leave to make one call. To be told when the call is sent and what came of it; dropped before, the call counts as given up.
#[must_use]
pub struct Permit {
    lane: Lane,
    expected: Cost,
    /// Of the call in the lane's pace, once it is sent.
    number: Option<u64>,
    probe: bool,
    round: u64,
    open: bool,
}

impl Permit {
    /// The call goes out now; from here it counts into the minute.
    pub fn sent(&mut self) {
        if self.number.is_none() {
            let mut state = self.lane.state();
            self.number = Some(state.pace.send(Instant::now(), &self.expected));
            state.calls += 1;
            drop(state);
            self.lane.inner.changed.notify_one();
        }
    }

    /// The call came to something.
    pub fn succeeded(mut self, actual: &Cost) {
        if let Some(number) = self.number {
            self.lane.state().pace.settle(number, actual);
        }
        self.end(|lane, state, permit| lane.got_through(state, permit));
    }

    /// The call came to nothing. Returns whether that is news: one of several that were refused for the same reason is not.
    pub fn failed(mut self, failure: &Failure) -> bool {
        let mut news = true;
        self.end(|lane, state, permit| {
            let before = (state.strikes, matches!(state.gate, Gate::Off(_)));
            lane.refused(state, permit, failure);
            let after = (state.strikes, matches!(state.gate, Gate::Off(_)));
            let by_lane = matches!(failure.class, Class::RateLimit | Class::Quota | Class::Auth);
            news = !by_lane || before != after;
        });
        news
    }

    fn end(&mut self, learn: impl FnOnce(&Lane, &mut State, &Permit)) {
        self.open = false;
        let mut state = self.lane.state();
        if self.number.is_none() {
            state.pace.withdraw(&self.expected);
        }
        learn(&self.lane, &mut state, self);
        state.in_flight -= 1;
        if self.probe && matches!(state.gate, Gate::Probing) {
            // It said nothing about the pace, so the next call is the probe.
            state.gate = Gate::Closed { until: Instant::now() };
        }
        drop(state);
        self.lane.inner.changed.notify_one();
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if self.open {
            self.end(|_, _, _| {});
        }
    }
}

impl Lane {
    /// The other side took the call, whatever it made of it.
    fn got_through(&self, state: &mut State, permit: &Permit) {
        match state.gate {
            Gate::Probing if permit.probe => {
                state.gate = Gate::Open;
                state.allowed = 1.0;
            }
            // A call from before the pause says nothing about the time after it.
            Gate::Closed { .. } | Gate::Probing | Gate::Off(_) => return,
            Gate::Open => {}
        }
        if permit.round == state.round {
            state.strikes = 0;
            state.limited_since = None;
            state.grow(self.max_in_flight());
        }
    }

    fn refused(&self, state: &mut State, permit: &Permit, failure: &Failure) {
        state.failed += 1;
        match failure.class {
            Class::RateLimit => self.too_fast(state, permit, failure),
            Class::Quota => self.turn_off(state, OffReason::Quota, &failure.problem),
            Class::Auth => self.turn_off(state, OffReason::Auth, &failure.problem),
            Class::Transient => {
                if matches!(failure.status, Some(503 | 529)) {
                    state.cut(permit.round);
                }
            }
            Class::BadRequest | Class::Malformed => self.got_through(state, permit),
        }
    }

    fn too_fast(&self, state: &mut State, permit: &Permit, failure: &Failure) {
        state.rate_limited += 1;
        if matches!(state.gate, Gate::Off(_)) {
            return;
        }
        let now = Instant::now();
        let since = *state.limited_since.get_or_insert(now);
        // Several calls under way may be refused for the same reason; only the first of them is news.
        if state.cut(permit.round) {
            state.strikes = state.strikes.saturating_add(1);
            state.pace.refused();
        }
        let pause = failure.retry_after.filter(|asked| !asked.is_zero()).unwrap_or_else(|| self.pause(state.strikes));
        if (now + pause).duration_since(since) > self.inner.patience {
            let waited = format!(
                "{} asks for a pause of {:.0} s, longer than this program waits ({:.0} s): {}",
                self.inner.name,
                pause.as_secs_f64(),
                self.inner.patience.as_secs_f64(),
                failure.problem.what
            );
            let problem = Problem { what: waited, ..failure.problem.clone() };
            return self.turn_off(state, OffReason::RateLimit, &problem);
        }
        let until = match state.gate {
            Gate::Closed { until } => until.max(now + pause),
            _ => now + pause,
        };
        state.gate = Gate::Closed { until };
    }

    fn turn_off(&self, state: &mut State, reason: OffReason, problem: &Problem) {
        if !matches!(state.gate, Gate::Off(_)) {
            state.gate = Gate::Off(LaneOff { reason, problem: problem.clone() });
        }
    }

    /// 1 s, 2 s, 4 s … 60 s, each shortened by up to a half, so that several programs on one account do not return together.
    fn pause(&self, strikes: u32) -> Duration {
        let longest = FIRST_PAUSE.saturating_mul(1 << strikes.clamp(1, 7).saturating_sub(1)).min(LONGEST_PAUSE);
        let seed = u64::from(std::process::id()) << 32 | u64::from(strikes);
        longest.mul_f64(1.0 - 0.5 * fraction(seed_for(seed, &self.inner.name)))
    }
}

/// A number of [0, 1) from 64 random bits.
pub(super) fn fraction(bits: u64) -> f64 {
    (bits >> 11) as f64 / (1_u64 << 53) as f64
}

/// Counts itself while it is there, so that a call that is dropped while it waits is not counted for ever.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Relaxed);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}
