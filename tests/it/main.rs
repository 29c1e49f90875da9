//! Owns the list of integration tests: one binary, so that the heavy dependencies are linked once.
//! Must not know: how anything is done.

mod engine;
mod parity;
