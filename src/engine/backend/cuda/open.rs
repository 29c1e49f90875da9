//! Loads a model onto a GPU: checks support and memory, and divides the rest between KV pages and activations. Too little memory for the
//! weights is an error; too little for all conversations means that fewer run at a time.

use tiltmeter_kernels::gpu::{Element, Gpu, GpuError};

use crate::{
    backend::BackendInfo,
    backend::cuda::card::CudaBackend,
    backend::cuda::draws::DrawMemory,
    backend::cuda::layers::{DeviceModel, shape_of},
    backend::cuda::memory::{Activations, KvMemory, RopeTables, divide, page_bytes},
    backend::cuda::slots::MOST_ROWS,
    backend::cuda::weights::{DeviceWeights, bytes_needed},
    checkpoint::weights::Weights,
    kv_cache::PAGE_LEN,
    options::EngineOptions,
    spec::{ArchSpec, Part},
};
use tiltmeter_model::problem::Problem;

/// A device error as a problem with a hint.
pub fn failure(error: GpuError) -> Problem {
    match error {
        GpuError::Unavailable { what, hint } => Problem::new(what).hint(format!("{hint}; --device cpu needs no GPU")),
        GpuError::OutOfMemory { .. } => Problem::new(error.to_string()).hint(
            "end what else uses the GPU (nvidia-smi lists it), take another one: --device cuda:1, or --device cpu",
        ),
        GpuError::Failed { what } => Problem::new(format!("the GPU failed: {what}")).hint(
            "run it again with --resume; if it fails at the same place, report it and use TILTMETER_ENGINE=reference",
        ),
    }
}

/// What the kernels compute beyond the basics.
const PARTS: &[Part] = &[];

/// What the kernels do not compute of a model; the reference backend may.
pub fn unsupported(config: &ArchSpec) -> Option<String> {
    if let Some(part) = config.part_beyond(PARTS) {
        return Some(format!("{part} on CUDA: not yet"));
    }
    for (what, size) in [("hidden_size", config.hidden_size), ("intermediate_size", config.intermediate_size())] {
        if size % 16 != 0 {
            return Some(format!("{what} {size} is no multiple of 16"));
        }
    }
    if config.vocab_size >= 1 << 20 {
        return Some(format!("a vocabulary of {} tokens is too large", config.vocab_size));
    }
    (0..config.num_layers()).find_map(|layer| shape_of(config, layer).unsupported())
}

/// Loads a model. `name` is the device name in records.
pub fn load(
    gpu: Gpu,
    name: String,
    config: ArchSpec,
    weights: &Weights,
    element: Element,
    options: &EngineOptions,
    most_rows: usize,
) -> Result<CudaBackend, Problem> {
    if let Some(what) = unsupported(&config) {
        return Err(Problem::new(format!("the GPU's kernels cannot compute this model: {what}"))
            .hint("use --device cpu, or candle's operations: TILTMETER_ENGINE=reference"));
    }
    fits(&gpu, &name, &config)?;
    let final_norm =
        weights.two_byte(&config.final_norm.weight_name(), &[config.hidden_size], element == Element::Bf16)?;
    let wide = |bits: u16| match element {
        Element::Bf16 => half::bf16::from_bits(bits).to_f32(),
        Element::F16 => half::f16::from_bits(bits).to_f32(),
    };
    let final_norm = final_norm.into_iter().map(wide).collect();
    let loaded = DeviceWeights::load(&gpu, &config, weights, element)?;
    allocate(gpu, name, config, loaded, final_norm, options.kv_bytes, most_rows)
}

/// A model of this shape with weights that say nothing, for measuring.
pub fn synthetic(gpu: Gpu, name: String, config: ArchSpec, most_rows: usize) -> Result<CudaBackend, Problem> {
    fits(&gpu, &name, &config)?;
    let weights = DeviceWeights::synthetic(&gpu, &config, Element::Bf16).map_err(failure)?;
    let final_norm = vec![1.0; config.hidden_size];
    allocate(gpu, name, config, weights, final_norm, None, most_rows)
}

const GIB: f64 = (1u64 << 30) as f64;

/// Refuses a model whose weights do not fit, before any of it is read.
fn fits(gpu: &Gpu, name: &str, config: &ArchSpec) -> Result<(), Problem> {
    let (free, all) = gpu.driver().memory().map_err(failure)?;
    let need = bytes_needed(config);
    if need <= free as u64 {
        return Ok(());
    }
    let [need, free, all] = [need as f64, free as f64, all as f64].map(|bytes| bytes / GIB);
    Err(Problem::new(format!("the weights need {need:.1} GiB, and of the GPU's {all:.1} GiB {free:.1} are free"))
        .at(name.to_owned())
        .hint("end what else uses the GPU (nvidia-smi lists it), take a larger one: --device cuda:1, or --device cpu"))
}

/// Everything besides the weights.
fn allocate(
    gpu: Gpu,
    name: String,
    config: ArchSpec,
    weights: DeviceWeights,
    final_norm: Vec<f32>,
    kv_bytes: Option<u64>,
    most_rows: usize,
) -> Result<CudaBackend, Problem> {
    let dtype = match weights.element {
        Element::Bf16 => "bf16",
        Element::F16 => "f16",
    };
    let most_rows = most_rows.max(MOST_ROWS);
    let ropes = RopeTables::new(&gpu, &config, config.max_positions).map_err(failure)?;
    let activations = Activations::new(&gpu, &config, most_rows, MOST_ROWS).map_err(failure)?;
    let draws = DrawMemory::new(&gpu, config.vocab_size).map_err(failure)?;
    let (free, _) = gpu.driver().memory().map_err(failure)?;
    // What grows with the longest conversation, axes, and what a driver keeps for itself.
    let reserve = reserve(&config, free as u64);
    let bytes = kv_bytes.unwrap_or_else(|| (free as u64).saturating_sub(reserve)).min(free as u64);
    let capacity = divide(&config, bytes);
    let least = page_bytes(&config);
    if (0..2).any(|pool| least[pool] > 0 && capacity.0[pool] < 2) {
        let free = free as f64 / GIB;
        return Err(Problem::new(format!(
            "beside the weights {free:.2} GiB are free, too little for any conversation"
        ))
        .at(name)
        .hint(
            "end what else uses the GPU (nvidia-smi lists it), take a larger one: --device cuda:1, or --device cpu",
        ));
    }
    let kv = KvMemory::new(&gpu, &config, capacity).map_err(failure)?;
    let facts = BackendInfo { device: name, dtype: format!("{dtype} on cuda"), kv_dtype: dtype.to_owned() };
    let model = DeviceModel { gpu, config, weights, ropes, kv, activations, draws };
    CudaBackend::new(model, capacity, most_rows, facts, final_norm).map_err(failure)
}

/// Memory that is left alone: partial results of attention and block tables of the longest conversation that can come, and a
/// fiftieth for axes and for the driver.
fn reserve(config: &ArchSpec, free: u64) -> u64 {
    let chunks = config.max_positions.div_ceil(256) as u64;
    let partials =
        MOST_ROWS as u64 * config.attention().heads as u64 * chunks * (config.attention().head_dim as u64 + 2) * 4;
    let tables = 4 * 2 * 2 * MOST_ROWS as u64 * config.max_positions.div_ceil(PAGE_LEN) as u64;
    (partials + tables).min(free / 4) + free / 50
}
