//! Measures a model on a backend: prefill, decode steps beside the bytes they must read, the cost of capture, bit-independence, and
//! whole rollouts. Drives the batcher as conversations do, with synthetic tokens, so that one benchmark serves every backend.

mod load;
mod rollouts;
mod workload;

use std::time::{Duration, Instant};

use serde::Serialize;

use crate::backend::Backend;
use tiltmeter_model::problem::Problem;

pub use load::{BenchModel, bench, bench_on};
pub use rollouts::{Condition, Independence, Rollouts, RolloutsRow};
use workload::Workload;

/// What to measure.
#[derive(Clone, Debug, Default)]
pub struct BenchRequest {
    /// Numbers of conversations decoded together.
    pub batches: Vec<usize>,
    /// Tokens that each conversation holds before the first timed step. Prefill is timed with the longest.
    pub contexts: Vec<usize>,
    /// Timed decode steps.
    pub steps: usize,
    /// Axes, and the number of sites that each is projected at.
    pub captures: Vec<(usize, usize)>,
    /// Conversations to compare, bit by bit, with themselves run alone; 0 for none.
    pub compared: usize,
    pub rollouts: Option<Rollouts>,
}

/// What the hardware can do at best, and what a step must read.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Roofline {
    /// Measured memory bandwidth in bytes per second: reads on a CPU, copies (bytes read and written) within a GPU.
    pub read_bytes_per_s: f64,
    /// Measured peak of multiply-adds, two operations each; not measured on GPUs.
    pub peak_flops: Option<f64>,
    /// Bytes of the linear layers, read in every step.
    pub weight_bytes: u64,
    /// Bytes of one element of the KV cache.
    #[serde(skip)]
    pub kv_element_bytes: usize,
}

/// The measurements. Times are in milliseconds, rates per second, shares relative to the roofline.
#[derive(Clone, Debug, Serialize)]
pub struct Bench {
    pub model: String,
    pub device: String,
    pub dtype: String,
    pub kv_dtype: String,
    /// CPU threads; none on a GPU.
    pub threads: Option<usize>,
    /// Instruction set of the CPU kernels; none on a GPU.
    pub isa: Option<String>,
    pub load_s: f64,
    #[serde(flatten)]
    pub roofline: Roofline,
    pub prefill: Option<Prefill>,
    pub decode: Vec<Decode>,
    pub capture: Vec<Captured>,
    pub independence: Option<Independence>,
    pub rollouts: Option<RolloutsRow>,
    /// Measurements left out because the KV cache is too small for them.
    pub left_out: Vec<String>,
}

#[derive(Clone, Copy, Debug, Serialize)]
pub struct Prefill {
    pub tokens: usize,
    pub tokens_per_s: f64,
    /// Two per weight and token, without attention and the output head.
    pub flops: f64,
    pub share_of_peak: Option<f64>,
}

#[derive(Clone, Copy, Debug, Serialize)]
pub struct Decode {
    pub batch: usize,
    pub context: usize,
    pub step_ms: f64,
    pub tokens_per_s: f64,
    /// Weights and cached keys and values of one step at the measured bandwidth.
    pub floor_ms: f64,
    pub share_of_floor: f64,
    pub flops: f64,
    pub share_of_peak: Option<f64>,
}

/// The cost of projecting on `axes` axes at each of `sites` sites.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Captured {
    pub axes: usize,
    pub sites: usize,
    pub batch: usize,
    pub context: usize,
    pub step_ms: f64,
    pub step_ms_without: f64,
    /// Relative to the step without capture.
    pub overhead: f64,
}

const PREFILL_ROUNDS: usize = 6;
const CAPTURE_ROUNDS: usize = 12;
/// How long each part of the roofline is measured.
const ROOFLINE_TIME: Duration = Duration::from_millis(800);

/// Runs all measurements of `request` and reports each through `progress`; `bench` arrives with what loading established.
fn measure<B: Backend>(
    workload: &mut Workload<B>,
    mut bench: Bench,
    request: &BenchRequest,
    progress: &mut dyn FnMut(&str),
) -> Result<Bench, Problem> {
    let Roofline { read_bytes_per_s, peak_flops, weight_bytes, kv_element_bytes } = bench.roofline;
    let config = workload.config().clone();
    let weights = config.linear_weights() as f64;
    if let Some(tokens) = request.contexts.iter().copied().max() {
        let seconds = prefill_seconds(workload, tokens)?;
        let flops = 2.0 * (weights - config.head_weights() as f64) * tokens as f64 / seconds;
        let tokens_per_s = tokens as f64 / seconds;
        progress(&format!("prefill of {tokens}: {tokens_per_s:.0} tokens/s, {:.2} TFLOP/s", flops / 1e12));
        bench.prefill =
            Some(Prefill { tokens, tokens_per_s, flops, share_of_peak: peak_flops.map(|peak| flops / peak) });
    }
    for &context in &request.contexts {
        for &batch in &request.batches {
            if !workload.fits(batch, context, request.steps) {
                bench.left_out.push(format!("{batch} conversations of {context} tokens do not fit the KV cache"));
                continue;
            }
            let step_s = median(workload.decode(batch, context, request.steps, None)?);
            let keys = context + request.steps / 2;
            let bytes = (weight_bytes + batch as u64 * config.kv_bytes_read(keys, kv_element_bytes)) as f64;
            let floor_s = bytes / read_bytes_per_s;
            let flops = 2.0 * weights * batch as f64 / step_s;
            let share_of_floor = floor_s / step_s;
            progress(&format!(
                "decode x{batch} at {context}: {:.3} ms, {:.0} % of the floor",
                1e3 * step_s,
                100.0 * share_of_floor
            ));
            bench.decode.push(Decode {
                batch,
                context,
                step_ms: 1e3 * step_s,
                tokens_per_s: batch as f64 / step_s,
                floor_ms: 1e3 * floor_s,
                share_of_floor,
                flops,
                share_of_peak: peak_flops.map(|peak| flops / peak),
            });
        }
    }
    if let Some(context) = request.contexts.iter().copied().min() {
        let fitting =
            request.batches.iter().copied().filter(|&batch| workload.fits(batch, context, request.steps)).max();
        for &(axes, sites) in fitting.iter().flat_map(|_| &request.captures) {
            let row = capture_cost(workload, axes, sites, fitting.unwrap_or(1), context, request.steps)?;
            progress(&format!("capture of {axes} axes at {} sites: {:+.2} %", row.sites, 100.0 * row.overhead));
            bench.capture.push(row);
        }
    }
    workload.close();
    if request.compared > 0 {
        let together = request.batches.iter().copied().max().unwrap_or(1);
        let row = rollouts::independence(workload, together, request.compared, request.steps.max(8))?;
        progress(&format!(
            "{} of {} tokens differ between alone and among {}",
            row.differing_tokens, row.tokens, row.together
        ));
        bench.independence = Some(row);
    }
    if let Some(rollouts) = &request.rollouts {
        let row = rollouts::rollouts(workload, rollouts)?;
        progress(&format!(
            "{} tokens of {} conversations: {:.1} s",
            row.generated_tokens, row.conversations, row.seconds
        ));
        bench.rollouts = Some(row);
    }
    Ok(bench)
}

/// Seconds of one prompt, the best of several that share no prefix.
fn prefill_seconds<B: Backend>(workload: &mut Workload<B>, tokens: usize) -> Result<f64, Problem> {
    let mut best = f64::INFINITY;
    for _ in 0..PREFILL_ROUNDS {
        let prompt = workload.fresh_prompt(tokens);
        workload.submit(0, prompt, 1, None, None);
        let began = Instant::now();
        workload.drain()?;
        best = best.min(began.elapsed().as_secs_f64());
    }
    Ok(best)
}

fn capture_cost<B: Backend>(
    workload: &mut Workload<B>,
    axes: usize,
    sites: usize,
    batch: usize,
    context: usize,
    steps: usize,
) -> Result<Captured, Problem> {
    let plan = workload.probe_plan(axes, sites);
    // Alternating, so that a change of the machine's speed affects both. Each step keeps its best time, since interference lasts longer
    // than the difference in question; the median step counts, since some steps are never undisturbed.
    let (mut with, mut without) = (Vec::new(), Vec::new());
    for _ in 0..CAPTURE_ROUNDS {
        keep_best(&mut without, workload.decode(batch, context, steps, None)?);
        keep_best(&mut with, workload.decode(batch, context, steps, Some(plan.clone()))?);
    }
    let (step_ms, step_ms_without) = (1e3 * median(with), 1e3 * median(without));
    let sites = plan.probes.len() / axes.max(1);
    Ok(Captured { axes, sites, batch, context, step_ms, step_ms_without, overhead: step_ms / step_ms_without - 1.0 })
}

/// The median of a non-empty list.
fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// Keeps the minimum of each step's times.
fn keep_best(best: &mut Vec<f64>, times: Vec<f64>) {
    if best.is_empty() {
        *best = times;
    } else {
        best.iter_mut().zip(times).for_each(|(best, time)| *best = best.min(time));
    }
}
