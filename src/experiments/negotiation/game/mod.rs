//! The bargaining game and its measures. Nothing in it knows models or prompts.

pub mod measures;
pub mod names;
pub mod protocol;
pub mod utility;
pub mod values;

pub use measures::Measures;
pub use protocol::{Allocation, End, Event, Game, Invalid, Move, Phase, Proposal, Rules, Turn};
pub use values::TOTAL_VALUE;
