//! Owns `bench`: its arguments and its table.
//! Must not know: inference, HTTP.

use std::path::PathBuf;

use clap::Args;

use super::{
    Exit, Failure,
    args::{DtypeChoice, parse_count, parse_device},
    gpu_bench,
    terminal::{escape, stdout},
};
use crate::session::{self, Bench, BenchRequest, Device, EngineOptions, KvType, WeightType};
use tiltmeter_model::problem::Problem;

/// Measure how fast a model runs on this machine.
///
/// Prefill, decoding of several batches and capture, each beside what the machine can do at best, which is measured first. Nothing else
/// should run meanwhile.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  tiltmeter bench data/models/quay
  tiltmeter bench allenai/Olmo-3-7B-Instruct --batch 1,16 --context 2048
  tiltmeter bench data/models/quay --threads 1 --json
  tiltmeter bench allenai/Olmo-3-7B-Instruct --device cuda --batch 16,48 --context 2048,4096
  tiltmeter bench --shape tests/gpu/olmo3_7b.json --device cuda --batch 1,16")]
pub struct BenchArgs {
    /// Folder or hub id
    #[arg(value_name = "MODEL", required_unless_present = "shape")]
    pub model: Option<String>,
    /// Conversations decoded together; several, with commas between
    #[arg(long, value_name = "N", value_delimiter = ',', default_values_t = [1, 4, 16], value_parser = parse_count)]
    pub batch: Vec<usize>,
    /// Tokens that each conversation has already; several, with commas between, on a GPU
    #[arg(long, value_name = "TOKENS", value_delimiter = ',', default_values_t = [512], value_parser = parse_count)]
    pub context: Vec<usize>,
    /// Tokens that each then draws
    #[arg(long, value_name = "N", default_value = "32", value_parser = parse_count)]
    pub tokens: usize,
    /// Device: auto (a GPU if available), cpu, cuda (the first GPU) or cuda:N
    #[arg(long, value_name = "DEVICE", default_value = "auto", value_parser = parse_device)]
    pub device: Device,
    /// Type in which the weights are held [default: the one they have]
    #[arg(long, value_enum)]
    pub dtype: Option<DtypeChoice>,
    /// Type in which keys and values are kept [default: bf16 if the weights are, else f32]
    #[arg(long, value_enum)]
    pub kv: Option<DtypeChoice>,
    /// CPU threads [default: all cores]
    #[arg(long, value_name = "N", value_parser = parse_count)]
    pub threads: Option<usize>,
    /// On a GPU: a model of the shape of this config.json, with weights that say nothing
    #[arg(long, value_name = "FILE", conflicts_with = "model")]
    pub shape: Option<PathBuf>,
    /// On a GPU: also whole conversations of the lengths that this JSON file holds
    #[arg(long, value_name = "FILE")]
    pub rollouts: Option<PathBuf>,
    /// Print JSON instead of a table
    #[arg(long)]
    pub json: bool,
}

pub fn execute(args: &BenchArgs) -> Result<Exit, Failure> {
    if let Device::Cuda(number) = args.device {
        return gpu_bench::execute(args, number);
    }
    let (Some(model), [context], None, None) = (&args.model, &args.context[..], &args.shape, &args.rollouts) else {
        return Err(Failure::from(
            Problem::new("--shape, --rollouts and several contexts are for GPUs").hint("add --device cuda"),
        ));
    };
    let (weights, kv) = (args.dtype.map(WeightType::from), args.kv.map(KvType::from));
    let options = EngineOptions { weights, kv, threads: args.threads, ..EngineOptions::default() };
    let request = BenchRequest { batches: args.batch.clone(), context: *context, tokens: args.tokens };
    let bench = session::bench_local(model, args.device, &options, &request)?;
    if args.json {
        stdout(&format!("{:#}\n", serde_json::json!(bench)))?;
    } else {
        stdout(&table(&bench))?;
    }
    Ok(Exit::Done)
}

fn table(bench: &Bench) -> String {
    let giga = |x: f64| x / 1e9;
    let percent = |x: f64| format!("{:.0} %", 100.0 * x);
    let mut text = format!(
        "model      {} ({}, {:.1} MB of linear weights, keys and values in {}, loaded in {:.2} s)\n\
         machine    {} threads, {}: reads {:.1} GB/s, {:.0} GFLOP/s at best\n\n\
         {:<10} {:>7} {:>10} {:>9} {:>8} {:>8} {:>9} {:>8}\n",
        escape(&bench.model),
        bench.dtype,
        bench.weight_bytes as f64 / 1e6,
        bench.kv_dtype,
        bench.load_s,
        bench.threads,
        bench.isa,
        giga(bench.read_bytes_per_s),
        giga(bench.peak_flops),
        "",
        "context",
        "tokens/s",
        "ms",
        "GB/s",
        "of read",
        "GFLOP/s",
        "of peak",
    );
    let prefill = &bench.prefill;
    text += &format!(
        "{:<10} {:>7} {:>10.1} {:>9.2} {:>8} {:>8} {:>9.1} {:>8}\n",
        "prefill",
        prefill.tokens,
        prefill.tokens_per_s,
        1e3 * prefill.tokens as f64 / prefill.tokens_per_s,
        "",
        "",
        giga(prefill.flops),
        percent(prefill.share_of_peak)
    );
    for row in &bench.decode {
        text += &format!(
            "{:<10} {:>7} {:>10.1} {:>9.2} {:>8.1} {:>8} {:>9.1} {:>8}\n",
            format!("decode x{}", row.batch),
            row.context,
            row.tokens_per_s,
            1e3 * row.step_s,
            giga(row.bytes_per_s),
            percent(row.share_of_read),
            giga(row.flops),
            percent(row.share_of_peak)
        );
    }
    let capture = &bench.capture;
    text + &format!(
        "\ncapture    {} axes at {} sites: a step of {:.2} ms instead of {:.2} ms, {:+.1} %\n",
        capture.axes,
        capture.sites,
        1e3 * capture.step_s,
        1e3 * capture.step_s_without,
        100.0 * capture.overhead
    )
}
