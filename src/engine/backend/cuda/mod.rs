//! Owns the engine on a GPU: what lies where in its memory, and how a pass is made of launches. It runs over any driver of the kernels:
//! a GPU's, or the one that carries kernels out on this computer, in tests.
//! Must not know: text, experiments, how a kernel computes.

mod pages;
mod slots;
mod probes;
mod input;
mod outcome;
mod draws;
mod weights;
mod memory;
mod layers;
mod card;
mod pass;
mod open;

pub use open::{failure, load, synthetic, unsupported};
pub use weights::bytes_needed as weight_bytes;
