//! Owns models on this machine: checkpoint files, text to tokens and back, the forward pass, continuous batching, the KV cache, and
//! capture in the pass that generates.
//! Must not know: experiments, run folders, YAML.

pub mod hub;
pub mod config;
pub mod tokenizer;
pub mod template;
pub mod spans;
pub mod weights;
mod ops;
mod models;
mod kv;
mod capture;
mod philox;
mod sampler;
mod sequence;
mod machine;
mod drafter;
mod eager;
mod cuda;
mod batcher;
mod thread;
mod device;
mod local;
mod bench;

pub use bench::{Bench, BenchRequest, bench};
pub use capture::RawStates;
pub use cuda::{Condition, GpuBench, GpuBenchRequest, Rollouts};
pub use device::{Device, Measured, measure_gpu, measure_on};
pub use local::{Capture, EngineOptions, LocalModel};
pub use tiltmeter_kernels::{Isa, KvType};
pub use weights::WeightType;
