//! The kernels under the engine: linear layers, attention over pages, norms, rotary positions, gated activations.
//!
//! One contract holds for all of them, **bitwise independence**: the bits of an output row depend only on that row's
//! input (and, for attention, on the keys and values that it sees) and on the weights. They do not depend on how many
//! rows are computed together, on a row's place among them, on the number of threads, on how a prompt is cut into
//! chunks, nor on the instruction set. So batching, chunked prefill and the machine are speed decisions alone, and a
//! run can be repeated to the bit. The contract is for finite numbers: which NaN a NaN is may differ.
//!
//! Each kernel is written once, over sixteen abstract lanes, and compiled for every instruction set; each has a plain
//! f64 counterpart in [`mod@reference`].
//!
//! On a GPU the same contract holds for the kernels of [`mod@gpu`].

#![allow(clippy::excessive_precision, reason = "constants are given to the last digit of their f32 value")]

// What the others stand on: instruction sets, lanes, memory, threads.
mod isa;
mod lanes;
mod memory;
mod pool;

// The kernels, in the order of a forward pass.
mod rows;
mod linear;
mod rope;
mod attention;

pub mod machine;
pub mod reference;

// The same for a GPU.
pub mod gpu;

#[cfg(test)]
mod testing;

pub use attention::{AttentionJob, AttentionShape, KvPage, KvPages, KvType, KvWrite, PageShape, attention, write_kv};
pub use isa::Isa;
pub use linear::{PackedLinear, forward_each};
pub use pool::Pool;
pub use rope::rope;
pub use rows::{add, add_rms_norm, dot, rms_norm, swiglu};
