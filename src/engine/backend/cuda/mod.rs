//! The CUDA backend: memory layout and launches. It runs on any driver of the kernels: a GPU, or the emulated device in tests.

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
