//! Owns models on this machine: checkpoint files, text to tokens and back, the forward pass, continuous batching, the KV cache, and
//! capture in the pass that generates.
//! Must not know: experiments, run folders, YAML.

pub mod checkpoint;

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

pub use backend::cuda::{Condition, GpuBench, GpuBenchRequest, Rollouts};
pub use bench::{Bench, BenchRequest, bench};
pub use capture::RawStates;
pub use checkpoint::weights::WeightType;
pub use device::{Device, Measured, measure_gpu, measure_on};
pub use local::{Capture, EngineOptions, LocalModel};
pub use tiltmeter_kernels::{Isa, KvType};
