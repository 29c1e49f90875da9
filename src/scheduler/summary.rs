//! Owns what a schedule leaves behind, and what a person is told when runs are left over although nobody asked to stop.
//! Must not know: models, kinds, how runs are carried out.

use std::collections::BTreeMap;

use super::{
    budget::{Spending, dollars},
    call::{Halt, HaltReason},
};
use tiltmeter_model::problem::Problem;
use tiltmeter_store::{Drift, Outcome, RunKey, Session};

/// How a run stands.
#[derive(Clone, Debug, PartialEq)]
pub enum RunState {
    /// It has its outcome.
    Done(Outcome),
    /// It failed in this session.
    Failed(Problem),
    /// It was not begun, or was left before its end.
    Pending,
}

/// What the books say of a run, sessions before this one included.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Account {
    /// What its calls cost, those that failed and were billed included.
    pub settled_micro_usd: u64,
    /// Worst case of its calls of which nobody knows whether they were billed.
    pub uncertain_micro_usd: u64,
    /// Why it was left although nobody asked to stop.
    pub halt: Option<Halt>,
}

/// What a schedule leaves behind.
#[derive(Clone, Debug)]
pub struct Summary {
    /// Every run, in the order they were given.
    pub outcomes: Vec<(RunKey, RunState)>,
    /// What runs that are not done have of an outcome, by run id.
    pub kept: BTreeMap<String, Outcome>,
    /// What runs cost and why they were left, by run id.
    pub accounts: BTreeMap<String, Account>,
    /// Runs with an outcome, those of earlier sessions included.
    pub completed: usize,
    /// Runs that failed in this session.
    pub failed: usize,
    /// Runs left over.
    pub pending: usize,
    /// Somebody asked to stop, and runs are left over because of it.
    pub interrupted: bool,
    /// Why runs are left over although nobody asked to stop: budget, quota or rate.
    pub halt: Option<Halt>,
    /// The books of all sessions.
    pub spending: Spending,
    /// Whether the folder already had a journal.
    pub resumed: bool,
    /// Steps whose result came from the journal.
    pub replayed_steps: u64,
    /// Steps that were carried out.
    pub executed_steps: u64,
    /// Steps found at the start with an intent and no result: nobody knows whether they took place.
    pub uncertain_steps: usize,
    /// Runs the journal knows and the plan no longer has. They are kept and take no part.
    pub unplanned_runs: usize,
    /// Every session on this folder, this one included.
    pub sessions: Vec<Session>,
    /// Every plan change that was accepted, in this session or before.
    pub accepted_drifts: Vec<Drift>,
    /// Work by unit, replayed work included.
    pub work: BTreeMap<String, u64>,
}

impl Halt {
    /// What a person is told when runs are left over for want of money or leave.
    pub(super) fn of_schedule(
        reason: HaltReason,
        cause: Problem,
        spending: &Spending,
        completed: usize,
        total: usize,
    ) -> Self {
        let kept = format!("{completed} of {total} are kept");
        let (what, hint) = match reason {
            HaltReason::Budget => (
                format!(
                    "Budget limit reached: {} of {} are spent{}; raise budget_limit and run --resume: {kept}",
                    dollars(spending.held_micro_usd()),
                    dollars(spending.limit_micro_usd.unwrap_or_default()),
                    match spending.uncertain_micro_usd {
                        0 => String::new(),
                        uncertain => format!(" ({} of it uncertain)", dollars(uncertain)),
                    }
                ),
                "raise budget_limit and run --resume; no finished call is paid again",
            ),
            HaltReason::RunBudget => (
                format!("Budget limit of a run reached, {}: {kept}", cause.what),
                "raise the budget limit of a run and run --resume; no finished call is paid again",
            ),
            HaltReason::Quota => (
                format!("the account has run dry, {}: {kept}", cause.what),
                "add credit to the account and run --resume; no finished call is paid again",
            ),
            HaltReason::RateLimit => {
                (format!("{}: {kept}", cause.what), "run --resume later; no finished call is paid again")
            }
        };
        Self { reason, problem: Problem { what, place: cause.place, hint: Some(hint.to_owned()) } }
    }
}
