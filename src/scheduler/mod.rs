//! Owns how runs are carried out: the frozen plan, the journal, replay, order, stopping, progress as data.
//!
//! One `Schedule` carries out every kind of experiment. A run touches the world only through numbered steps of its
//! `RunContext`; what a step gave is durable in the journal before the run goes on, so that after a crash, a full disk or a
//! Ctrl+C the same command with `--resume` continues each run in mid-conversation and comes to the same end.
//! Must not know: models, engine, provider, kinds.

mod plan;
mod lines;
mod recover;
mod journal;
mod stop;
mod progress;
mod context;
mod schedule;
mod status;

pub use context::{Run, RunContext, RunError};
pub use journal::Disk;
pub use plan::{Plan, canonical, seed_for};
pub use progress::{CounterView, Event, EventKind, Progress, Snapshot};
pub use schedule::{Order, RunState, Schedule, Summary};
pub use status::{Status, finished_runs, status};
pub use stop::{StopLevel, StopSignal};

pub use crate::record::Drift;
