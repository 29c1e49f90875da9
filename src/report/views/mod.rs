//! What a report shows of an experiment: trajectories over turns, distributions of labels, responses to a factor.
//!
//! The three views have the same modules: `mod` (the data and their checks), `analysis`, `tables`, `figure`, `section` (of the report).

pub mod distribution;
pub mod response;
pub mod trajectory;
