//! `RunRecord`, `Ledger` and `Summary`: the result of a schedule, in the types that are also read back from the journal.

use std::collections::BTreeMap;

use super::{
    budget::{Spending, dollars},
    call::{Halt, HaltReason},
};
use tiltmeter_model::problem::Problem;
use tiltmeter_store::{Drift, Outcome, RunKey, Session};

/// One run, complete or not.
#[derive(Clone, Debug, PartialEq)]
pub struct RunRecord {
    pub key: RunKey,
    /// The outcome; for a run that is not done, its last checkpoint.
    pub outcome: Option<Outcome>,
    pub end: RunEnd,
}

/// State of a run.
#[derive(Clone, Debug, PartialEq)]
pub enum RunEnd {
    Done,
    /// Failed, and not retried since.
    Failed(Problem),
    /// Not started, or interrupted.
    Pending,
}

impl RunRecord {
    /// The outcome of a finished run.
    pub fn done(&self) -> Option<&Outcome> {
        self.outcome.as_ref().filter(|_| self.end == RunEnd::Done)
    }

    /// The reason a run failed.
    pub fn failure(&self) -> Option<&Problem> {
        match &self.end {
            RunEnd::Failed(problem) => Some(problem),
            RunEnd::Done | RunEnd::Pending => None,
        }
    }
}

/// Cost and halt of one run, over all sessions.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Account {
    /// Cost of its calls, including failed calls that were billed.
    pub settled_micro_usd: u64,
    /// Worst-case cost of calls that may or may not have been billed.
    pub uncertain_micro_usd: u64,
    /// Why the scheduler interrupted the run.
    pub halt: Option<Halt>,
}

/// The journal's records of a batch other than its outcomes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ledger {
    /// All sessions, oldest first.
    pub sessions: Vec<Session>,
    /// Total spending, and the limits of the latest session.
    pub spending: Spending,
    /// Cost of each run and the reason it was halted, by run id.
    pub runs: BTreeMap<String, Account>,
}

/// Result of `Schedule::run`.
#[derive(Clone, Debug)]
pub struct Summary {
    /// All runs, in the order in which they were passed in; without those that other workers claimed.
    pub runs: Vec<RunRecord>,
    /// Costs and sessions, earlier sessions included.
    pub ledger: Ledger,
    /// Runs with an outcome, including those of earlier sessions.
    pub completed: usize,
    /// Runs that failed in this session.
    pub failed: usize,
    /// Runs that are neither done nor failed.
    pub pending: usize,
    /// Whether a stop signal left runs pending.
    pub interrupted: bool,
    /// The limit that left runs pending: budget, quota or rate limit.
    pub halt: Option<Halt>,
    /// Whether the folder already had a journal.
    pub resumed: bool,
    /// Steps whose result came from the journal.
    pub replayed_steps: u64,
    /// Steps executed in this session.
    pub executed_steps: u64,
    /// Steps that had an intent and no result when the session started: they may or may not have taken effect.
    pub uncertain_steps: usize,
    /// Runs in the journal that are no longer in the plan; ignored.
    pub unplanned_runs: usize,
    /// Every plan change accepted in this session or before.
    pub accepted_drifts: Vec<Drift>,
    /// Work by unit, including replayed work.
    pub work: BTreeMap<String, u64>,
}

impl Halt {
    /// The halt of the schedule, given the halt of one run: the message shown when a limit leaves runs pending.
    pub(super) fn for_schedule(self, spending: &Spending, completed: usize, total: usize) -> Self {
        let Self { reason, problem: cause } = self;
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
                format!("the account is out of credit, {}: {kept}", cause.what),
                "add credit to the account and run --resume; no finished call is paid again",
            ),
            HaltReason::RateLimit => {
                (format!("{}: {kept}", cause.what), "run --resume later; no finished call is paid again")
            }
        };
        Self { reason, problem: Problem { what, place: cause.place, hint: Some(hint.to_owned()) } }
    }
}
