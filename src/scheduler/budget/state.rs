//! `BudgetState`: the amounts behind a `Budget`, and the invariant that they never exceed the limit.

use std::{collections::HashMap, sync::Arc};

use super::Exhausted;
use crate::workers::BudgetLeases;

/// Amounts and limits, in micro-dollars.
#[derive(Debug, Default)]
pub struct BudgetState {
    /// Limit of this worker: its leases if the limit of the batch is shared.
    pub limit: Option<u64>,
    /// The limit of the batch and the leases, if it is shared.
    pub shared: Option<(u64, Arc<BudgetLeases>)>,
    pub run_limit: Option<u64>,
    pub total: Balance,
    pub runs: HashMap<String, Balance>,
    /// Cost of calls beyond their worst case.
    pub overshoot: u64,
    /// Amount by which earlier sessions exceed a limit that was lowered since.
    pub inherited_excess: u64,
    pub exhausted: bool,
    pub run_limit_ends_batch: bool,
}

/// Amounts by certainty, in micro-dollars.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Balance {
    pub settled: u64,
    pub uncertain: u64,
    pub reserved: u64,
}

impl Balance {
    pub fn plus(self, other: Self) -> Self {
        Self {
            settled: self.settled.saturating_add(other.settled),
            uncertain: self.uncertain.saturating_add(other.uncertain),
            reserved: self.reserved.saturating_add(other.reserved),
        }
    }

    /// The amount charged against a limit.
    pub fn held(&self) -> u64 {
        self.settled.saturating_add(self.uncertain).saturating_add(self.reserved)
    }
}

impl BudgetState {
    /// Reserves an amount against both limits, or changes nothing.
    pub fn reserve(&mut self, run: &str, micro_usd: u64) -> Result<(), Exhausted> {
        let fits = |held: u64, limit: Option<u64>| {
            limit.is_none_or(|limit| held.checked_add(micro_usd).is_some_and(|sum| sum <= limit))
        };
        let own = self.runs.get(run).copied().unwrap_or_default();
        if !fits(own.held(), self.run_limit) {
            self.exhausted |= self.run_limit_ends_batch;
            return Err(Exhausted::Run);
        }
        if !fits(self.total.held(), self.limit) {
            return Err(Exhausted::Batch);
        }
        self.total.reserved += micro_usd;
        match self.runs.get_mut(run) {
            Some(own) => own.reserved += micro_usd,
            None => {
                self.runs.insert(run.to_owned(), Balance { reserved: micro_usd, ..Balance::default() });
            }
        }
        self.assert_within_limit();
        Ok(())
    }

    /// Whether the amount fits now. Gives up if it does not and no call in progress could free any of the limit.
    pub fn reserve_or_give_up(&mut self, run: &str, micro_usd: u64) -> Result<bool, Exhausted> {
        match self.reserve(run, micro_usd) {
            Err(Exhausted::Batch) if self.total.reserved > 0 => Ok(false),
            Err(Exhausted::Batch) => {
                self.exhausted = true;
                Err(Exhausted::Batch)
            }
            other => other.map(|()| true),
        }
    }

    /// Replaces a reservation by its actual cost.
    pub fn conclude(&mut self, run: &str, reserved: u64, settled: u64, uncertain: u64) {
        self.overshoot += (settled + uncertain).saturating_sub(reserved);
        let own = self.runs.entry(run.to_owned()).or_default();
        for balance in [&mut self.total, own] {
            balance.reserved -= reserved;
            balance.settled += settled;
            balance.uncertain += uncertain;
        }
        self.assert_within_limit();
    }

    fn assert_within_limit(&self) {
        let allowed = |limit: u64| limit.saturating_add(self.overshoot).saturating_add(self.inherited_excess);
        let limit = self.limit.map(allowed);
        debug_assert!(limit.is_none_or(|limit| self.total.held() <= limit), "{self:?}");
    }
}
