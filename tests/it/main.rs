//! Owns the list of integration tests: one binary, so that the heavy dependencies are linked once.
//! Must not know: how anything is done.

// The house, and what a person writes.
mod tidy;
mod spec;
mod transcript;

// The engine against its oracles.
mod parity;
mod engine;

// Runs, records, numbers.
mod scheduler;
mod stats;
mod report;
