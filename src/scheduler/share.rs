//! Owns what a schedule asks for where several processes carry out one plan: which runs are its own, and how much of the money.
//! Must not know: who the others are, and how they come to terms.

use std::fmt::Debug;

use crate::problem::Problem;

/// Runs that several processes take from one list.
pub trait Claims: Send + Sync {
    /// Whether the run is this process's to carry out: asked just before it begins. What was once taken by one stays with it.
    fn take(&self, run: &str) -> Result<bool, Problem>;
}

/// This process's part of a limit that several share, in micro-dollars. All parts and what nobody has are together the limit, at every
/// instant and whoever is killed.
pub trait Purse: Send + Sync + Debug {
    /// What is in it, spent money included.
    fn held(&self) -> Result<u64, Problem>;

    /// Takes more until there is as much in it as this, if there is as much to be had; else nothing. What is in it then.
    fn fill(&self, to: u64) -> Result<u64, Problem>;

    /// Leaves to others what is in it beyond this. Not asked before what was spent is durable.
    fn leave(&self, spent: u64) -> Result<(), Problem>;
}
