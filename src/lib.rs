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

pub use tiltmeter_axis_formats as axis_formats;
pub use tiltmeter_dataset as dataset;
pub use tiltmeter_engine as engine;
pub use tiltmeter_experiments as experiment;
pub use tiltmeter_experiments::config as spec;
pub use tiltmeter_model as model;
pub use tiltmeter_model::{failure, probe, problem, secret};
pub use tiltmeter_providers as provider;
pub use tiltmeter_report as report;
pub use tiltmeter_report::{plot, stats};
pub use tiltmeter_scheduler as scheduler;
pub use tiltmeter_store as record;

pub mod registry;
pub mod cluster;
pub mod session;
pub mod cli;
