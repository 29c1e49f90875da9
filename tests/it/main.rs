//! Owns the list of integration tests: one binary, so that the heavy dependencies are linked once.
//! Must not know: how anything is done.

// The house, and what a person writes.
mod tidy;
mod spec;
mod transcript;

// What the engine reads, and the engine against its oracles.
mod axis;
mod sweep;
mod template;
mod parity;
mod candle_peer;
mod engine;
mod bitwise;
mod gpu;

// Models behind an API, and the server that goes wrong for them.
mod faults;
mod provider;
mod fake_hub;
mod dataset;

// Runs, records, numbers.
mod breaking_disk;
mod scheduler;
mod lanes;
mod budget;
mod stats;
mod report;
mod distribution;
mod response;

// The program as a person meets it: a process, its words, its files.
mod program;
mod demo;
mod interview;
mod scenario;
mod negotiation;
mod refusals;
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
