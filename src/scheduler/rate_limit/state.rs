//! `State` of a lane: whether it is open, how many calls may be in flight, and how successes and failures change both.

use std::time::Duration;

use tokio::time::Instant;

use super::{
    fraction,
    lane::{LaneLimits, LaneOff, OffReason},
    sliding_window::{Admission, SlidingWindow},
};
use crate::{call::Cost, plan::seed_for};
use tiltmeter_model::failure::{Class, Failure};
use tiltmeter_model::problem::Problem;

const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Constant properties of a lane.
pub struct Settings {
    pub name: String,
    /// Infinite if there is no limit.
    pub max_in_flight: f64,
    pub patience: Duration,
}

pub struct State {
    pub gate: Gate,
    pub window: SlidingWindow,
    pub in_flight: usize,
    /// Current limit on calls in flight.
    pub allowed: f64,
    /// Up to this number `allowed` grows by one per success, above it by one per round.
    threshold: f64,
    /// Number of times `allowed` was halved: failures of calls admitted before the latest time do not halve it again.
    round: u64,
    /// Pauses without a success in between.
    pub strikes: u32,
    /// Time of the first rate limit since the last success.
    limited_since: Option<Instant>,
    pub calls: u64,
    pub failed: u64,
    pub rate_limited: u64,
}

pub enum Gate {
    Open,
    Closed { until: Instant },
    Probing,
    Off(LaneOff),
}

/// Whether the first waiting call is admitted.
pub enum Decision {
    Admit(Admitted),
    Wait(Admission),
    Off(LaneOff),
}

/// Circumstances in which a call was admitted.
#[derive(Clone, Copy)]
pub struct Admitted {
    pub probe: bool,
    round: u64,
}

impl State {
    pub fn new(limits: &LaneLimits, settings: &Settings) -> Self {
        Self {
            gate: Gate::Open,
            window: SlidingWindow::new(limits),
            in_flight: 0,
            allowed: settings.max_in_flight,
            threshold: settings.max_in_flight,
            round: 0,
            strikes: 0,
            limited_since: None,
            calls: 0,
            failed: 0,
            rate_limited: 0,
        }
    }

    /// Decides on the first waiting call.
    pub fn try_admit(&mut self, now: Instant, expected: &Cost) -> Decision {
        let probe = match &self.gate {
            Gate::Off(off) => return Decision::Off(off.clone()),
            Gate::Probing => return Decision::Wait(Admission::OnChange),
            Gate::Closed { until } if *until > now => return Decision::Wait(Admission::At(*until)),
            Gate::Closed { .. } => true,
            Gate::Open => false,
        };
        // Calls still in flight from before a pause do not delay the probe.
        if !probe && self.in_flight as f64 >= self.allowed.floor() {
            return Decision::Wait(Admission::OnChange);
        }
        match self.window.admission(now, expected) {
            Admission::Now => {}
            later => return Decision::Wait(later),
        }
        if probe {
            self.gate = Gate::Probing;
        }
        self.window.admit(now, expected);
        self.in_flight += 1;
        Decision::Admit(Admitted { probe, round: self.round })
    }

    /// The provider processed the call, whatever the result.
    pub fn on_success(&mut self, settings: &Settings, admitted: Admitted) {
        match self.gate {
            Gate::Probing if admitted.probe => {
                self.gate = Gate::Open;
                self.allowed = 1.0;
            }
            // A call from before the pause gives no information about the time after it.
            Gate::Closed { .. } | Gate::Probing | Gate::Off(_) => return,
            Gate::Open => {}
        }
        if admitted.round == self.round {
            self.strikes = 0;
            self.limited_since = None;
            self.allowed += if self.allowed < self.threshold { 1.0 } else { 1.0 / self.allowed.floor() };
            self.allowed = self.allowed.min(settings.max_in_flight);
        }
    }

    pub fn on_failure(&mut self, settings: &Settings, admitted: Admitted, failure: &Failure) {
        self.failed += 1;
        match failure.class {
            Class::RateLimit => self.on_rate_limit(settings, admitted, failure),
            Class::Quota => self.turn_off(OffReason::Quota, &failure.problem),
            Class::Auth => self.turn_off(OffReason::Auth, &failure.problem),
            Class::Transient => {
                if matches!(failure.status, Some(503 | 529)) {
                    self.halve_allowed(admitted);
                }
            }
            Class::BadRequest | Class::Malformed => self.on_success(settings, admitted),
        }
    }

    fn on_rate_limit(&mut self, settings: &Settings, admitted: Admitted, failure: &Failure) {
        self.rate_limited += 1;
        if matches!(self.gate, Gate::Off(_)) {
            return;
        }
        let now = Instant::now();
        let since = *self.limited_since.get_or_insert(now);
        // Several calls in flight may be refused for the same reason; only the first one counts as a strike.
        if self.halve_allowed(admitted) {
            self.strikes = self.strikes.saturating_add(1);
            self.window.slow_down();
        }
        let retry_after = failure.retry_after.filter(|pause| !pause.is_zero());
        let pause = retry_after.unwrap_or_else(|| backoff(&settings.name, self.strikes));
        if (now + pause).duration_since(since) > settings.patience {
            let what = format!(
                "{} asks for a pause of {:.0} s, longer than this program waits ({:.0} s): {}",
                settings.name,
                pause.as_secs_f64(),
                settings.patience.as_secs_f64(),
                failure.problem.what
            );
            let problem = Problem { what, ..failure.problem.clone() };
            return self.turn_off(OffReason::RateLimit, &problem);
        }
        let until = match self.gate {
            Gate::Closed { until } => until.max(now + pause),
            _ => now + pause,
        };
        self.gate = Gate::Closed { until };
    }

    /// Halves the number of calls in flight, unless that was already done since the call was admitted.
    fn halve_allowed(&mut self, admitted: Admitted) -> bool {
        if admitted.round != self.round {
            return false;
        }
        self.round += 1;
        let current = self.allowed.min(self.in_flight.max(1) as f64);
        self.threshold = (current / 2.0).floor().max(1.0);
        self.allowed = self.threshold;
        true
    }

    fn turn_off(&mut self, reason: OffReason, problem: &Problem) {
        if !matches!(self.gate, Gate::Off(_)) {
            self.gate = Gate::Off(LaneOff { reason, problem: problem.clone() });
        }
    }
}

/// Pause without `Retry-After`: 1 s, 2 s, 4 s … 60 s, each shortened by up to a half, so that several programs on one account do not
/// retry at the same time.
fn backoff(name: &str, strikes: u32) -> Duration {
    let longest = FIRST_PAUSE.saturating_mul(1 << strikes.clamp(1, 7).saturating_sub(1)).min(LONGEST_PAUSE);
    let seed = u64::from(std::process::id()) << 32 | u64::from(strikes);
    longest.mul_f64(1.0 - 0.5 * fraction(seed_for(seed, name)))
}
