//! `Lane`: admits calls one after the other within the limits of an account; its settings and its state for display.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::{
    sync::{Mutex as AsyncMutex, Notify},
    time::{Instant, sleep_until},
};

use super::{
    permit::Permit,
    sliding_window::Admission,
    state::{Decision, Gate, Settings, State},
};
use crate::call::Cost;
use tiltmeter_model::problem::Problem;

/// Limits of an account; `None` is unlimited.
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
    /// The account is out of credit.
    Quota,
    /// The key is missing, invalid or lacks a permission.
    Auth,
    /// Rate-limited for longer than the lane's patience.
    RateLimit,
}

/// A lane that admits no more calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaneOff {
    pub reason: OffReason,
    /// The provider's message.
    pub problem: Problem,
}

/// A lane for display.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LaneView {
    pub name: String,
    pub state: LaneState,
    /// Calls waiting for admission.
    pub waiting: usize,
    pub in_flight: usize,
    /// Current limit on calls in flight; absent if there is none.
    pub allowed_in_flight: Option<usize>,
    /// 0 if the lane has no limits per minute; so are the next two.
    pub requests_last_minute: u64,
    pub input_tokens_last_minute: u64,
    pub output_tokens_last_minute: u64,
    /// Calls sent in this session.
    pub calls: u64,
    /// Calls that failed.
    pub failed: u64,
    /// Calls that failed because of a rate limit.
    pub rate_limited: u64,
}

/// State of a lane.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "is")]
pub enum LaneState {
    Open,
    /// Paused after a rate limit.
    Closed {
        for_s: f64,
    },
    /// One call is in flight as a probe after a pause.
    Probing,
    Off {
        reason: OffReason,
    },
}

/// A lane. Clones are the same lane.
#[derive(Clone)]
pub struct Lane {
    inner: Arc<Inner>,
}

struct Inner {
    settings: Settings,
    state: Mutex<State>,
    /// Held by the first waiting call, the only one that watches the clock; tokio's mutex is fair, so waiters proceed in order.
    queue: AsyncMutex<()>,
    changed: Notify,
    waiting: AtomicUsize,
}

const DEFAULT_PATIENCE: Duration = Duration::from_secs(15 * 60);

impl Lane {
    /// A lane with the default patience of 15 minutes, named after its provider and account.
    pub fn new(name: impl Into<String>, limits: LaneLimits) -> Self {
        Self::with_patience(name, limits, DEFAULT_PATIENCE)
    }

    /// A lane that turns itself off if rate limits let no call through for longer than `patience`.
    pub fn with_patience(name: impl Into<String>, limits: LaneLimits, patience: Duration) -> Self {
        let max_in_flight = limits.max_in_flight.map_or(f64::INFINITY, |most| most.max(1) as f64);
        let settings = Settings { name: name.into(), max_in_flight, patience };
        let inner = Inner {
            state: Mutex::new(State::new(&limits, &settings)),
            settings,
            queue: AsyncMutex::new(()),
            changed: Notify::new(),
            waiting: AtomicUsize::new(0),
        };
        Self { inner: Arc::new(inner) }
    }

    pub fn name(&self) -> &str {
        &self.settings().name
    }

    /// Longest time without a call getting through before a rate limit turns the lane off.
    pub fn patience(&self) -> Duration {
        self.settings().patience
    }

    /// Why the lane is off, if it is.
    pub fn off(&self) -> Option<LaneOff> {
        match &self.state().gate {
            Gate::Off(off) => Some(off.clone()),
            _ => None,
        }
    }

    /// The current state for display.
    pub fn view(&self) -> LaneView {
        let now = Instant::now();
        let mut state = self.state();
        let [requests, input, output] = state.window.last_minute(now);
        LaneView {
            name: self.name().to_owned(),
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

    /// Waits until a call with this expected number of tokens may start.
    pub async fn admit(&self, expected: &Cost) -> Result<Permit, LaneOff> {
        let _waiting = Waiting::new(&self.inner.waiting);
        let _first = self.inner.queue.lock().await;
        loop {
            // `Notify` keeps a notification that arrives before the await below.
            let changed = self.inner.changed.notified();
            let decision = self.state().try_admit(Instant::now(), expected);
            match decision {
                Decision::Admit(admitted) => return Ok(Permit::new(self.clone(), *expected, admitted)),
                Decision::Off(off) => return Err(off),
                Decision::Wait(Admission::At(at)) => {
                    tokio::select! {
                        () = sleep_until(at) => {}
                        () = changed => {}
                    }
                }
                Decision::Wait(_) => changed.await,
            }
        }
    }

    pub(super) fn settings(&self) -> &Settings {
        &self.inner.settings
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes the first waiting call.
    pub(super) fn notify(&self) {
        self.inner.changed.notify_one();
    }
}

/// Counts a waiting call for as long as it exists, so that a call dropped while waiting is no longer counted.
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
