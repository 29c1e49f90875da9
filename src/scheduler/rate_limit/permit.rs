//! `Permit`: permission to make one call. Its owner reports when the call is sent and how it ended.

use tokio::time::Instant;

use super::{
    lane::Lane,
    state::{Admitted, Gate, State},
};
use crate::call::Cost;
use tiltmeter_model::failure::{Class, Failure};

/// Permission to make one call. Dropped without a report, the call counts as abandoned.
#[must_use]
pub struct Permit {
    lane: Lane,
    expected: Cost,
    admitted: Admitted,
    /// Number of the call in the sliding window, once it is sent.
    number: Option<u64>,
    open: bool,
}

impl Permit {
    pub(super) fn new(lane: Lane, expected: Cost, admitted: Admitted) -> Self {
        Self { lane, expected, admitted, number: None, open: true }
    }

    /// The call is sent now and counts into the limits per minute from here on.
    pub fn sent(&mut self) {
        if self.number.is_none() {
            let mut state = self.lane.state();
            self.number = Some(state.window.send(Instant::now(), &self.expected));
            state.calls += 1;
            drop(state);
            self.lane.notify();
        }
    }

    /// The call succeeded at this cost.
    pub fn succeeded(mut self, actual: &Cost) {
        if let Some(number) = self.number {
            self.lane.state().window.settle(number, actual);
        }
        self.end(|lane, state, admitted| state.on_success(lane.settings(), admitted));
    }

    /// The call failed. Returns whether the failure is worth reporting: of several calls refused for the same reason, only the first is.
    pub fn failed(mut self, failure: &Failure) -> bool {
        let mut report = true;
        self.end(|lane, state, admitted| {
            let before = (state.strikes, matches!(state.gate, Gate::Off(_)));
            state.on_failure(lane.settings(), admitted, failure);
            let after = (state.strikes, matches!(state.gate, Gate::Off(_)));
            let of_lane = matches!(failure.class, Class::RateLimit | Class::Quota | Class::Auth);
            report = !of_lane || before != after;
        });
        report
    }

    fn end(&mut self, update: impl FnOnce(&Lane, &mut State, Admitted)) {
        self.open = false;
        let mut state = self.lane.state();
        if self.number.is_none() {
            state.window.withdraw(&self.expected);
        }
        update(&self.lane, &mut state, self.admitted);
        state.in_flight -= 1;
        if self.admitted.probe && matches!(state.gate, Gate::Probing) {
            // The probe gave no information about the rate, so the next call is a probe too.
            state.gate = Gate::Closed { until: Instant::now() };
        }
        drop(state);
        self.lane.notify();
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if self.open {
            self.end(|_, _, _| {});
        }
    }
}
