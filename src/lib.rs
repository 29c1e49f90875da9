//! tiltmeter measures how far a language model tilts from an axis in its activation space.
//!
//! ```text
//! cli -> session -> experiments -> scheduler -> store
//!           |            |  \-> report (stats, plot)
//!        registry      model (the port)
//!         /    \         ^
//!     engine  providers -/      engine -> kernels
//! ```
//!
//! An experiment is a list of runs. A run acts only through numbered steps; each step is in the journal before the next begins, so an
//! interrupted run resumes in mid-conversation and ends with the same result. A local model generates one reply a step, and the pass
//! that generates a token also projects its hidden state. Every file of a run folder follows from its plan and journal.
//!
//! This crate has the program (`cli`), the flow from file to report (`session`), Slurm (`cluster`) and the opening of models by name
//! (`registry`); every other part is a crate below `src/` with its own map in its `lib.rs`.
//!
//! Invariants: only `cli` prints; engine and providers do not depend on each other; no result depends on the other rows of a batch.

pub mod registry;
pub mod cluster;
pub mod session;
pub mod cli;
