//! Owns models on this machine: checkpoint files, text to tokens and back, the forward pass, continuous batching, the KV cache, and
//! capture in the pass that generates.
//! Must not know: experiments, run folders, YAML.

pub mod checkpoint;
pub mod families;
pub mod spec;

mod backend;
mod batcher;
mod bench;
mod capture;
mod device;
mod kv_cache;
mod local;
mod philox;
mod sampling;
mod sequence;
mod speculative;
mod thread;

pub use bench::{Bench, BenchModel, BenchRequest, Condition, Rollouts, bench, bench_on};
pub use capture::RawStates;
pub use checkpoint::weights::WeightType;
pub use device::Device;
pub use local::{Capture, EngineOptions, LocalModel};
pub use tiltmeter_kernels::{Isa, KvType};
