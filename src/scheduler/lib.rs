//! Executes runs durably: a crash, a full disk or Ctrl+C loses no finished step, and `--resume` continues each run where it stopped.
//!
//! `Schedule` executes a list of `Run`s. A `Run` reaches everything outside itself through numbered steps of its `RunContext`; the
//! result of a step is durable in the `journal` before the run continues, and a resumed run replays it. A `Call` is a step that costs
//! money: it is reserved in the `budget`, admitted by a rate-limited `Lane` (`rate_limit`), and retried as `retry` decides. Several
//! workers share a run folder through `Claims` on runs and `BudgetLeases` on the limit (`workers`). `status` and `recorded` read a
//! folder without writing to it.
//!
//! Invariants: no result is returned to a run before it is durable. No call is sent before its intent is durable and its worst-case
//! cost is reserved. Never settled + uncertain + reserved > limit, over all workers. No call is retried anywhere else. No result
//! depends on the order in which runs are executed. Nothing here knows models, providers or kinds of experiments.

mod budget;
mod call;
mod checkpoint;
mod context;
mod journal;
mod plan;
mod progress;
mod rate_limit;
mod retry;
mod run;
mod run_loop;
mod run_tasks;
mod schedule;
mod session;
mod status;
mod stop;
mod summary;
mod workers;

pub use budget::{Budget, Exhausted, Reservation, Spending, dollars};
pub use call::{Call, Cost, Halt, HaltReason};
pub use context::RunContext;
pub use journal::Disk;
pub use plan::{Plan, canonical, seed_for};
pub use progress::{CounterView, Event, EventKind, Progress, Snapshot};
pub use rate_limit::{Lane, LaneLimits, LaneOff, LaneState, LaneView, OffReason, Permit};
pub use retry::CallPolicy;
pub use run::{Run, RunError, RunHooks, TOO_LONG};
pub use schedule::{Order, Schedule};
pub use status::{Recorded, Status, finished_runs, recorded, spent_by_worker, status};
pub use stop::{StopLevel, StopSignal};
pub use summary::{Account, Ledger, RunEnd, RunRecord, Summary};
pub use workers::{BudgetLeases, Claims};

pub use tiltmeter_store::Drift;
