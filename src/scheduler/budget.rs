//! Owns the money: whole micro-dollars, a limit for the batch and one for each run, and the rule that holds at every instant:
//!
//! ```text
//! settled + uncertain + reserved <= limit
//! ```
//!
//! Before a call its worst case is reserved against both limits in one step; afterwards it becomes what the call really cost
//! (settled), nothing (released), or stays charged because nobody knows (uncertain). Where there is no room for a worst case but
//! other calls are under way, the call waits for what they leave over, first come first served; where none is under way, the
//! limit is reached. Only a call that costs more than its own worst case can break the rule; that is counted as overshoot.
//!
//! Where several processes share the limit, each keeps the rule with what is in its own leases, and takes more from what nobody has
//! before it waits or gives up.
//! Must not know: prices, models, what a call does.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex as Turnstile, Notify};

use super::{summary::Account, workers::BudgetLeases};
use tiltmeter_model::problem::Problem;

/// The books of one batch; clones are the same books.
#[derive(Clone, Debug, Default)]
pub struct Budget {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    books: Mutex<Books>,
    /// Whoever waits for room holds it; it is handed on in the order of asking.
    turnstile: Turnstile<()>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Books {
    limit: Option<u64>,
    /// Where `limit` is only this process's part: what it is a part of, and where more of it comes from.
    shared: Option<(u64, Arc<BudgetLeases>)>,
    run_limit: Option<u64>,
    all: Sums,
    runs: HashMap<String, Sums>,
    /// What calls cost beyond their worst case.
    overshoot: u64,
    /// What earlier sessions left beyond a limit that is lower now.
    inherited_excess: u64,
    exhausted: bool,
    run_limit_ends_batch: bool,
}

/// Money by how sure it is, in micro-dollars.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sums {
    pub settled: u64,
    pub uncertain: u64,
    pub reserved: u64,
}

impl Sums {
    pub fn plus(self, other: Self) -> Self {
        Self {
            settled: self.settled.saturating_add(other.settled),
            uncertain: self.uncertain.saturating_add(other.uncertain),
            reserved: self.reserved.saturating_add(other.reserved),
        }
    }

    fn held(&self) -> u64 {
        self.settled.saturating_add(self.uncertain).saturating_add(self.reserved)
    }
}

/// The books at one moment, in micro-dollars.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spending {
    /// What calls cost, earlier sessions included.
    pub settled_micro_usd: u64,
    /// Worst case of calls of which nobody knows whether they were billed.
    pub uncertain_micro_usd: u64,
    /// Worst case of calls under way.
    pub reserved_micro_usd: u64,
    /// What all of it may not exceed.
    pub limit_micro_usd: Option<u64>,
    /// What it may not exceed for one run.
    pub run_limit_micro_usd: Option<u64>,
    /// What calls cost beyond their own worst case; the sums above include it.
    pub overshoot_micro_usd: u64,
}

impl Spending {
    /// Everything that is charged against the limit.
    pub fn held_micro_usd(&self) -> u64 {
        self.settled_micro_usd.saturating_add(self.uncertain_micro_usd).saturating_add(self.reserved_micro_usd)
    }
}

/// Which limit has no room left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exhausted {
    /// The batch's.
    Batch,
    /// The run's own.
    Run,
    /// The batch's may have room, but this process's part of it cannot be found out.
    Unknown(Problem),
}

impl Budget {
    /// No limit: the books are kept all the same.
    pub fn new() -> Self {
        Self::default()
    }

    /// Limits for the batch and for each run.
    pub fn limited(batch_micro_usd: Option<u64>, run_micro_usd: Option<u64>) -> Self {
        let budget = Self::new();
        let mut books = budget.books();
        books.limit = batch_micro_usd;
        books.run_limit = run_micro_usd;
        drop(books);
        budget
    }

    /// The batch's limit is shared: this process may spend only what is in its leases.
    pub fn shared(self, leases: Arc<BudgetLeases>) -> Self {
        let mut books = self.books();
        books.shared = books.limit.map(|whole| (whole, leases));
        drop(books);
        self
    }

    /// The books now. The limit is the batch's, whatever part of it is this process's.
    pub fn spending(&self) -> Spending {
        let books = self.books();
        Spending {
            settled_micro_usd: books.all.settled,
            uncertain_micro_usd: books.all.uncertain,
            reserved_micro_usd: books.all.reserved,
            limit_micro_usd: books.shared.as_ref().map(|(whole, _)| *whole).or(books.limit),
            run_limit_micro_usd: books.run_limit,
            overshoot_micro_usd: books.overshoot,
        }
    }

    /// Whether a call found no room in the batch's limit although no other was under way, or in its run's where that ends the batch.
    pub fn exhausted(&self) -> bool {
        self.books().exhausted
    }

    /// From now on a run that has reached its own limit ends the batch's, too: no further run is begun.
    pub fn run_limit_ends_batch(&self) {
        self.books().run_limit_ends_batch = true;
    }

    /// What every run has cost.
    pub(super) fn accounts(&self) -> BTreeMap<String, Account> {
        let account = |(run, sums): (&String, &Sums)| {
            let (settled_micro_usd, uncertain_micro_usd) = (sums.settled, sums.uncertain);
            (run.clone(), Account { settled_micro_usd, uncertain_micro_usd, halt: None })
        };
        self.books().runs.iter().map(account).collect()
    }

    /// Reserves the worst case of one call of a run against both limits, waiting for calls under way where that may help.
    pub async fn reserve(&self, run: &str, micro_usd: u64) -> Result<Reservation, Exhausted> {
        let held = || Reservation { budget: self.clone(), run: run.to_owned(), micro_usd, sums: Where::Released };
        if self.books().limit.is_none() {
            self.books().reserve(run, micro_usd)?;
            return Ok(held());
        }
        let _turn = self.inner.turnstile.lock().await;
        loop {
            // A change in between is kept by `Notify` for whoever asks next.
            let changed = self.inner.changed.notified();
            match self.books().reserve(run, micro_usd) {
                Ok(()) => return Ok(held()),
                Err(Exhausted::Batch) => {}
                Err(other) => return Err(other),
            }
            self.fill(micro_usd).await.map_err(Exhausted::Unknown)?;
            if self.books().reserve_or_give_up(run, micro_usd)? {
                return Ok(held());
            }
            changed.await;
        }
    }

    /// Puts more into the leases, if there is one, so that there is room for this.
    async fn fill(&self, micro_usd: u64) -> Result<(), Problem> {
        let (Some((_, leases)), held) = ({
            let books = self.books();
            (books.shared.clone(), books.all.held())
        }) else {
            return Ok(());
        };
        let filled = tokio::task::spawn_blocking(move || leases.fill(held.saturating_add(micro_usd))).await;
        let filled =
            filled.unwrap_or_else(|error| Err(Problem::new(format!("the leases cannot be asked: {error}"))))?;
        self.books().limit = Some(filled);
        Ok(())
    }

    /// Leaves to others what this process will not spend. To be called when everything that it spent is durable.
    pub(super) fn leave(&self) -> Result<(), Problem> {
        let (shared, held) = {
            let books = self.books();
            (books.shared.clone(), books.all.held())
        };
        shared.map_or(Ok(()), |(_, leases)| leases.leave(held))
    }

    /// Takes over what earlier sessions spent; `by_others` is the part of it that came out of other purses.
    pub(super) fn restore(
        &self,
        runs: impl IntoIterator<Item = (String, Sums)>,
        by_others: Sums,
    ) -> Result<(), Problem> {
        let shared = self.books().shared.clone();
        let held = shared.map(|(_, leases)| leases.held()).transpose()?;
        let mut books = self.books();
        books.limit = held.or(books.limit);
        books.all = Sums::default();
        books.runs.clear();
        books.exhausted = false;
        for (run, sums) in runs {
            books.all.settled += sums.settled;
            books.all.uncertain += sums.uncertain;
            books.runs.insert(run, sums);
        }
        books.all.settled = books.all.settled.saturating_sub(by_others.settled);
        books.all.uncertain = books.all.uncertain.saturating_sub(by_others.uncertain);
        books.inherited_excess = books.limit.map_or(0, |limit| books.all.held().saturating_sub(limit));
        Ok(())
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.inner.books.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Books {
    fn reserve(&mut self, run: &str, micro_usd: u64) -> Result<(), Exhausted> {
        let fits = |held: u64, limit: Option<u64>| {
            limit.is_none_or(|limit| held.checked_add(micro_usd).is_some_and(|sum| sum <= limit))
        };
        let own = self.runs.get(run).copied().unwrap_or_default();
        if !fits(own.held(), self.run_limit) {
            self.exhausted |= self.run_limit_ends_batch;
            return Err(Exhausted::Run);
        }
        if !fits(self.all.held(), self.limit) {
            return Err(Exhausted::Batch);
        }
        self.all.reserved += micro_usd;
        match self.runs.get_mut(run) {
            Some(own) => own.reserved += micro_usd,
            None => {
                self.runs.insert(run.to_owned(), Sums { reserved: micro_usd, ..Sums::default() });
            }
        }
        self.check();
        Ok(())
    }

    /// Whether there was room. There will be none where no call is under way that could leave some over.
    fn reserve_or_give_up(&mut self, run: &str, micro_usd: u64) -> Result<bool, Exhausted> {
        match self.reserve(run, micro_usd) {
            Err(Exhausted::Batch) if self.all.reserved > 0 => Ok(false),
            Err(Exhausted::Batch) => {
                self.exhausted = true;
                Err(Exhausted::Batch)
            }
            other => other.map(|()| true),
        }
    }

    /// Turns a reservation into what came of it.
    fn conclude(&mut self, run: &str, reserved: u64, settled: u64, uncertain: u64) {
        self.overshoot += (settled + uncertain).saturating_sub(reserved);
        let own = self.runs.entry(run.to_owned()).or_default();
        for sums in [&mut self.all, own] {
            sums.reserved -= reserved;
            sums.settled += settled;
            sums.uncertain += uncertain;
        }
        self.check();
    }

    fn check(&self) {
        let allowed = |limit: u64| limit.saturating_add(self.overshoot).saturating_add(self.inherited_excess);
        let limit = self.limit.map(allowed);
        debug_assert!(limit.is_none_or(|limit| self.all.held() <= limit), "{self:?}");
    }
}

/// Room for the worst case of one call. Dropped before the call began it is given back; dropped after, it stays charged as
/// uncertain, because nobody knows what came of the call.
#[derive(Debug)]
#[must_use]
pub struct Reservation {
    budget: Budget,
    run: String,
    micro_usd: u64,
    sums: Where,
}

/// Where the money goes if the reservation is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Where {
    Released,
    Uncertain,
    Concluded,
}

impl Reservation {
    /// From here on the call may be billed.
    pub fn begin(&mut self) {
        self.sums = Where::Uncertain;
    }

    /// The call cost this much, which may include a part of which nobody knows.
    pub fn settle(mut self, settled_micro_usd: u64, uncertain_micro_usd: u64) {
        self.conclude(settled_micro_usd, uncertain_micro_usd);
    }

    /// The call was not made or is known to have cost nothing.
    pub fn release(mut self) {
        self.conclude(0, 0);
    }

    /// Nobody knows what the call cost.
    pub fn mark_uncertain(mut self) {
        self.conclude(0, self.micro_usd);
    }

    fn conclude(&mut self, settled: u64, uncertain: u64) {
        self.sums = Where::Concluded;
        self.budget.books().conclude(&self.run, self.micro_usd, settled, uncertain);
        self.budget.inner.changed.notify_one();
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        match self.sums {
            Where::Released => self.conclude(0, 0),
            Where::Uncertain => self.conclude(0, self.micro_usd),
            Where::Concluded => {}
        }
    }
}

/// `$1.25`, `$0.0031`: at least cents, at most micro-dollars.
pub fn dollars(micro_usd: u64) -> String {
    let fraction = format!("{:06}", micro_usd % 1_000_000);
    let kept = fraction.trim_end_matches('0').len().max(2);
    format!("${}.{}", micro_usd / 1_000_000, &fraction[..kept])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn money_is_written_without_rounding() {
        let shown = [0, 1, 10_000, 1_250_000, 3_100].map(dollars);
        assert_eq!(shown, ["$0.00", "$0.000001", "$0.01", "$1.25", "$0.0031"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_reservation_waits_for_what_others_leave_over() {
        let budget = Budget::limited(Some(100), None);
        let mut first = budget.reserve("a", 60).await.unwrap();
        first.begin();
        let waiting = tokio::spawn({
            let budget = budget.clone();
            async move { budget.reserve("b", 60).await.map(Reservation::release) }
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
        budget.reserve("b", 30).await.unwrap().mark_uncertain();
        assert!(!budget.exhausted(), "others may go on");
        budget.run_limit_ends_batch();
        assert_eq!(budget.reserve("a", 11).await.unwrap_err(), Exhausted::Run);
        assert!(budget.exhausted(), "no further run is begun");
        budget.reserve("c", 30).await.unwrap().settle(35, 0);
        assert_eq!(budget.spending().overshoot_micro_usd, 5);
    }
}
