//! x
pub mod problem;
pub mod model;
pub mod probe;
pub mod engine;
