//! Owns measuring a checkpoint on this machine: what decoding and prefill take, what capture adds, beside what the machine can do at
//! best. It drives the batcher as conversations do, with tokens drawn from nowhere; nothing of the result is text.
//! Must not know: experiments, run folders, text.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use serde::Serialize;
use tiltmeter_kernels::{Pool, machine};

use crate::{
    backend::Backend,
    backend::cpu::CpuBackend,
    backend::cpu::decoder::Decoder,
    batcher::{Batcher, Limits},
    capture::Recorder,
    checkpoint::config::ModelConfig,
    checkpoint::hub::Checkpoint,
    checkpoint::weights::Weights,
    device::{cores, isa},
    local::EngineOptions,
    sequence::{SamplingParams, Sequence},
};
use tiltmeter_model::probe::{Probe, ProbePlan, Site, Span};
use tiltmeter_model::problem::Problem;
use tiltmeter_model::{ConversationId, ModelError, Sampling, SeedKey};

/// What is measured.
#[derive(Clone, Debug)]
pub struct BenchRequest {
    /// Conversations that are decoded together.
    pub batches: Vec<usize>,
    /// Tokens that each has before the first that is timed.
    pub context: usize,
    /// Tokens that each then draws.
    pub tokens: usize,
}

/// What came of it. Rates are per second; a share is of what the machine can do at best.
#[derive(Clone, Debug, Serialize)]
pub struct Bench {
    pub model: String,
    pub dtype: String,
    /// Of keys and values.
    pub kv_dtype: String,
    pub threads: usize,
    /// Instruction set of the kernels.
    pub isa: String,
    pub load_s: f64,
    /// Of the linear layers, as they are read in every step.
    pub weight_bytes: u64,
    pub read_bytes_per_s: f64,
    pub peak_flops: f64,
    pub prefill: Prefill,
    pub decode: Vec<Decode>,
    pub capture: Captured,
}

#[derive(Clone, Copy, Debug, Serialize)]
pub struct Prefill {
    pub tokens: usize,
    pub tokens_per_s: f64,
    /// Two per weight and token; attention is not counted.
    pub flops: f64,
    pub share_of_peak: f64,
}

#[derive(Clone, Copy, Debug, Serialize)]
pub struct Decode {
    pub batch: usize,
    pub context: usize,
    pub tokens_per_s: f64,
    pub step_s: f64,
    /// Weights and cached keys and values of one step, over its time.
    pub bytes_per_s: f64,
    pub share_of_read: f64,
    pub flops: f64,
    pub share_of_peak: f64,
}

/// What it costs to read `axes` axes at `sites` sites, in the largest batch.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Captured {
    pub axes: usize,
    pub sites: usize,
    pub step_s: f64,
    pub step_s_without: f64,
    /// Part of the step's time without it.
    pub overhead: f64,
}

const AXES: usize = 8;
const PREFILL_ROUNDS: usize = 6;
const CAPTURE_ROUNDS: usize = 12;
const MACHINE_TIME: Duration = Duration::from_millis(800);

/// Loads a checkpoint and measures it. Takes from seconds to minutes, by its size.
pub fn bench(name: &str, options: &EngineOptions, request: &BenchRequest) -> Result<Bench, Problem> {
    let isa = isa()?;
    let began = Instant::now();
    let checkpoint = Checkpoint::open(name)?;
    let config = ModelConfig::parse(&checkpoint.config, checkpoint.generation_config.as_deref())?;
    let longest = request.context + 2 * request.tokens + 1;
    if longest > config.max_positions {
        return Err(Problem::new(format!("{longest} tokens are more than the {} positions", config.max_positions))
            .at(name)
            .hint("lower --context or --tokens"));
    }
    let weights = Weights::open(&checkpoint.weights, options.weights)?;
    let dtype = weights.dtype_of("model.norm.weight").unwrap_or("f32").to_owned();
    let kv = options.kv.unwrap_or_else(|| weights.kv_type());
    let pool = Arc::new(Pool::new(options.threads.unwrap_or_else(cores)));
    let decoder = Decoder::load(config.clone(), &weights, pool.clone())?;
    let weight_bytes = decoder.bytes_per_weight() * config.linear_weights();
    let load_s = began.elapsed().as_secs_f64();
    let limits = Limits {
        prefill_chunk: options.prefill_chunk.unwrap_or(256).max(1),
        step_tokens: 1024,
        // Every round says the same.
        guesses: false,
    };
    let read = machine::read_bandwidth(&pool, MACHINE_TIME);
    let peak = machine::fma_peak(&pool, MACHINE_TIME);
    let machine = CpuBackend::new(decoder, &dtype, kv, options.kv_bytes);
    let mut bench =
        Running { batcher: Batcher::new(machine, limits, Arc::default()), config: &config, failed: Arc::default() };

    let weights = bench.config.linear_weights() as f64;
    let prefill_s = bench.prefill(request.context)?;
    let prefill_flops = 2.0 * (weights - bench.config.head_weights() as f64) * request.context as f64 / prefill_s;
    let mut decode = Vec::new();
    for &batch in &request.batches {
        let step_s = median(bench.decode(batch, request, false)?);
        let middle = request.context + request.tokens / 2;
        let bytes = weight_bytes as f64 + (batch as u64 * bench.config.kv_bytes_read(middle, kv.bytes())) as f64;
        let flops = 2.0 * weights * batch as f64 / step_s;
        decode.push(Decode {
            batch,
            context: request.context,
            tokens_per_s: batch as f64 / step_s,
            step_s,
            bytes_per_s: bytes / step_s,
            share_of_read: bytes / step_s / read,
            flops,
            share_of_peak: flops / peak,
        });
    }
    let largest = request.batches.iter().copied().max().unwrap_or(1);
    // In turns, so that a machine that slows down slows both; of each step its best time, since what others do on the machine is longer
    // than what is looked for; and of the steps the middle one, since some are never left alone.
    let (mut with, mut without) = (Vec::new(), Vec::new());
    for _ in 0..CAPTURE_ROUNDS {
        keep_best(&mut without, bench.decode(largest, request, false)?);
        keep_best(&mut with, bench.decode(largest, request, true)?);
    }
    let (with, without) = (median(with), median(without));
    Ok(Bench {
        model: name.to_owned(),
        dtype,
        kv_dtype: kv.name().to_owned(),
        threads: pool.threads(),
        isa: isa.name().to_owned(),
        load_s,
        weight_bytes,
        read_bytes_per_s: read,
        peak_flops: peak,
        prefill: Prefill {
            tokens: request.context,
            tokens_per_s: request.context as f64 / prefill_s,
            flops: prefill_flops,
            share_of_peak: prefill_flops / peak,
        },
        decode,
        capture: Captured {
            axes: AXES,
            sites: config.num_layers + 1,
            step_s: with,
            step_s_without: without,
            overhead: with / without - 1.0,
        },
    })
}

/// The middle one of at least one.
fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// The lesser of each step's times.
fn keep_best(best: &mut Vec<f64>, times: Vec<f64>) {
    if best.is_empty() {
        *best = times;
    } else {
        best.iter_mut().zip(times).for_each(|(best, time)| *best = best.min(time));
    }
}

struct Running<'a, M: Backend> {
    batcher: Batcher<M>,
    config: &'a ModelConfig,
    failed: Arc<Mutex<Option<Problem>>>,
}

impl<M: Backend> Running<'_, M> {
    /// Seconds of one prompt, the best of several.
    fn prefill(&mut self, tokens: usize) -> Result<f64, Problem> {
        let mut best = f64::INFINITY;
        for n in 0..PREFILL_ROUNDS {
            self.submit(n, tokens, 0, None, None);
            best = best.min(self.drain()?);
        }
        Ok(best)
    }

    /// Seconds of each decoding step; at least one. Prompts are prefilled once, and kept for the next time.
    fn decode(&mut self, batch: usize, request: &BenchRequest, captured: bool) -> Result<Vec<f64>, Problem> {
        let plan = captured.then(|| Arc::new(plan(self.config)));
        for n in 0..batch {
            let conversation = Some(ConversationId(n as u64));
            self.submit(n, request.context, request.tokens + 1, conversation, plan.clone());
        }
        // Until every prompt is fed and its first token drawn, steps are no decoding steps.
        let first_tokens = self.batcher.work().generated_tokens + batch as u64;
        while self.batcher.is_busy() && self.batcher.work().generated_tokens < first_tokens {
            self.batcher.step()?;
        }
        let mut steps = Vec::new();
        while self.batcher.is_busy() {
            let drawn = self.batcher.work().generated_tokens;
            let began = Instant::now();
            self.batcher.step()?;
            // Steps in which some have come to their end already say nothing of the whole batch.
            if self.batcher.work().generated_tokens - drawn == batch as u64 {
                steps.push(began.elapsed().as_secs_f64());
            }
        }
        self.check()?;
        if steps.is_empty() {
            return Err(Problem::new(format!("{batch} conversations do not fit the cache together"))
                .hint("give the cache more memory, or measure smaller batches: --batch 1,4"));
        }
        Ok(steps)
    }

    fn drain(&mut self) -> Result<f64, Problem> {
        let began = Instant::now();
        while self.batcher.is_busy() {
            self.batcher.step()?;
        }
        self.check()?;
        Ok(began.elapsed().as_secs_f64())
    }

    fn submit(
        &mut self,
        number: usize,
        prompt: usize,
        draws: usize,
        conversation: Option<ConversationId>,
        plan: Option<Arc<ProbePlan>>,
    ) {
        // Tokens all over the vocabulary, other ones in every conversation.
        let vocab = self.config.vocab_size as u64;
        let token = |i: usize| ((i as u64 * 7919 + number as u64 * 104_729) % vocab) as u32;
        let failed = self.failed.clone();
        let answer = Box::new(move |result: Result<_, ModelError>| {
            if let (Err(error), Ok(mut failed)) = (result, failed.lock()) {
                *failed = Some(error.problem());
            }
        });
        let drawing = SamplingParams {
            sampling: Sampling { temperature: 1.0, ..Sampling::default() },
            seed: SeedKey { key: number as u64, stream: 0 },
            max_new_tokens: draws,
            stop_ids: Vec::new(),
        };
        let mut sequence = Sequence::new((0..prompt).map(token).collect(), Some(drawing), answer);
        sequence.conversation = conversation;
        let replies = prompt..usize::MAX;
        sequence.recorder = plan.map(|plan| Recorder::new(plan, [replies].into()));
        self.batcher.submit(sequence);
    }

    fn check(&self) -> Result<(), Problem> {
        match self.failed.lock().ok().and_then(|mut failed| failed.take()) {
            Some(problem) => Err(problem),
            None => Ok(()),
        }
    }
}

/// Some directions at every site of the residual stream.
fn plan(config: &ModelConfig) -> ProbePlan {
    let sites = (0..config.num_layers).map(Site::BlockOut).chain([Site::Embed]);
    let unit = |n: usize| -> Vec<f32> {
        let values: Vec<f32> = (0..config.hidden_size).map(|i| ((i * (n + 3)) % 17) as f32 - 8.0).collect();
        let norm = values.iter().map(|v| v * v).sum::<f32>().sqrt();
        values.into_iter().map(|v| v / norm).collect()
    };
    let axes: Vec<Vec<f32>> = (0..AXES).map(unit).collect();
    let probe = |site: Site| {
        axes.iter().enumerate().map(move |(n, unit)| Probe { name: format!("axis {n}"), site, unit: unit.clone() })
    };
    ProbePlan { probes: sites.flat_map(probe).collect(), span: Span::Content, vectors: Vec::new() }
}
