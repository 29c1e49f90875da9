//! Scenario batches run by the program.

#[cfg(unix)]
mod guide;
mod local;
