//! `tiltmeter report` on a run folder.

mod distribution;
mod response;
