//! `Budget`: limits on the cost of a batch and of each run, in whole micro-dollars. At every instant:
//!
//! ```text
//! settled + uncertain + reserved <= limit
//! ```
//!
//! Before a call, its worst-case cost is reserved against both limits at once. Afterwards the reservation is settled at the actual
//! cost, released if the call was not billed, or kept as uncertain if that is unknown. A reservation that does not fit waits, first
//! come first served, while other calls are in progress, because these may cost less than reserved; if none is, the limit is reached.
//! Only a call that costs more than its own worst case exceeds the limit; `overshoot` counts that.
//!
//! If several workers share the limit, each spends only from its own `BudgetLeases` and acquires more before it waits or gives up.

mod reservation;
mod state;

pub use reservation::Reservation;
pub(super) use state::Balance;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex as AsyncMutex, Notify};

use crate::{summary::Account, workers::BudgetLeases};
use state::BudgetState;
use tiltmeter_model::problem::Problem;

/// The budget of one batch. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Budget {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    state: Mutex<BudgetState>,
    /// Held by the first waiting reservation; tokio's mutex is fair, so waiters proceed in order.
    queue: AsyncMutex<()>,
    changed: Notify,
}

/// Amounts of a budget at one moment, in micro-dollars.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spending {
    /// Cost of calls, including earlier sessions.
    pub settled_micro_usd: u64,
    /// Worst-case cost of calls that may or may not have been billed.
    pub uncertain_micro_usd: u64,
    /// Worst-case cost of calls in progress.
    pub reserved_micro_usd: u64,
    /// Limit on the sum of the three.
    pub limit_micro_usd: Option<u64>,
    /// Limit on the same sum for one run.
    pub run_limit_micro_usd: Option<u64>,
    /// Cost beyond the worst case of the same calls; included in the amounts above.
    pub overshoot_micro_usd: u64,
}

impl Spending {
    /// The amount charged against the limit.
    pub fn held_micro_usd(&self) -> u64 {
        self.settled_micro_usd.saturating_add(self.uncertain_micro_usd).saturating_add(self.reserved_micro_usd)
    }
}

/// Why a reservation was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exhausted {
    /// The limit of the batch is reached.
    Batch,
    /// The limit of the run is reached.
    Run,
    /// The leases of this worker cannot be read.
    Unknown(Problem),
}

impl Budget {
    /// No limits; costs are counted all the same.
    pub fn new() -> Self {
        Self::default()
    }

    /// Limits for the batch and for each run.
    pub fn limited(batch_micro_usd: Option<u64>, run_micro_usd: Option<u64>) -> Self {
        let budget = Self::new();
        let mut state = budget.state();
        state.limit = batch_micro_usd;
        state.run_limit = run_micro_usd;
        drop(state);
        budget
    }

    /// Shares the limit of the batch with other workers: this one spends only from its leases.
    pub fn shared(self, leases: Arc<BudgetLeases>) -> Self {
        let mut state = self.state();
        state.shared = state.limit.map(|whole| (whole, leases));
        drop(state);
        self
    }

    /// Current amounts. The limit is that of the batch, even if this worker has leases for a part of it only.
    pub fn spending(&self) -> Spending {
        let state = self.state();
        Spending {
            settled_micro_usd: state.total.settled,
            uncertain_micro_usd: state.total.uncertain,
            reserved_micro_usd: state.total.reserved,
            limit_micro_usd: state.shared.as_ref().map(|(whole, _)| *whole).or(state.limit),
            run_limit_micro_usd: state.run_limit,
            overshoot_micro_usd: state.overshoot,
        }
    }

    /// Whether the limit of the batch is reached, or that of a run after `run_limit_ends_batch`.
    pub fn exhausted(&self) -> bool {
        self.state().exhausted
    }

    /// From now on, a run that reaches its own limit also exhausts the budget of the batch.
    pub fn run_limit_ends_batch(&self) {
        self.state().run_limit_ends_batch = true;
    }

    /// Cost of each run, by run id.
    pub(super) fn accounts(&self) -> BTreeMap<String, Account> {
        let account = |(run, balance): (&String, &Balance)| {
            let (settled_micro_usd, uncertain_micro_usd) = (balance.settled, balance.uncertain);
            (run.clone(), Account { settled_micro_usd, uncertain_micro_usd, halt: None })
        };
        self.state().runs.iter().map(account).collect()
    }

    /// Reserves the worst-case cost of one call of a run against both limits. Waits while calls in progress may free enough.
    pub async fn reserve(&self, run: &str, micro_usd: u64) -> Result<Reservation, Exhausted> {
        let reserved = || Reservation::new(self.clone(), run, micro_usd);
        if self.state().limit.is_none() {
            self.state().reserve(run, micro_usd)?;
            return Ok(reserved());
        }
        let _first = self.inner.queue.lock().await;
        loop {
            // `Notify` keeps a notification that arrives before the await below.
            let changed = self.inner.changed.notified();
            match self.state().reserve(run, micro_usd) {
                Ok(()) => return Ok(reserved()),
                Err(Exhausted::Batch) => {}
                Err(other) => return Err(other),
            }
            self.acquire(micro_usd).await.map_err(Exhausted::Unknown)?;
            if self.state().reserve_or_give_up(run, micro_usd)? {
                return Ok(reserved());
            }
            changed.await;
        }
    }

    /// Acquires leases for this amount, if the limit is shared and enough is free.
    async fn acquire(&self, micro_usd: u64) -> Result<(), Problem> {
        let (Some((_, leases)), held) = ({
            let state = self.state();
            (state.shared.clone(), state.total.held())
        }) else {
            return Ok(());
        };
        let acquired = tokio::task::spawn_blocking(move || leases.acquire(held.saturating_add(micro_usd))).await;
        let acquired =
            acquired.unwrap_or_else(|error| Err(Problem::new(format!("cannot acquire budget leases: {error}"))))?;
        self.state().limit = Some(acquired);
        Ok(())
    }

    /// Releases leases that this worker will not spend. Call once everything it spent is durable in its journal.
    pub(super) fn release_unspent(&self) -> Result<(), Problem> {
        let (shared, held) = {
            let state = self.state();
            (state.shared.clone(), state.total.held())
        };
        shared.map_or(Ok(()), |(_, leases)| leases.release_unspent(held))
    }

    /// Sets the amounts that earlier sessions spent; `by_others` is the part spent from other workers' leases.
    pub(super) fn restore(
        &self,
        runs: impl IntoIterator<Item = (String, Balance)>,
        by_others: Balance,
    ) -> Result<(), Problem> {
        let shared = self.state().shared.clone();
        let held = shared.map(|(_, leases)| leases.held()).transpose()?;
        let mut state = self.state();
        state.limit = held.or(state.limit);
        state.runs = runs.into_iter().collect();
        state.exhausted = false;
        let mut total = state.runs.values().copied().fold(Balance::default(), Balance::plus);
        total.settled = total.settled.saturating_sub(by_others.settled);
        total.uncertain = total.uncertain.saturating_sub(by_others.uncertain);
        state.total = total;
        state.inherited_excess = state.limit.map_or(0, |limit| total.held().saturating_sub(limit));
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, BudgetState> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Formats an amount exactly: at least cents, at most micro-dollars, as in `$1.25` and `$0.0031`.
pub fn dollars(micro_usd: u64) -> String {
    let fraction = format!("{:06}", micro_usd % 1_000_000);
    let digits = fraction.trim_end_matches('0').len().max(2);
    format!("${}.{}", micro_usd / 1_000_000, &fraction[..digits])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dollars_are_not_rounded() {
        let shown = [0, 1, 10_000, 1_250_000, 3_100].map(dollars);
        assert_eq!(shown, ["$0.00", "$0.000001", "$0.01", "$1.25", "$0.0031"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_reservation_waits_for_calls_in_progress() {
        let budget = Budget::limited(Some(100), None);
        let mut first = budget.reserve("a", 60).await.unwrap();
        first.begin();
        let waiting = tokio::spawn({
            let budget = budget.clone();
            async move { budget.reserve("b", 60).await.map(drop) }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        first.settle(40, 0);
        assert_eq!(waiting.await.unwrap(), Ok(()));
        drop(budget.reserve("a", 60).await.unwrap());
        assert!(!budget.exhausted());
        assert_eq!(budget.reserve("a", 61).await.unwrap_err(), Exhausted::Batch);
        assert!(budget.exhausted());
        let mut dropped = budget.reserve("a", 60).await.unwrap();
        dropped.begin();
        drop(dropped);
        let spending = budget.spending();
        assert_eq!(
            (spending.settled_micro_usd, spending.uncertain_micro_usd, spending.reserved_micro_usd),
            (40, 60, 0)
        );
    }

    #[tokio::test]
    async fn a_run_has_its_own_limit() {
        let budget = Budget::limited(Some(100), Some(30));
        budget.reserve("a", 20).await.unwrap().settle(20, 0);
        assert_eq!(budget.reserve("a", 11).await.unwrap_err(), Exhausted::Run);
        let mut uncertain = budget.reserve("b", 30).await.unwrap();
        uncertain.begin();
        drop(uncertain);
        assert!(!budget.exhausted(), "other runs may continue");
        budget.run_limit_ends_batch();
        assert_eq!(budget.reserve("a", 11).await.unwrap_err(), Exhausted::Run);
        assert!(budget.exhausted(), "no further run starts");
        budget.reserve("c", 30).await.unwrap().settle(35, 0);
        assert_eq!(budget.spending().overshoot_micro_usd, 5);
    }
}
