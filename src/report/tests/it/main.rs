//! Tests of the statistics, plots and pages.

mod stats;
mod report;
mod distribution;
mod response;
