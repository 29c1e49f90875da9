//! Runs language models on this machine: [`LocalModel`] implements the `Model` port with continuous batching and capture.
//!
//! | file | |
//! |---|---|
//! | `families/` | one file a family: config.json -> [`spec::ArchSpec`] and tensor names. A new family goes here, with a row in `mod.rs` |
//! | `spec.rs` | architecture as data: norms, attention, RoPE with its scaling (YaRN, Llama 3), sliding windows, MLP |
//! | `backend/` | trait `Backend` and its three interpreters of a spec: `cpu/`, `cuda/`, and `reference/` in candle operations |
//! | `batcher.rs` | continuous batching: admission, chunked prefill, preemption, prefix caching (what a new prompt takes over from others) |
//! | `sequence.rs` | one request: its tokens, sampling parameters, finish reason |
//! | `kv_cache.rs` | paged KV cache of the CPU: allocation, truncation, eviction of positions that left the sliding window |
//! | `speculative.rs` | n-gram speculative decoding: draft tokens from earlier text, accepted or rejected in one pass |
//! | `sampling.rs`, `philox.rs` | temperature, top-k, top-p; the counter-based generator |
//! | `capture.rs` | projections and hidden states, read in the generating pass |
//! | `checkpoint/` | hub download, weights, tokenizer, chat template rendering, spans of turns |
//! | `bench/` | one benchmark over every backend |
//!
//! No row's bits depend on another row: not on the batch, the order, prefill chunks, threads, draft tokens or a preemption. No tensor of a
//! checkpoint is ignored silently: it is read or refused by name. No backend starts a model that it cannot compute. No prompt is
//! truncated: one that does not fit is an error before anything runs.

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
mod options;
mod philox;
mod sampling;
mod sequence;
mod speculative;
mod thread;

pub use bench::{Bench, BenchModel, BenchRequest, Condition, Rollouts, bench, bench_on};
pub use capture::RawStates;
pub use checkpoint::weights::WeightType;
pub use local::{Capture, LocalModel};
pub use options::{Device, EngineOptions};
pub use tiltmeter_kernels::{Isa, KvType};
