//! The journal of a run folder: the line format, a writer with group commit, and recovery of runs from the lines.

mod format;
mod recovered_run;
mod recovery;
mod writer;

pub use writer::Disk;

pub use format::{
    AttemptCost, AttemptEnd, Counts, Entry, EntryKind, FORMAT, SessionStart, SessionStop, StepId, value_of,
};
pub use recovered_run::{RecoveredRun, StepRecord};
pub use recovery::{Recovered, moment, parsed};
pub use writer::{Journal, WrapDisk};
