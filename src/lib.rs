//! tiltmeter measures how far a language model tilts from an axis in its own activation space.
//!
//! Data flows one way:
//!
//! ```text
//! cli -> session -> spec -> experiment -> scheduler -> record -> report -> images/, data/runs/
//!           |                    |                                 |
//!        registry          model (the port)                  stats, plot
//!           |                    |
//!     engine, provider  ----------  implement the port, and do not know each other
//!         |
//!      kernels
//! ```
//!
//! An experiment is a list of runs. A run touches the world only through numbered steps, each in the journal before the next
//! begins, so that whatever stops the program, `--resume` goes on in mid-conversation and comes to the same end. A local model
//! answers a step by generating one reply; the hidden states of its tokens are projected in the pass that generates them. No result
//! depends on what else runs: rows of a batch are computed independently, tokens are drawn from a counter-based generator.
//!
//! Which room may know which is a table in `tests/it/tidy.rs`; a new arrow is a line there.
//!
//! Must not know: nothing; it only lists the rooms.

// What went wrong, in the user's terms.
pub mod problem;
// What a failed call means for a retry.
pub mod failure;
// Keys, and texts without them.
pub mod secret;

// The words everything else is said in: chat, and what is read from hidden states.
pub mod model;
pub mod probe;

// What an experiment is written in.
pub mod spec;

// What is run, how it is run, and what stays of it.
pub mod experiment;
pub mod scheduler;
pub mod record;
pub mod dataset;

// What it means.
pub mod stats;
pub mod plot;
pub mod report;

// Models on this machine, models behind an API, and the way from a name to a model.
pub mod engine;
pub mod provider;
pub mod registry;

// Where one machine is outgrown.
pub mod cluster;

// One sitting, and its command line.
pub mod session;
pub mod cli;
