//! Chooses the backend of a checkpoint from options and environment, and starts it.

use std::{
    sync::{Arc, Mutex, mpsc},
    thread::available_parallelism,
};

use tiltmeter_kernels::{
    Isa, Pool,
    gpu::{Element, Gpu},
};

use crate::{
    backend::cpu::CpuBackend,
    backend::cpu::decoder::Decoder,
    backend::cuda,
    backend::reference::{Precision, ReferenceBackend},
    backend::{BackendInfo, free_memory},
    batcher::{Limits, Notes},
    checkpoint::weights::{WeightType, Weights},
    options::{Device, EngineOptions},
    spec::ArchSpec,
    thread::{self, Job},
};
use tiltmeter_model::EngineStats;
use tiltmeter_model::problem::Problem;

/// Everything needed to load a backend.
pub struct LoadRequest {
    pub arch: ArchSpec,
    pub weights: Weights,
    pub options: EngineOptions,
    pub work: Arc<Mutex<EngineStats>>,
    pub notes: Notes,
}

pub type Started = Result<(mpsc::Sender<Job>, BackendInfo), Problem>;

impl LoadRequest {
    /// Whether the reference backend is requested, by option or environment.
    fn reference(&self) -> Result<bool, Problem> {
        match std::env::var("TILTMETER_ENGINE").as_deref() {
            Err(_) | Ok("") => Ok(self.options.reference),
            Ok("reference") => Ok(true),
            Ok(other) => Err(Problem::new(format!("TILTMETER_ENGINE={other}: no such engine"))
                .at("the environment")
                .hint("unset it, or set it to `reference` for the reference backend")),
        }
    }

    fn limits(&self, prefill_chunk: usize) -> Limits {
        let step_tokens = 2 * prefill_chunk;
        Limits {
            prefill_chunk: self.options.prefill_chunk.unwrap_or(prefill_chunk).max(1),
            step_tokens,
            draft_tokens: !self.options.no_speculation,
        }
    }

    fn precision(&self) -> Precision {
        match self.weights.dtype() {
            "bf16" => Precision::Bf16,
            "f16" => Precision::F16,
            _ => Precision::F32,
        }
    }
}

/// Prompt tokens of one sequence in one pass, which takes twice as many of all sequences together.
pub const CPU_CHUNK: usize = 256;
pub const GPU_CHUNK: usize = 512;

/// Loads a model on its device and serves it on a new thread.
pub fn start(order: LoadRequest) -> Started {
    match order.options.device {
        Device::Cuda(number) => start_on_gpu(order, number),
        Device::Auto if driver::count() > 0 => start_on_gpu(order, 0),
        Device::Auto | Device::Cpu => start_on_cpu(order),
    }
}

fn start_on_cpu(order: LoadRequest) -> Started {
    let isa = isa()?;
    let (limits, work, notes) = (order.limits(CPU_CHUNK), order.work.clone(), order.notes.clone());
    if order.reference()? {
        return thread::start(limits, work, notes, move || {
            let kv_bytes = order.options.kv_bytes.unwrap_or_else(|| free_memory() / 2);
            let precision = order.precision();
            let (cpu, name) = (candle_core::Device::Cpu, "cpu".to_owned());
            ReferenceBackend::load(order.arch, &order.weights, precision, cpu, name, kv_bytes)
        });
    }
    thread::start(limits, work, notes, move || {
        let dtype = match (order.weights.dtype(), isa) {
            // Its bits differ from the other tiers'.
            ("bf16", Isa::Amx) => "bf16 on amx",
            (dtype, _) => dtype,
        };
        let kv = order.options.kv.unwrap_or_else(|| order.weights.kv_type());
        let pool = Arc::new(Pool::new(order.options.threads.unwrap_or_else(cores)));
        Ok(CpuBackend::new(Decoder::load(order.arch, &order.weights, pool)?, dtype, kv, order.options.kv_bytes))
    })
}

fn start_on_gpu(order: LoadRequest, number: usize) -> Started {
    // f32 weights and shapes that the kernels do not know are candle's.
    let unsupported = match (order.reference()?, cuda::unsupported(&order.arch)) {
        (true, _) => Some("TILTMETER_ENGINE=reference asks for candle's operations".to_owned()),
        _ if order.options.weights == Some(WeightType::F32) => {
            Some("f32 is requested, but the GPU kernels support bf16 and f16".to_owned())
        }
        (_, unsupported) => unsupported.map(|what| format!("the GPU's kernels do not know {what}")),
    };
    if let Some(why) = unsupported {
        let (limits, work, notes) = (order.limits(GPU_CHUNK), order.work.clone(), order.notes.clone());
        return thread::start(limits, work, notes, move || {
            let (gpu, name) = driver::open(number)?;
            let (free, _) = gpu.driver().memory().map_err(cuda::failure)?;
            let device = driver::candle(number).map_err(|problem| {
                let what = format!("{why}, and {}", problem.what);
                Problem { what, ..problem }
            })?;
            let precision = order.precision();
            let weights = cuda::weight_bytes(&order.arch) / 2 * precision.bytes() as u64;
            let kv_bytes = order.options.kv_bytes.unwrap_or_else(|| (free as u64).saturating_sub(weights) / 2);
            ReferenceBackend::load(order.arch, &order.weights, precision, device, name, kv_bytes)
        });
    }
    start_on(order, move || driver::open(number))
}

/// Serves a model by our own kernels on whatever device `open` gives, which is asked on the engine's thread.
pub fn start_on(order: LoadRequest, open: impl FnOnce() -> Result<(Gpu, String), Problem> + Send + 'static) -> Started {
    let (limits, work, notes) = (order.limits(GPU_CHUNK), order.work.clone(), order.notes.clone());
    thread::start(limits, work, notes, move || {
        let element = match order.precision() {
            Precision::Bf16 => Element::Bf16,
            Precision::F16 => Element::F16,
            Precision::F32 if order.options.weights == Some(WeightType::F32) => {
                return Err(Problem::new("f32 is requested, but the GPU kernels support bf16 and f16")
                    .hint("leave --dtype f32 out, or use --device cpu"));
            }
            Precision::F32 => {
                if let Ok(mut notes) = order.notes.lock() {
                    notes.push("the weights are f32; the GPU holds them in bf16".to_owned());
                }
                Element::Bf16
            }
        };
        let (gpu, name) = open()?;
        cuda::load(gpu, name, order.arch, &order.weights, element, &order.options, 2 * GPU_CHUNK)
    })
}

/// The instruction set of the kernels of the processor.
pub fn isa() -> Result<Isa, Problem> {
    Isa::wished().map_err(|what| {
        Problem::new(what)
            .at("the environment")
            .hint("unset TILTMETER_ISA to use the fastest set whose results are the same everywhere")
    })
}

pub fn cores() -> usize {
    available_parallelism().map_or(1, Into::into)
}

/// GPUs of this machine.
#[cfg(feature = "cuda")]
pub mod driver {
    use tiltmeter_kernels::gpu::{Gpu, cuda::Cuda};

    use crate::backend::cuda::failure;
    use tiltmeter_model::problem::Problem;

    pub fn count() -> usize {
        Cuda::count()
    }

    /// A GPU and its name in records.
    pub fn open(number: usize) -> Result<(Gpu, String), Problem> {
        let gpu = Gpu::new(Cuda::open(number).map_err(failure)?);
        let name = format!("cuda:{number} ({})", gpu.driver().name());
        Ok((gpu, name))
    }

    #[cfg(feature = "cuda-candle")]
    pub fn candle(number: usize) -> Result<candle_core::Device, Problem> {
        candle_core::Device::new_cuda(number)
            .map_err(|error| Problem::new(format!("the GPU cannot be used: {error}")).hint("use --device cpu"))
    }

    #[cfg(not(feature = "cuda-candle"))]
    pub fn candle(_number: usize) -> Result<candle_core::Device, Problem> {
        Err(Problem::new("candle's operations are not in this build's GPU engine")
            .hint("build it with them: cargo build --release --features cuda-candle; or use --device cpu"))
    }
}

/// A build that has no GPU engine.
#[cfg(not(feature = "cuda"))]
pub mod driver {
    use tiltmeter_kernels::gpu::Gpu;

    use tiltmeter_model::problem::Problem;

    pub fn count() -> usize {
        0
    }

    pub fn open(number: usize) -> Result<(Gpu, String), Problem> {
        Err(none(number))
    }

    pub fn candle(number: usize) -> Result<candle_core::Device, Problem> {
        Err(none(number))
    }

    fn none(number: usize) -> Problem {
        Problem::new(format!("cuda:{number} is requested, but this build of tiltmeter has no CUDA support")).hint(
            "build it with one: cargo build --release --features cuda (CUDA 13's nvcc must be on the PATH); or use --device cpu",
        )
    }
}
