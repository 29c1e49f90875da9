//! Tests that drive the whole program. What needs one crate alone is tested in that crate's `tests/`.

use std::{ffi::OsStr, process::Command};

mod tidy;

mod demo;
mod sweep;
mod report;
mod interview;
mod scenario;
mod negotiation;
mod refusals;
mod foreign_input;
#[cfg(unix)]
mod resume;
mod canaries;
#[cfg(unix)]
mod batch;
mod collect;
#[cfg(unix)]
mod crash;
#[cfg(unix)]
mod sharing;
#[cfg(target_os = "linux")]
mod cluster;

/// The program, run in the repository's root without a terminal.
fn tiltmeter<I: IntoIterator<Item: AsRef<OsStr>>>(arguments: I) -> Command {
    tiltmeter_test_support::process::command(env!("CARGO_BIN_EXE_tiltmeter"), arguments)
}
