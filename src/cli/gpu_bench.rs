//! Owns `bench` on a GPU: its table.
//! Must not know: inference, HTTP.

use std::{fs, path::Path};

use super::{
    Exit, Failure,
    bench::BenchArgs,
    terminal::{escape, stderr, stdout},
};
use crate::session::{self, EngineOptions, GpuBench, GpuBenchRequest, Measured, Rollouts, WeightType};
use tiltmeter_model::problem::Problem;

/// Conversations that are run alone once more, to see that they come out the same.
const COMPARED: usize = 4;

pub fn execute(args: &BenchArgs, number: usize) -> Result<Exit, Failure> {
    let what = match (&args.model, &args.shape) {
        (_, Some(shape)) => Measured::Shape(shape.clone()),
        (Some(model), None) => Measured::Model(model.clone()),
        (None, None) => return Err(Failure::from(Problem::new("no model is named").hint("name one, or give --shape"))),
    };
    let rollouts = args.rollouts.as_deref().map(read_rollouts).transpose()?;
    let request = GpuBenchRequest {
        batches: args.batch.clone(),
        contexts: args.context.clone(),
        steps: args.tokens,
        captures: vec![(8, 4), (8, 32)],
        prompt: args.context.iter().copied().max().unwrap_or(0),
        compared: COMPARED,
        rollouts,
    };
    let weights = args.dtype.map(WeightType::from);
    let options = EngineOptions { weights, ..EngineOptions::default() };
    let mut say = |line: &str| stderr(&format!("{line}\n"));
    let bench = session::measure_gpu(number, &what, &options, &request, &mut say)?;
    if args.json {
        stdout(&format!("{:#}\n", serde_json::json!(bench)))?;
    } else {
        stdout(&table(&bench))?;
    }
    Ok(Exit::Done)
}

fn read_rollouts(path: &Path) -> Result<Rollouts, Problem> {
    let at = |problem: Problem| problem.at(path.display().to_string());
    let text = fs::read_to_string(path).map_err(|error| at(Problem::new(format!("it cannot be read: {error}"))))?;
    serde_json::from_str(&text).map_err(|error| {
        at(Problem::new(format!("these are no lengths of rollouts: {error}")))
            .hint("it holds, by condition, `user` [turn], `system` and `reply` [sample][turn], all in tokens")
    })
}

fn table(bench: &GpuBench) -> String {
    let percent = |x: f64| format!("{:.1} %", 100.0 * x);
    let mut text = format!(
        "device     {} ({}, {:.2} GB of linear weights), copies {:.2} TB/s\n",
        escape(&bench.device),
        bench.dtype,
        bench.weight_bytes as f64 / 1e9,
        bench.memory_bytes_per_s / 1e12
    );
    if let Some(row) = &bench.prefill {
        text += &format!(
            "prefill    {} tokens: {:.0} tokens/s, {:.0} TFLOP/s\n",
            row.tokens,
            row.tokens_per_s,
            row.flops / 1e12
        );
    }
    for row in &bench.decode {
        text += &format!(
            "decode     x{:<3} at {:>5}: {:>8.3} ms a step, {:>7.0} tokens/s, floor {:.3} ms, {} of it\n",
            row.batch,
            row.context,
            row.step_ms,
            row.tokens_per_s,
            row.floor_ms,
            percent(row.share_of_floor)
        );
    }
    for row in &bench.capture {
        text += &format!(
            "capture    {} axes at {} sites, x{} at {}: {:.3} ms instead of {:.3} ms, {:+.2} %\n",
            row.axes,
            row.sites,
            row.batch,
            row.context,
            row.step_ms,
            row.step_ms_without,
            100.0 * row.overhead
        );
    }
    if let Some(row) = &bench.independence {
        text += &format!(
            "the same   {} of {} tokens and {} of {} projections differ: {} together, backwards, and {} alone\n",
            row.differing_tokens, row.tokens, row.differing_projections, row.projections, row.together, row.compared
        );
    }
    if let Some(row) = &bench.rollouts {
        text += &format!(
            "rollouts   {} conversations, {} tokens drawn and {} fed ({} twice), {} steps: {:.1} s\n",
            row.conversations, row.generated_tokens, row.forward_tokens, row.repeated, row.steps, row.seconds
        );
    }
    text
}
