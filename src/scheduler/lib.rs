//! Owns how runs are carried out: the frozen plan, the journal, replay, order, lanes, budget, stopping,
//! progress as data.
//!
//! One `Schedule` carries out every kind of experiment. A run touches the world only through numbered steps of its
//! `RunContext`; what a step gave is durable in the journal before the run goes on, so that after a crash, a full disk or a
//! Ctrl+C the same command with `--resume` continues each run in mid-conversation and comes to the same end. Calls that cost
//! money go through a lane, which all runs share, and are covered by the budget before they are made.
//! Must not know: models, engine, provider, kinds.

mod plan;
mod journal_format;
mod recover;
mod journal;
mod stop;
mod progress;
mod pace;
mod lane;
mod workers;
mod budget;
mod context;
mod call;
mod run_tasks;
mod summary;
mod schedule;
mod run_loop;
mod status;

pub use budget::{Budget, Exhausted, Reservation, Spending, dollars};
pub use call::{Call, CallPolicy, Cost, Halt, HaltReason};
pub use context::{Run, RunContext, RunError, RunHooks, TOO_LONG};
pub use journal::Disk;
pub use lane::{Lane, LaneLimits, LaneOff, LaneState, LaneView, OffReason, Permit};
pub use plan::{Plan, canonical, seed_for};
pub use progress::{CounterView, Event, EventKind, Progress, Snapshot};
pub use schedule::{Order, Schedule};
pub use status::{Recorded, Status, finished_runs, paid_by_writer, recorded, status};
pub use stop::{StopLevel, StopSignal};
pub use summary::{Account, Ledger, RunEnd, RunRecord, Summary};
pub use workers::{BudgetLeases, Claims};

pub use tiltmeter_store::Drift;
