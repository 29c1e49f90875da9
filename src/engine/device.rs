//! Owns the choice of the machine that a checkpoint runs on, and what is said where it cannot.
//! Must not know: text, templates, experiments.

use std::{
    sync::{Arc, Mutex, mpsc},
    thread::available_parallelism,
};

use tiltmeter_kernels::Pool;

use super::{
    batcher::Limits,
    config::ModelConfig,
    eager::{Eager, Precision},
    local::EngineOptions,
    machine::{Cpu, MachineFacts, free_memory},
    models::Decoder,
    thread::{self, Job},
    weights::Weights,
};
use crate::model::Work;
use crate::problem::Problem;

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

type Started = Result<(mpsc::Sender<Job>, MachineFacts), Problem>;

/// Loads a model where `options` says and serves it on a thread of its own.
pub fn start(
    config: ModelConfig,
    weights: Weights,
    options: &EngineOptions,
    limits: Limits,
    work: Arc<Mutex<Work>>,
) -> Started {
    let asked_for_eager = options.eager || std::env::var("TILTMETER_ENGINE").is_ok_and(|engine| engine == "eager");
    match options.device {
        Device::Auto | Device::Cpu if asked_for_eager => start_eager(config, weights, *options, limits, work),
        Device::Auto | Device::Cpu => start_cpu(config, weights, *options, limits, work),
        Device::Cuda(_) => Err(Problem::new("this build has no GPU engine").hint("use --device cpu")),
    }
}

fn start_cpu(
    config: ModelConfig,
    weights: Weights,
    options: EngineOptions,
    limits: Limits,
    work: Arc<Mutex<Work>>,
) -> Started {
    thread::start(limits, work, move || {
        let dtype = weights.dtype_of("model.norm.weight").unwrap_or("f32");
        let pool = Arc::new(Pool::new(options.threads.unwrap_or_else(cores)));
        Ok(Cpu::new(Decoder::load(config, &weights, pool)?, dtype, options.kv_bytes))
    })
}

/// The plain way, on the CPU.
fn start_eager(
    config: ModelConfig,
    weights: Weights,
    options: EngineOptions,
    limits: Limits,
    work: Arc<Mutex<Work>>,
) -> Started {
    thread::start(limits, work, move || {
        let precision = precision_of(&weights);
        let kv_bytes = options.kv_bytes.unwrap_or_else(|| free_memory() / 2);
        Eager::load(config, &weights, precision, candle_core::Device::Cpu, "cpu".to_owned(), kv_bytes)
    })
}

fn precision_of(weights: &Weights) -> Precision {
    match weights.dtype_of("model.norm.weight") {
        Some("bf16") => Precision::Bf16,
        Some("f16") => Precision::F16,
        _ => Precision::F32,
    }
}

pub fn cores() -> usize {
    available_parallelism().map_or(1, Into::into)
}
