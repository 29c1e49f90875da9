//! Tests of the experiment files and of what each kind plans and runs.

mod spec;
mod transcript;
mod interview;
mod negotiation;
mod scenario;
