//! Loads the model of a benchmark on its device and measures the device's roofline.

use std::{path::PathBuf, sync::Arc, time::Instant};

use tiltmeter_kernels::{
    Pool,
    gpu::{Element, Gpu},
    machine,
};

use super::{Bench, BenchRequest, ROOFLINE_TIME, Roofline, measure, workload::Workload};
use crate::{
    backend::cpu::CpuBackend,
    backend::cpu::decoder::Decoder,
    backend::cuda::{self, failure},
    backend::{Backend, BackendInfo},
    batcher::Limits,
    checkpoint::hub::Checkpoint,
    checkpoint::weights::{WeightType, Weights},
    device::{CPU_CHUNK, GPU_CHUNK, cores, driver, isa},
    families::ModelConfig,
    options::{Device, EngineOptions},
};
use tiltmeter_model::input;
use tiltmeter_model::problem::Problem;

/// The model to measure.
#[derive(Clone, Debug)]
pub enum BenchModel {
    /// A folder or hub id.
    Checkpoint(String),
    /// A config.json; the weights are synthetic. GPUs only.
    Shape(PathBuf),
}

/// Loads a model on the device of `options` and measures it; `progress` receives each result as a line. Takes seconds to minutes.
///
/// # Errors
/// The checkpoint, the shape or the device cannot be used; a conversation does not fit the model's positions.
pub fn bench(
    model: &BenchModel,
    options: &EngineOptions,
    request: &BenchRequest,
    progress: &mut dyn FnMut(&str),
) -> Result<Bench, Problem> {
    match options.device {
        Device::Cuda(number) => on_gpu(number, model, options, request, progress),
        Device::Auto if driver::count() > 0 => on_gpu(0, model, options, request, progress),
        Device::Auto | Device::Cpu => on_cpu(model, options, request, progress),
    }
}

fn on_gpu(
    number: usize,
    model: &BenchModel,
    options: &EngineOptions,
    request: &BenchRequest,
    progress: &mut dyn FnMut(&str),
) -> Result<Bench, Problem> {
    let (gpu, name) = driver::open(number)?;
    bench_on(gpu, name, model, options, request, progress)
}

fn on_cpu(
    model: &BenchModel,
    options: &EngineOptions,
    request: &BenchRequest,
    progress: &mut dyn FnMut(&str),
) -> Result<Bench, Problem> {
    let isa = isa()?;
    let BenchModel::Checkpoint(name) = model else {
        return Err(
            Problem::new("--shape, whose weights are synthetic, is measured on GPUs only").hint("add --device cuda")
        );
    };
    let began = Instant::now();
    let checkpoint = Checkpoint::open(name)?;
    let config = ModelConfig::parse(&checkpoint.config, checkpoint.generation_config.as_deref())?.arch;
    let weights = Weights::open(&checkpoint.weights, options.weights, &config)?;
    let dtype = weights.dtype().to_owned();
    let kv = options.kv.unwrap_or_else(|| weights.kv_type());
    let pool = Arc::new(Pool::new(options.threads.unwrap_or_else(cores)));
    let decoder = Decoder::load(config.clone(), &weights, pool.clone())?;
    let load_s = began.elapsed().as_secs_f64();
    let roofline = Roofline {
        read_bytes_per_s: machine::read_bandwidth(&pool, ROOFLINE_TIME),
        peak_flops: Some(machine::fma_peak(&pool, ROOFLINE_TIME)),
        weight_bytes: decoder.bytes_per_weight() * config.linear_weights(),
        kv_element_bytes: kv.bytes(),
    };
    let backend = CpuBackend::new(decoder, &dtype, kv, options.kv_bytes);
    let mut bench = empty(name.clone(), backend.facts(), roofline, load_s);
    (bench.threads, bench.isa) = (Some(pool.threads()), Some(isa.name().to_owned()));
    run(backend, options.prefill_chunk.unwrap_or(CPU_CHUNK), bench, request, progress)
}

/// Measures on a given GPU or emulated device, called `name` in the results.
///
/// # Errors
/// As [`bench`].
pub fn bench_on(
    gpu: Gpu,
    name: String,
    model: &BenchModel,
    options: &EngineOptions,
    request: &BenchRequest,
    progress: &mut dyn FnMut(&str),
) -> Result<Bench, Problem> {
    let began = Instant::now();
    let (label, backend) = match model {
        BenchModel::Shape(path) => {
            let place = path.display().to_string();
            let text = input::read_text(path, input::MAX_TEXT).map_err(|error| {
                Problem::new(format!("cannot read the shape: {error}"))
                    .at(place.clone())
                    .hint("give the config.json of a checkpoint")
            })?;
            let at_path = |problem| Problem { place: Some(place.clone()), ..problem };
            let config = ModelConfig::parse(&text, None).map_err(at_path)?.arch;
            (place.clone(), cuda::synthetic(gpu.clone(), name, config, 2 * GPU_CHUNK)?)
        }
        BenchModel::Checkpoint(model) => {
            let checkpoint = Checkpoint::open(model)?;
            let config = ModelConfig::parse(&checkpoint.config, checkpoint.generation_config.as_deref())?.arch;
            let weights =
                Weights::open(&checkpoint.weights, Some(options.weights.unwrap_or(WeightType::Bf16)), &config)?;
            let backend = cuda::load(gpu.clone(), name, config, &weights, Element::Bf16, options, 2 * GPU_CHUNK)?;
            (model.clone(), backend)
        }
    };
    let load_s = began.elapsed().as_secs_f64();
    let roofline = Roofline {
        read_bytes_per_s: copy_bandwidth(&gpu)?,
        peak_flops: None,
        weight_bytes: 2 * backend.arch().linear_weights(),
        kv_element_bytes: 2,
    };
    let bench = empty(label, backend.facts(), roofline, load_s);
    progress(&format!("{}: copies {:.2} TB/s", bench.device, roofline.read_bytes_per_s / 1e12));
    run(backend, GPU_CHUNK, bench, request, progress)
}

fn run<B: Backend>(
    backend: B,
    prefill_chunk: usize,
    bench: Bench,
    request: &BenchRequest,
    progress: &mut dyn FnMut(&str),
) -> Result<Bench, Problem> {
    let positions = backend.arch().max_positions;
    let longest = request.contexts.iter().max().map_or(0, |context| context + request.steps + Workload::<B>::WARM_UP);
    if longest > positions {
        return Err(Problem::new(format!("{longest} tokens exceed the model's {positions} positions"))
            .at(bench.model)
            .hint("lower --context or --tokens"));
    }
    // Without speculation: how often drafts are right depends on the text, and the text is synthetic.
    let limits = Limits { prefill_chunk: prefill_chunk.max(1), step_tokens: 1024, draft_tokens: false };
    measure(&mut Workload::new(backend, limits), bench, request, progress)
}

fn empty(model: String, info: BackendInfo, roofline: Roofline, load_s: f64) -> Bench {
    Bench {
        model,
        device: info.device,
        dtype: info.dtype,
        kv_dtype: info.kv_dtype,
        threads: None,
        isa: None,
        load_s,
        roofline,
        prefill: None,
        decode: Vec::new(),
        capture: Vec::new(),
        independence: None,
        rollouts: None,
        left_out: Vec::new(),
    }
}

/// Bytes per second that a copy within the device reads and writes, the best of four.
fn copy_bandwidth(gpu: &Gpu) -> Result<f64, Problem> {
    let (free, _) = gpu.driver().memory().map_err(failure)?;
    let bytes = (free / 4).min(2 << 30) / 256 * 256;
    let best = || -> tiltmeter_kernels::gpu::Result<f64> {
        let [from, to] = [gpu.alloc(bytes)?, gpu.alloc(bytes)?];
        let mut best = f64::INFINITY;
        for _ in 0..4 {
            let begin = gpu.mark()?;
            from.all().copy_to(to.all())?;
            let end = gpu.mark()?;
            end.wait()?;
            best = best.min(f64::from(end.milliseconds_since(&begin)?).max(1e-6));
        }
        Ok(2.0 * bytes as f64 / best * 1e3)
    };
    best().map_err(failure)
}
