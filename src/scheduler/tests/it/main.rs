//! Tests of the scheduler: the journal, rate limits, the budget.

mod breaking_disk;
mod scheduler;
mod lanes;
mod budget;
