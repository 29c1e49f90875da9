//! `Reservation`: the worst-case cost of one call, held until the actual cost is known.

use super::Budget;

/// Worst-case cost of one call. Dropped before the call starts, it is released; dropped after, it stays charged as uncertain, because
/// the call may have been billed.
#[derive(Debug)]
#[must_use]
pub struct Reservation {
    budget: Budget,
    run: String,
    micro_usd: u64,
    on_drop: OnDrop,
}

/// What happens to the amount if the reservation is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OnDrop {
    Release,
    MarkUncertain,
    Nothing,
}

impl Reservation {
    pub(super) fn new(budget: Budget, run: &str, micro_usd: u64) -> Self {
        Self { budget, run: run.to_owned(), micro_usd, on_drop: OnDrop::Release }
    }

    /// Marks the start of the call, from which on it may be billed.
    pub fn begin(&mut self) {
        self.on_drop = OnDrop::MarkUncertain;
    }

    /// Replaces the reservation by the actual cost, which may have an uncertain part.
    pub fn settle(mut self, settled_micro_usd: u64, uncertain_micro_usd: u64) {
        self.conclude(settled_micro_usd, uncertain_micro_usd);
    }

    fn conclude(&mut self, settled: u64, uncertain: u64) {
        self.on_drop = OnDrop::Nothing;
        self.budget.state().conclude(&self.run, self.micro_usd, settled, uncertain);
        self.budget.inner.changed.notify_one();
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        match self.on_drop {
            OnDrop::Release => self.conclude(0, 0),
            OnDrop::MarkUncertain => self.conclude(0, self.micro_usd),
            OnDrop::Nothing => {}
        }
    }
}
