//! Where and how a local model runs.

use tiltmeter_kernels::KvType;

use crate::checkpoint::weights::WeightType;

/// Where a local model runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Device {
    /// The first GPU if this build can use one and the machine has one, else the CPU.
    #[default]
    Auto,
    Cpu,
    /// A GPU, counted from 0 as its driver does.
    Cuda(usize),
}

/// How a checkpoint is run. Results do not depend on any of these but `device`, `weights` and `kv`.
#[derive(Clone, Copy, Debug, Default)]
pub struct EngineOptions {
    pub device: Device,
    /// `None`: the type of the checkpoint.
    pub weights: Option<WeightType>,
    /// Type of the KV cache; `None`: bf16 for bf16 weights, else f32.
    pub kv: Option<KvType>,
    /// `None`: all cores.
    pub threads: Option<usize>,
    /// Memory for keys and values; `None`: half of the free memory after loading.
    pub kv_bytes: Option<u64>,
    /// Prompt tokens of one conversation in one pass; `None`: 256 on a CPU, 512 on a GPU.
    pub prefill_chunk: Option<usize>,
    /// Turns speculative decoding off, so that speed does not depend on the text.
    pub no_speculation: bool,
    /// Runs the reference backend on candle operations: slow, and the oracle of the others. So does the environment variable
    /// `TILTMETER_ENGINE=reference`.
    pub reference: bool,
}
